"""What a person decides: mappings that the files leave open, and whether to go on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from llmops.data import UNDECIDED
from llmops.errors import UserError
from llmops.files import parse_yaml
from llmops.onboarding.proposal import Document, Proposal, Question


def terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(proposal: Proposal) -> None:
    """Ask each open question on a terminal; without one, or an answer, the mark stays."""
    if not terminal():
        return
    for question in list(proposal.questions):
        print(f"\n{question.words}")
        for number, choice in enumerate(question.choices, start=1):
            print(f"  {number}  {choice}")
        answer = _answer("A number, a value of your own, or Enter to decide later: ")
        if answer.isdecimal() and 1 <= int(answer) <= len(question.choices):
            answer = question.choices[int(answer) - 1]
        if answer:
            settle(proposal, question, answer)


def agreed(what: str) -> bool:
    """Whether a person, or a line that is piped in, says yes."""
    return _answer(f"\n{what} [y/N] ").lower() in ("y", "yes")


def settle(proposal: Proposal, question: Question, answer: Any) -> None:
    """Put the answer into its document."""
    *keys, last = question.place
    block: Any = proposal.documents[question.file]
    for key in keys:
        block = block[key]
    block[last] = answer
    proposal.questions.remove(question)


def keep_answers(proposal: Proposal, root: Path) -> None:
    """Take over what was decided in the files that an earlier import wrote."""
    for question in list(proposal.questions):
        found = _value(existing(root / question.file), question.place)
        if found is not None and not str(found).startswith(UNDECIDED):
            settle(proposal, question, found)


def existing(path: Path) -> Document | None:
    """An experiment file that is there; null if it is not, or is not one.

    Raises:
        UserError: it cannot be read as text.
    """
    try:
        document = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}.") from error
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _value(block: Any, place: tuple[str | int, ...]) -> Any:
    """What stands at a place of a document; null where the document has no such place."""
    for key in place:
        try:
            block = block[key]
        except (KeyError, IndexError, TypeError):
            return None
    return block


def _answer(words: str) -> str:
    print(words, end="", flush=True)
    return sys.stdin.readline().strip()
