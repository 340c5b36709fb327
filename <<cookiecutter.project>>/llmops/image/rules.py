"""What is wrong with an image's context before anything is built from it: rules, names, secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from llmops.onboarding import keys

DOCKERFILE, IGNORE = "Dockerfile", ".dockerignore"
SHORTEST = 12
"""Characters of a secret that is looked for; a shorter one would be found everywhere."""
_HIDDEN = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|CONNECTION_STRING", re.I)
_TOOLS = re.compile(
    r"\b(build-essential|gcc|g\+\+|clang|cargo|rustup|python3-dev|pip3? .*install)\b"
)


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile; `line` is where it begins, `value` without continuations."""

    line: int
    name: str
    value: str


def parse(dockerfile: str) -> Iterator[Instruction]:
    """The instructions of a Dockerfile in their order, comments left out."""
    begun, words = 0, ""
    for number, line in enumerate(dockerfile.splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        begun = begun or number
        words += text.removesuffix("\\")
        if not text.endswith("\\"):
            name, _, value = words.partition(" ")
            yield Instruction(begun, name.upper(), value.strip())
            begun, words = 0, ""


def stages(instructions: Iterable[Instruction]) -> list[list[Instruction]]:
    """The instructions from each FROM to the next; what stands before the first is in none."""
    found: list[list[Instruction]] = []
    for one in instructions:
        if one.name == "FROM":
            found.append([])
        if found:
            found[-1].append(one)
    return found


def problems(context: Mapping[str, Path], hidden: Mapping[str, str]) -> list[str]:
    """Every problem of a context, one sentence each; `hidden` are secrets by their variable."""
    every = list(parse(_text(context[DOCKERFILE])))
    where = f"environment/{DOCKERFILE}"
    return [
        *(f"{where}: line {line}: {what}" for line, what in _instructions(every)),
        *(f"{where}: {what}" for what in _last(stages(every))),
        *_left_out(context),
        *_secrets(context, hidden),
    ]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _instructions(every: Sequence[Instruction]) -> Iterator[tuple[int, str]]:
    """What is wrong with an instruction by itself."""
    names = {one.value.split()[-1] for one in every if re.search(r" as \S+$", one.value, re.I)}
    for one in every:
        if one.name == "FROM" and not _pinned(one.value, names):
            yield one.line, "FROM names no version. Write one behind a colon, or a digest."
        if one.name == "ADD":
            yield one.line, "ADD may unpack or fetch. Write COPY."
        if one.name in ("ENV", "ARG") and (secret := _secret_name(one.value)):
            yield (
                one.line,
                f"{one.name} {secret}: `docker history` shows it to everyone. Give it when the "
                "container starts: docker run --env-file.",
            )
        if re.search(r"\bpip3?\b.* install ", one.value) and "--require-hashes" not in one.value:
            yield one.line, "pip without --require-hashes: the image would change by itself."


def _pinned(value: str, stages: Iterable[str]) -> bool:
    image = next(word for word in value.split() if not word.startswith("--"))
    name = image.rpartition("/")[2]
    tag = name.partition(":")[2]
    return image in (*stages, "scratch") or "@" in name or tag not in ("", "latest")


def _secret_name(value: str) -> str:
    names = re.findall(r"(?:^|\s)([A-Za-z_]\w*)(?==|\s|$)", value)
    return next((name for name in names if _HIDDEN.search(name)), "")


def _last(stages: Sequence[Sequence[Instruction]]) -> Iterator[str]:
    """What is wrong with the stage that becomes the image."""
    if not stages:
        yield "no FROM."
        return
    last = {one.name: one for one in stages[-1]}
    user = last["USER"].value.partition(":")[0] if "USER" in last else "root"
    if not user.isdecimal() or int(user) == 0:
        yield f"USER: '{user}'. Let a number other than 0 run it, as USER 10001:10001."
    start = [last[name] for name in ("CMD", "ENTRYPOINT") if name in last]
    if not start or not all(_is_list(one.value) for one in start):
        yield 'CMD: expected a list, as CMD ["python", "-m", "x"]: a shell passes no signal on.'
    if "HEALTHCHECK" not in last:
        yield "HEALTHCHECK: none. Docker would take a server that hangs for a healthy one."
    for one in stages[-1]:
        if one.name == "RUN" and (tool := _TOOLS.search(one.value)):
            yield f"line {one.line}: {tool[1]} in the last stage. Build in an earlier one; COPY."


def _is_list(value: str) -> bool:
    try:
        return isinstance(json.loads(value), list)
    except ValueError:
        return False


def _left_out(context: Mapping[str, Path]) -> Iterator[str]:
    """Files that the context must not hold: Docker would leave them out, others would not."""
    lines = _text(context[IGNORE]).splitlines() if IGNORE in context else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    for name in context:
        if ignored(name, patterns):
            yield f"{name}: environment/{IGNORE} leaves it out. Take it away, or change the list."


def ignored(name: str, patterns: Iterable[str]) -> bool:
    """Whether the lines of a .dockerignore leave a file out; the last that fits decides."""
    found = False
    for pattern in patterns:
        plain = pattern.lstrip("!").strip("/")
        if plain.startswith("**/"):
            fits = any(fnmatchcase(part, plain[3:]) for part in name.split("/"))
        else:
            fits = fnmatchcase(name, plain) or name.startswith(f"{plain}/")
        found = not pattern.startswith("!") if fits else found
    return found


def _secrets(context: Mapping[str, Path], hidden: Mapping[str, str]) -> Iterator[str]:
    for name, path in context.items():
        data = path.read_bytes()
        for variable, value in hidden.items():
            if len(value) >= SHORTEST and value.encode() in data:
                yield f"{name}: holds the value of {variable}. Take it out."
        if not name.endswith("requirements.txt") and (key := keys.find(data)):
            place = f"line {key.line}" if key.line else "it"
            yield f"{name}: {place} holds what looks like {key.kind}. Take it out; put it in .env."


def hidden(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables whose names say that they are secrets."""
    return {name: text for name, text in variables.items() if _HIDDEN.search(name)}
