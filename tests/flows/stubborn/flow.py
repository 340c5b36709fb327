"""Leaves behind whatever a flow can leave behind: a thread, processes and a temporary file."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ONE_AT_A_TIME = threading.Lock()


def run(text: str, wait: float = 0) -> dict[str, float]:
    threading.Thread(target=time.sleep, args=(600,)).start()
    with ONE_AT_A_TIME:  # a fork amid another row's Popen would hold on to its pipe
        child = subprocess.Popen(["sleep", "600"])
        if os.fork() == 0:
            time.sleep(600)
        subprocess.run(["cat"], check=True)  # ends at once: a flow has no stdin
    Path(tempfile.gettempdir(), f"left-by-{child.pid}").write_text(text, encoding="utf-8")
    time.sleep(wait)
    return {"length": len(text)}
