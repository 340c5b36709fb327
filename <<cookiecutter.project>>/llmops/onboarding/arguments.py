"""What the class of a flex flow is made with, where the flow's own sample does not say it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llmops import code
from llmops.connections import AZURE_OPENAI, OPENAI
from llmops.onboarding.interface import Interface, entry, initial
from llmops.onboarding.source import yaml_files

CONFIGURATIONS = {
    "AzureOpenAIModelConfiguration": AZURE_OPENAI,
    "OpenAIModelConfiguration": OPENAI,
}
NAMES = {AZURE_OPENAI: "aoai", OPENAI: "openai"}
MODELS = {AZURE_OPENAI: "azure_deployment", OPENAI: "model"}
MODEL = "gpt-4o-mini"
SECRET = re.compile(r"(^|_)(key|secret|password|token)$")
VARIABLE = re.compile(r"""^(?:os\.)?(?:environ\[|environ\.get\(|getenv\()['"](\w+)['"]""")


def complete(
    interface: Interface, runs: list[dict[str, Any]]
) -> tuple[Interface, dict[str, Any], list[str]]:
    """The interface with all arguments known, those to write into experiment.yaml, and notes.

    They come from a run file, or else from the hints of the class and from the example under
    `if __name__ == "__main__":`. `runs` are run files' contents.
    """
    hints = {name: given.hint for name, given in initial(interface.flow).items()}
    takes = interface.flow.takes.items()
    wanted = [name for name, required in takes if required and name not in interface.init]
    if not wanted:
        return interface, {}, []
    for block in (run.get("init") for run in runs):
        if isinstance(block, dict) and not _holds_secret(block):
            return replace(interface, init=block), block, []
    found = {name: _guess(interface, name, hints.get(name, "")) for name in wanted}
    init = {name: value for name, value in found.items() if value is not None}
    return (
        replace(interface, init=interface.init | init),
        init,
        list(_notes(interface, init, wanted)),
    )


def _notes(interface: Interface, init: Mapping[str, Any], wanted: list[str]) -> Iterator[str]:
    file = interface.flow.file
    if init:
        yield f"{file}: its class is made with {', '.join(init)}: see whether `init` is right."
    if missing := [name for name in wanted if name not in init]:
        yield f"{file}: its class is made with {', '.join(missing)}: say so under `init`."


def _guess(interface: Interface, name: str, hint: str) -> Any:
    """A model configuration or the name of a connection; null for anything else."""
    kind = next((k for word, k in CONFIGURATIONS.items() if re.search(rf"\b{word}\b", hint)), "")
    if not (kind or hint) and name == "model_config":  # as every example of prompt flow calls it
        kind = AZURE_OPENAI
    if kind:
        return _example(interface, kind) or {"connection": NAMES[kind], MODELS[kind]: MODEL}
    if re.search(r"\w+Connection\b", hint):
        return _connection_beside(interface, hint) or name
    return None


def _example(interface: Interface, kind: str) -> dict[str, Any]:
    """The arguments of a model configuration that the flow's module makes somewhere."""
    tree = code.parse(entry(interface.flow)[0])
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Call):
            word = ast.unparse(node.func).rpartition(".")[2]
            given = {k.arg: _value(k.value) for k in node.keywords if k.arg}
            known = {key: value for key, value in given.items() if value is not None}
            if CONFIGURATIONS.get(word) == kind and known and not _holds_secret(known):
                return known
    return {}


def _value(node: ast.expr) -> Any:
    """What an argument spells out, also as a variable of the environment."""
    found = VARIABLE.match(ast.unparse(node))
    return f"${{env:{found[1]}}}" if found else code.literal(node)


def _connection_beside(interface: Interface, hint: str) -> str:
    """The name in the only connection file beside the flow whose type the hint has."""
    names = set()
    for _, document in yaml_files(interface.flow.folder):
        kind = document.get("type")
        if isinstance(kind, str) and kind.replace("_", "") + "connection" in hint.lower():
            names.add(str(document.get("name")))
    return names.pop() if len(names) == 1 else ""


def _holds_secret(block: Any) -> bool:
    """Whether a key stands in it itself, not as `${env:…}`."""
    if not isinstance(block, Mapping):
        return False
    return any(
        _holds_secret(value)
        or (isinstance(value, str) and SECRET.search(str(key)) and not value.startswith("${env:"))
        for key, value in block.items()
    )
