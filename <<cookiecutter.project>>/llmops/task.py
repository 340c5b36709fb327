"""How every script ends: an exit code, and one message instead of a traceback."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from llmops import settings
from llmops.config import DEFAULT_ENV
from llmops.errors import USER_ERROR, Stopped, UserError
from llmops.settings import Settings


def main(stage: Callable[[Settings], int], default_env: str = DEFAULT_ENV) -> None:
    """Run a stage with the settings of the environment and exit with its code.

    `default_env` is the ENV where none is set.

    0 = done, 1 = the user must fix something, 2 = rows failed or the gate failed, 130 or 143 =
    stopped by a signal.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        code = stage(settings.read(default_env=default_env))
    except UserError as error:
        print(error, file=sys.stderr)
        code = USER_ERROR
    except Stopped as error:
        print(error, file=sys.stderr)
        code = error.code
    # Python collects garbage once more at its end: a second and more for an SDK's modules.
    gc.freeze()
    sys.exit(code)


def _stop(number: int, _: object) -> NoReturn:
    raise Stopped(number)
