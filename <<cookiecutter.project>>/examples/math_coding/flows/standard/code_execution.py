"""Run the program that the model wrote and take the last line it prints as the answer.

The program runs in a child process, never in the flow's own; `sandbox.py` says what it may do
there. From outside, the child gets a limit of time and of output, and its whole process group is
killed at the end. Whatever goes wrong with the program becomes the answer `error: <reason>`, which
the evaluation counts as wrong; the row itself does not fail.

Safe to call from many threads. The child's start costs about 30 ms on a free core.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from promptflow.core import tool

WALL_SECONDS = 5.0
MAX_OUTPUT_BYTES = 10_000
MAX_PROGRAM_BYTES = 10_000  # fits the pipe, so that writing it never blocks
MAX_REASON = 200
OUT_OF_TIME = "the program ran out of time"
SANDBOX = Path(__file__).with_name("sandbox.py")
COMMAND = (sys.executable, "-I", "-S", "-B", "-X", "utf8", str(SANDBOX))

# No more programs at once than cores: a row's time limit must not depend on the other rows.
_slots = threading.BoundedSemaphore(os.cpu_count() or 1)


class ProgramError(Exception):
    """The program gave no answer; the message says why."""


@tool
def execute(code: str) -> str:
    """Run `code` and return the last line it prints, or `error: <reason>`.

    The reasons: no program, too long a program, a limit of time, memory or output, an exception
    (its type and message), nothing printed.
    """
    try:
        return run_program(code)
    except ProgramError as error:
        return f"error: {error}"


def run_program(code: str) -> str:
    """Run `code` in the sandbox and return the last line it prints; raises ProgramError."""
    program = code.encode("utf-8", errors="replace")
    if not program.strip():
        raise ProgramError("the model wrote no program")
    if len(program) > MAX_PROGRAM_BYTES:
        raise ProgramError(f"the program is longer than {MAX_PROGRAM_BYTES} bytes")
    output, exit_code = run_child(COMMAND, program)
    lines = [line.strip() for line in output.decode("utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    if exit_code < 0:
        raise ProgramError(_signal_reason(-exit_code))
    if exit_code > 0:
        raise ProgramError(last[:MAX_REASON].rstrip(" :") or f"exit code {exit_code}")
    if not last:
        raise ProgramError("the program printed nothing")
    return last


def run_child(command: Sequence[str], text: bytes) -> tuple[bytes, int]:
    """Run `command` with `text` on its standard input; returns its output and its exit code.

    Environment and working directory are empty. Raises ProgramError beyond WALL_SECONDS or
    MAX_OUTPUT_BYTES. Nothing of its process group is left when this returns.
    """
    with _slots, tempfile.TemporaryDirectory(prefix="math_coding_") as folder:
        deadline = time.monotonic() + WALL_SECONDS
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return _converse(child, text, deadline)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _converse(child: subprocess.Popen[bytes], text: bytes, deadline: float) -> tuple[bytes, int]:
    assert child.stdin and child.stdout
    with child.stdout:
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(text)
        output = _read(child.stdout.fileno(), deadline)
    try:
        return output, child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise ProgramError(OUT_OF_TIME) from error


def _read(pipe: int, deadline: float) -> bytes:
    output = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(output) <= MAX_OUTPUT_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise ProgramError(OUT_OF_TIME)
            chunk = os.read(pipe, MAX_OUTPUT_BYTES)
            if not chunk:
                return output
            output += chunk
    raise ProgramError(f"the program printed more than {MAX_OUTPUT_BYTES} bytes")


def _signal_reason(number: int) -> str:
    if number == signal.SIGXCPU:
        return OUT_OF_TIME
    return f"the program was ended by signal {number} ({signal.strsignal(number)})"
