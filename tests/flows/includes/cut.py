from __future__ import annotations

import os
from pathlib import Path

from promptflow.core import tool
from stem import stem


@tool
def cut(text: str) -> str:
    endings = Path("stems/endings.txt").read_text(encoding="utf-8").split()
    if text == "x":
        raise ValueError("nothing to cut")
    start = os.environ["PARITY_PREFIX"] + os.environ["PARITY_VERSION"]
    return f"{start} {stem(text, endings)}"
