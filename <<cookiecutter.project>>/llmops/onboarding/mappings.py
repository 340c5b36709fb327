"""Which column of the data, or which output of the standard flow, an input takes: by its name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.config import EXPERIMENT
from llmops.onboarding.interface import Input
from llmops.onboarding.proposal import Question, undecided

TRUTH = (
    "ground_truth gt truth label labels expected expected_answer expected_output expected_result "
    "target gold gold_answer reference reference_answer correct_answer true_label"
)
ANSWER = (
    "answer prediction predicted predictions output outputs response result results completion "
    "generated generated_answer generated_text model_output reply summary summarization"
)
QUESTION = "question query user_input user_query user_question prompt input message"
CONTEXT = "context contexts documents document passages retrieved_documents source sources"
HISTORY = "chat_history history conversation conversation_history messages"


def _plain(name: str) -> str:
    """The name without what people write differently: case, underscores, dashes, spaces."""
    return re.sub(r"[\W_]+", "", name).lower()


GROUPS = [
    frozenset(map(_plain, group.split())) for group in (TRUTH, ANSWER, QUESTION, CONTEXT, HISTORY)
]
IS_TRUTH, IS_ANSWER = GROUPS[0], GROUPS[1]


@dataclass(frozen=True)
class Place:
    """Where mappings stand: their file, the keys down to them, and the flow that they feed."""

    keys: tuple[str | int, ...]
    flow: str
    file: Path = Path(EXPERIMENT)


@dataclass
class Mapped:
    """Mappings by input, and what is open in them. `notes` are sentences for the user."""

    mappings: dict[str, Any] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def standard(inputs: Mapping[str, Input], columns: Collection[str], place: Place) -> Mapped:
    """What a standard flow takes of a dataset's columns.

    An input with a default that no column meets stays at its default; one without is asked for.
    """
    found = Mapped()
    for name, given in inputs.items():
        choices = candidates(name, _free(name, inputs, columns))
        if len(choices) == 1:
            found.mappings[name] = f"${{data.{choices[0]}}}"
        elif given.is_chat_history and given.required and not choices:
            found.mappings[name] = []
        elif given.required:
            _ask(found, place, name, [f"${{data.{c}}}" for c in choices or columns])
    return found


def evaluation(
    inputs: Mapping[str, Input],
    columns: Collection[str],
    outputs: Collection[str] | None,
    place: Place,
) -> Mapped:
    """What an evaluation flow takes of the dataset and of the standard flow's outputs.

    `outputs` is null where the flow's files do not name them. A default of an input that is to be
    judged or judged by is an example, not an answer: such an input is asked for all the same.
    """
    found = Mapped()
    for name, given in inputs.items():
        choices = _of_data_and_run(name, inputs, columns, outputs or ())
        judged = _plain(name) in IS_TRUTH | IS_ANSWER
        if len(choices) == 1:
            found.mappings[name] = choices[0]
        elif given.is_chat_history and given.required and not choices:
            found.mappings[name] = []
        elif given.required or judged or choices:
            _ask(found, place, name, choices or _all(name, columns, outputs or ()))
        else:
            found.notes.append(f"{place.flow}: input '{name}' stays at its default.")
    return found


def valid(
    known: Mapping[str, Any], columns: Collection[str], outputs: Collection[str] | None
) -> dict[str, Any]:
    """Those of the mappings that refer to what is there; literals are."""
    there = {f"${{data.{column}}}" for column in columns}
    there |= {f"${{run.outputs.{output}}}" for output in outputs or ()}
    return {k: v for k, v in known.items() if "${" not in str(v) or v in there}


def candidates(name: str, others: Collection[str]) -> list[str]:
    """Those of the names that mean the same: the nearest kind of match that there is.

    Exactly, then but for case and underscores, then as a word that is used for the same thing.
    """
    if name in others:
        return [name]
    plain = _plain(name)
    if near := [other for other in others if _plain(other) == plain]:
        return near
    same = frozenset().union(*(group for group in GROUPS if plain in group))
    return [other for other in others if _plain(other) in same]


def meets(inputs: Iterable[str], columns: Collection[str]) -> list[str]:
    """Those of the inputs that a column can be found for."""
    return [name for name in inputs if candidates(name, columns)]


def is_truth(column: str) -> bool:
    """Whether a column's name says that it holds what is right."""
    return _plain(column) in IS_TRUTH


def _of_data_and_run(
    name: str, inputs: Mapping[str, Input], columns: Collection[str], outputs: Collection[str]
) -> list[str]:
    free = _free(name, inputs, columns)
    data = [f"${{data.{c}}}" for c in candidates(name, free)]
    run = [f"${{run.outputs.{o}}}" for o in candidates(name, _free(name, inputs, outputs))]
    if _plain(name) in IS_TRUTH:
        # What the data calls an answer was there before the flow answered: it is the right one.
        answers = [f"${{data.{c}}}" for c in columns if _plain(c) in IS_ANSWER]
        return data or answers
    if _plain(name) in IS_ANSWER:
        return run or ([f"${{run.outputs.{o}}}" for o in outputs] if len(outputs) == 1 else [])
    exact = [f"${{run.outputs.{name}}}"] if name in outputs else []
    return exact or (data if name in columns else []) or run or data


def _free(name: str, inputs: Mapping[str, Input], names: Collection[str]) -> list[str]:
    """The names without those that belong to another input."""
    return [other for other in names if other == name or other not in inputs]


def _all(name: str, columns: Collection[str], outputs: Collection[str]) -> list[str]:
    """Every value that an input could take, the likely kind first."""
    data = [f"${{data.{column}}}" for column in columns]
    run = [f"${{run.outputs.{output}}}" for output in outputs]
    return [*data, *run] if _plain(name) in IS_TRUTH else [*run, *data]


def _ask(found: Mapped, place: Place, name: str, choices: list[str]) -> None:
    found.mappings[name] = undecided(tuple(choices))
    where = ".".join(map(str, place.keys))
    words = (
        f"{place.file}: {where}.{name}: which value does the input '{name}' of {place.flow} take?"
    )
    found.questions.append(Question(place.file, (*place.keys, name), words, tuple(choices)))
