"""95 % intervals of a share, of a median, and of the difference of two figures."""

from __future__ import annotations

import math
from collections.abc import Iterable

Interval = tuple[float, float]
Z = 1.959964


def wilson(count: int, total: int) -> Interval:
    """The 95 % interval of a share (Wilson, Journal of the American Statistical Association, 1927).

    Raises:
        ZeroDivisionError: the total is 0.
    """
    share, square = count / total, Z * Z / total
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square * square / 4) / (1 + square)
    return (max(0.0, middle - half), min(1.0, middle + half))


def median_interval(values: Iterable[float]) -> Interval | None:
    """The 95 % interval of a median by ranks (David and Nagaraja, Order Statistics, 2003, 7.1).

    Null with fewer than 6 values: not even the least and the greatest are enough.
    """
    ordered = sorted(values)
    size = len(ordered)
    if size < 6:
        return None
    low = max(1, math.floor((size - Z * math.sqrt(size)) / 2))
    return ordered[low - 1], ordered[size - low]


def apart(new: float, new_ci95: Interval, old: float, old_ci95: Interval) -> Interval:
    """The interval of `new - old` of independent figures, from the interval of each (MOVER)."""
    down = math.hypot(new - new_ci95[0], old_ci95[1] - old)
    up = math.hypot(new_ci95[1] - new, old - old_ci95[0])
    return new - old - down, new - old + up
