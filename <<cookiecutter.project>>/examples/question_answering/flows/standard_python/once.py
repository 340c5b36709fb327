"""What is made once in a process, whatever number of threads ask for it at the same time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from threading import Lock
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


def once(make: Callable[P, T]) -> Callable[P, T]:
    """As `functools.cache`, which lets each of several threads that come first make one."""
    lock, made = Lock(), cast("Callable[P, T]", cache(make))

    @wraps(make)
    def one(*args: P.args, **kwargs: P.kwargs) -> T:
        with lock:
            return made(*args, **kwargs)

    return one
