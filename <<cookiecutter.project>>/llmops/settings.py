"""What a person or a workflow sets for one task: ENV, VARIANTS, CONCURRENCY and the like."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from llmops.config import DEFAULT_ENV, MOST_AT_ONCE, words
from llmops.errors import UserError

Target = Literal["local", "azure", "azure-pipeline"]
TARGETS = get_args(Target)
To = Literal["python", "agent-framework"]
TOS = get_args(To)
FLAGS = ("0", "1", "false", "true")
STEPS = (1, 10, 50, 100)
"""Percent of the traffic that a new deployment takes, one step after the other."""
REQUESTS = 30


@dataclass(frozen=True)
class Period:
    """Days from `first` to `last`, both among them; no `last`: until now."""

    first: datetime.date
    last: datetime.date | None = None

    def __str__(self) -> str:
        return f"{self.first} to {self.last or 'now'}"

    def touches(self, folder: str) -> bool:
        """Whether a folder yyyy, yyyy/MM, yyyy/MM/dd and so on has a time of these days."""
        size = len(folder[:10])
        first, last = f"{self.first:%Y/%m/%d}", f"{self.last or datetime.date.max:%Y/%m/%d}"
        return first[:size] <= folder[:size] <= last[:size]


@dataclass(frozen=True)
class Settings:
    """One task's variables; empty `variants` or no `concurrency`: experiment.yaml decides."""

    env: str = DEFAULT_ENV
    target: Target = "local"
    variants: tuple[str, ...] = ()
    concurrency: int | None = None
    fresh: bool = False
    llm: str | None = None
    inputs: str = ""
    kind: str | None = None
    plan: bool = False
    wait_s: float = 600
    force: str = ""
    log: str = ""
    base: str = ""
    runs: tuple[str, ...] = ()
    version: str = ""
    sample: int | None = None
    since: Period | None = None
    source: str = ""
    evaluator: str = ""
    flow: str = ""
    to: To = "python"
    data: str = ""
    yes: bool = False
    tag: str = ""
    context_only: bool = False
    port: int | None = None
    status: bool = False
    down: bool = False
    steps: tuple[int, ...] = STEPS
    requests: int = REQUESTS
    a: str = ""
    b: str = ""
    judge: bool = False
    prune: bool = False


def read(environment: Mapping[str, str] = os.environ, default_env: str = DEFAULT_ENV) -> Settings:
    """The settings of this task; an empty variable counts as unset.

    Raises:
        UserError: a value that is not one of the choices.
    """
    given = {name: value.strip() for name, value in environment.items() if value.strip()}
    concurrency = given.get("CONCURRENCY")
    return Settings(
        env=given.get("ENV", default_env),
        target=cast(Target, _choice(given, "TARGET", TARGETS, "local")),
        variants=tuple(words(given["VARIANTS"])) if "VARIANTS" in given else (),
        concurrency=_rows_at_once(concurrency) if concurrency else None,
        fresh=_flag(given, "FRESH"),
        llm=given.get("LLM"),
        inputs=given.get("INPUTS", ""),
        kind=given.get("KIND"),
        plan=_flag(given, "PLAN"),
        wait_s=_seconds(given.get("WAIT", "600")),
        force=given.get("FORCE", ""),
        log=given.get("LOG", ""),
        base=given.get("BASE", ""),
        version=given.get("VERSION", ""),
        runs=tuple(words(given.get("RUNS", ""))),
        sample=_rows(given["SAMPLE"], "SAMPLE") if "SAMPLE" in given else None,
        since=_period(given["SINCE"]) if "SINCE" in given else None,
        source=given.get("FROM", ""),
        evaluator=given.get("EVALUATOR", ""),
        flow=given.get("FLOW", ""),
        to=cast(To, _choice(given, "TO", TOS, "python")),
        data=given.get("DATA", ""),
        yes=_flag(given, "YES"),
        tag=given.get("TAG", ""),
        context_only=_flag(given, "CONTEXT_ONLY"),
        port=_port(given["PORT"]) if "PORT" in given else None,
        status=_flag(given, "STATUS"),
        down=_flag(given, "DOWN"),
        steps=_steps(given["STEPS"]) if "STEPS" in given else STEPS,
        requests=_rows(given["REQUESTS"], "REQUESTS") if "REQUESTS" in given else REQUESTS,
        a=given.get("A", ""),
        b=given.get("B", ""),
        judge=_flag(given, "JUDGE"),
        prune=_flag(given, "PRUNE"),
    )


def whole(text: str, digits: int) -> int | None:
    """The number that a text of at most so many digits is; null where it is something else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= digits else None


def _rows_at_once(text: str) -> int:
    number = whole(text, 8)
    if number is None or not 1 <= number <= MOST_AT_ONCE:
        raise UserError(f"CONCURRENCY: '{text}' (expected a number from 1 to {MOST_AT_ONCE}).")
    return number


def _rows(text: str, name: str) -> int:
    number = whole(text, 9)
    if not number:
        what = {"SAMPLE": "rows"}.get(name, "requests")
        raise UserError(f"{name}: '{text}' (expected a number of {what}, 1 or more).")
    return number


def _steps(text: str) -> tuple[int, ...]:
    """Percentages, each more than the one before, the last one 100."""
    numbers = [whole(word, 3) for word in words(text)]
    found = tuple(number for number in numbers if number)
    if len(found) < len(numbers) or found[-1:] != (100,) or sorted({*found}) != [*found]:
        raise UserError(
            f"STEPS: '{text}' (expected percentages that rise and end with 100, as 1,10,50,100)."
        )
    return found


def _port(text: str) -> int:
    number = whole(text, 5)
    if number is None or number > 65535:
        raise UserError(f"PORT: '{text}' (expected a number up to 65535; 0: any that is free).")
    return number


def _period(text: str) -> Period:
    first, _, last = text.partition("..")
    try:
        found = Period(
            datetime.date.fromisoformat(first),
            datetime.date.fromisoformat(last) if last else None,
        )
    except ValueError:
        found = None
    if found is None or (found.last and found.last < found.first):
        raise UserError(
            f"SINCE: '{text}' (expected a day, as 2026-11-01, or 2026-11-01..2026-11-07)."
        )
    return found


def _seconds(text: str) -> float:
    number = whole(text, 5)
    if number is None:
        raise UserError(f"WAIT: '{text}' (expected a number of seconds).")
    return float(number)


def _flag(given: Mapping[str, str], name: str) -> bool:
    return _choice(given, name, FLAGS, "0") in ("1", "true")


def _choice(given: Mapping[str, str], name: str, choices: tuple[str, ...], default: str) -> str:
    value = given.get(name, default)
    if value not in choices:
        raise UserError(f"{name}: '{value}' (expected one of {', '.join(choices)}).")
    return value
