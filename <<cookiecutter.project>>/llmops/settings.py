"""What a person or a workflow sets for one task: ENV, VARIANTS, CONCURRENCY and the like."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from llmops.config import DEFAULT_ENV, words
from llmops.errors import UserError

Target = Literal["local"]
TARGETS = ("local",)


@dataclass(frozen=True)
class Settings:
    """One task's variables; `variants` is empty and `concurrency` null where experiment.yaml decides."""

    env: str = DEFAULT_ENV
    target: Target = "local"
    variants: tuple[str, ...] = ()
    concurrency: int | None = None
    fresh: bool = False
    llm: str | None = None
    inputs: str = ""


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this task; an empty variable counts as unset.

    Raises:
        UserError: a value that is not one of the choices.
    """
    given = {name: value.strip() for name, value in environment.items() if value.strip()}
    concurrency = given.get("CONCURRENCY")
    if concurrency is not None and not (concurrency.isdigit() and int(concurrency) > 0):
        raise UserError(f"CONCURRENCY: '{concurrency}' is not a number of rows (expected 1 or more).")
    return Settings(
        env=given.get("ENV", DEFAULT_ENV),
        target=cast(Target, _choice(given, "TARGET", TARGETS, "local")),
        variants=tuple(words(given["VARIANTS"])) if "VARIANTS" in given else (),
        concurrency=int(concurrency) if concurrency else None,
        fresh=_choice(given, "FRESH", ("0", "1", "false", "true"), "0") in ("1", "true"),
        llm=given.get("LLM"),
        inputs=given.get("INPUTS", ""),
    )


def _choice(given: Mapping[str, str], name: str, choices: tuple[str, ...], default: str) -> str:
    value = given.get(name, default)
    if value not in choices:
        raise UserError(f"{name}: '{value}' (expected one of {', '.join(choices)}).")
    return value
