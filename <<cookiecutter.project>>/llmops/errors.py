"""What can go wrong, and the exit code that tells."""

from __future__ import annotations

OK = 0
USER_ERROR = 1
FAILED = 2


class UserError(Exception):
    """Something the user must fix. The message names file, key, value, choices and what to do."""


class BusyError(UserError):
    """Somebody else is changing the same thing just now, so nothing was done."""


class Stopped(KeyboardInterrupt):
    """The task was ended by a signal; the exit code is 128 and the signal's number.

    No `except Exception` of a library on the way must keep it from ending the task.
    """

    def __init__(self, number: int) -> None:
        super().__init__("stopped; finished rows are kept, the next run goes on from there")
        self.code = 128 + number
