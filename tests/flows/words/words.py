"""A flex flow of one function; prompt flow turns values into the types of its hints."""

from __future__ import annotations


def words(text: str, count: int, sign: str = "-") -> dict[str, object]:
    if count == 0:
        raise ZeroDivisionError("no words were asked for")
    first = text.split()[:count]
    return {"first": sign.join(first), "share": len(first) / count, "asked": count}
