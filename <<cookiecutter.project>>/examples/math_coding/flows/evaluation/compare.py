"""Score one answer against the true one."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from promptflow.core import tool

ERROR_PREFIX = "error:"
SIGNS = " \t$€£%"
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
FRACTION = re.compile(r"([+-]?\d{1,20})/(\d{1,20})")
MAX_MAGNITUDE = 1000  # decimal exponent; beyond it the arithmetic would overflow
WHOLE_NUMBER_TOLERANCE = Decimal("1e-6")


@tool
def compare(ground_truth: str, answer: str) -> dict[str, int]:
    """Return `correct` and `error`, each 0 or 1.

    `error` is 1 where the standard flow's program gave no answer (`error: …`); such an answer is
    never correct. Two numbers agree when they differ by no more than one unit of the last decimal
    place that the ground truth shows (0.01 for 3.25), so a whole number has to be met exactly. A
    currency sign, a percent sign and commas between thousands are ignored; a fraction like 3/4
    counts as a number. Anything else is compared as text, without regard to case and outer spaces.
    """
    error = answer.strip().lower().startswith(ERROR_PREFIX)
    return {"correct": int(not error and agree(ground_truth, answer)), "error": int(error)}


def agree(truth: str, answer: str) -> bool:
    """Whether the answer says the same as the truth, by the rule of `compare`."""
    expected, given = to_number(truth), to_number(answer)
    if expected is None or given is None:
        return truth.strip().casefold() == answer.strip().casefold()
    places = len(_bare(truth).partition(".")[2])
    tolerance = Decimal(1).scaleb(-places) if places else WHOLE_NUMBER_TOLERANCE
    return abs(expected - given) <= tolerance


def to_number(text: str) -> Decimal | None:
    """The finite number that the text is, else null."""
    bare = _bare(text)
    try:
        if fraction := FRACTION.fullmatch(bare):
            return Decimal(fraction.group(1)) / Decimal(fraction.group(2))
        number = Decimal(bare)
    except (InvalidOperation, ZeroDivisionError):
        return None
    return number if number.is_finite() and abs(number.adjusted()) <= MAX_MAGNITUDE else None


def _bare(text: str) -> str:
    bare = text.strip(SIGNS)
    return bare.replace(",", "") if THOUSANDS.fullmatch(bare) else bare
