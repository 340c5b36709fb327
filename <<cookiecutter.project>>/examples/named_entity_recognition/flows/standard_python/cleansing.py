"""Turn the model's answer into a list."""

from __future__ import annotations

import re

DECORATION = " \t\r\"'`*-•"


def cleansing(answer: str) -> list[str]:
    """Split an answer at commas and line breaks into entities.

    Blanks, quotes and bullets around an entity go, empty parts are dropped, and of entities that
    differ only in upper and lower case the first one stays.
    """
    distinct: dict[str, str] = {}
    for part in re.split(r"[,\n]", answer):
        if entity := part.strip(DECORATION):
            distinct.setdefault(entity.casefold(), entity)
    return list(distinct.values())
