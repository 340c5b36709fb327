"""A flex flow of one function; prompt flow turns values into the types of its hints."""

from typing import TypedDict


class Words(TypedDict):
    first: str
    share: float
    asked: int
    extra: str


def words(text: str, count: int, extra, sign: str = "-") -> Words:  # type: ignore[no-untyped-def]
    if count == 0:
        raise ZeroDivisionError("no words were asked for")
    first = text.split()[:count]
    share = len(first) / count
    return {"first": sign.join(first), "share": share, "asked": count, "extra": repr(extra)}
