"""Files of lines to which several processes append: a JSON object each, the time first."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.files import UNENCODABLE

PROBE = "probe-"
"""How the id of a request begins that a task sends as a test: nobody waits for its answer."""


def moment() -> str:
    """The time now, in UTC and to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def stamped(values: Mapping[str, Any]) -> bytes:
    """A line with the time and these values."""
    text = json.dumps({"time": moment(), **values}, ensure_ascii=False)
    return text.encode(errors=UNENCODABLE) + b"\n"


def appending(path: Path) -> int:
    """A descriptor whose writes go to the file's end, each whole; raises OSError.

    A file that is made is this user's alone.
    """
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
