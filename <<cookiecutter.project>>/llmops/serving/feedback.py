"""What people say of an answer, kept a line each for `make monitor`.

    {"time": "2026-11-20T09:03:12.123+00:00", "request_id": "…", "score": 1, "comment": "…"}

`request_id` is the `x-request-id` of the answer; `score` any number (1 and 0, -1, 1 to 5 …), where
more is better.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from llmops.files import end_last_line
from llmops.lines import appending, stamped
from llmops.serving.log import REQUEST_ID

FILE = "feedback.jsonl"
FOLDER = Path("runs/serving")
LONGEST_COMMENT = 4000


class Feedback:
    """The file in a folder, which is made when the first line comes."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.path = folder / FILE
        self._opened: int | None = None

    def add(self, said: dict[str, Any]) -> None:
        """Append a line at once, so that several processes may; raises OSError."""
        if self._opened is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            end_last_line(self.path)
            self._opened = appending(self.path)
        os.write(self._opened, stamped(said))


def problems(said: Any) -> list[str]:
    """What is wrong with a request's body, one sentence each."""
    if not isinstance(said, dict):
        return ["expected an object with request_id, score and comment"]
    found = [f"unknown key '{k[:80]}'" for k in said.keys() - {"request_id", "score", "comment"}]
    if not REQUEST_ID.fullmatch(str(said.get("request_id", ""))):
        found.append("request_id: expected the x-request-id of an answer")
    score = said.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        found.append("score: expected a number")
    comment = said.get("comment", "")
    if not isinstance(comment, str) or len(comment) > LONGEST_COMMENT:
        found.append(f"comment: expected a text of at most {LONGEST_COMMENT} characters")
    return found
