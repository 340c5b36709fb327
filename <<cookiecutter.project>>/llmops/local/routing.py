"""Which deployment answers a request: the one that a header names, else by the split of traffic."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Mapping

HEADER = "azureml-model-deployment"


def pick(traffic: Mapping[str, int], able: Collection[str], value: str | None) -> str | None:
    """A deployment that is `able` to answer, by its share; null where none with a share is.

    Requests with the same `value` go to the same one. When a later deployment's share grows, those
    that it had stay with it.
    """
    shares = {name: share for name, share in traffic.items() if share > 0}
    place = random.random() if value is None else _place(value)
    chosen = _at(shares, place)
    if chosen is None or chosen in able:
        return chosen
    return _at({name: share for name, share in shares.items() if name in able}, place)


def drawn(percent: int) -> bool:
    """True for so many percent of the calls."""
    return percent > 0 and random.random() * 100 < percent


def _at(shares: Mapping[str, int], place: float) -> str | None:
    """The deployment whose share holds a place between 0 and 1."""
    left = place * sum(shares.values())
    for name, share in shares.items():
        left -= share
        if left < 0:
            return name
    return None


def _place(value: str) -> float:
    digest = hashlib.sha256(value.encode(errors="replace")).digest()
    return int.from_bytes(digest[:6]) / 2**48
