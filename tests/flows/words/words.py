"""A flex flow of one function; prompt flow turns values into the types of its hints."""

from typing import TypedDict


class Words(TypedDict):
    first: str
    share: float
    asked: int


def words(text: str, count: int, sign: str = "-") -> Words:
    if count == 0:
        raise ZeroDivisionError("no words were asked for")
    first = text.split()[:count]
    return {"first": sign.join(first), "share": len(first) / count, "asked": count}
