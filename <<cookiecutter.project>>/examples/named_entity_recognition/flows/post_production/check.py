"""Check one answer of production without knowing the right one."""

from __future__ import annotations

import re

from promptflow.core import tool


@tool
def check(text: str, entities: list[str], feedback: float | None) -> dict[str, float | None]:
    """Say whether an answer is empty, and whether its text bears it out.

    `grounded` is 1 when every entity stands in the text as whole words, 0 when one does not, and
    None when there is no entity to look for. `feedback` is passed on (None: the user gave none).
    """
    return {
        "grounded": float(all(_occurs(entity, text) for entity in entities)) if entities else None,
        "empty": float(not entities),
        "entity_count": len(entities),
        "feedback": feedback,
    }


def _occurs(entity: str, text: str) -> bool:
    words = r"\s+".join(re.escape(word) for word in entity.split())
    return re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None
