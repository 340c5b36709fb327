"""Ask a deployed flow with the sample request, and judge what comes back.

Nothing here knows Azure: an address, headers and a request lead to a verdict.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from llmops.errors import UserError
from llmops.flows import Flow
from llmops.lines import PROBE

TIMEOUT_S = 120.0
PAUSES_S = (1.0, 3.0)
PASSING = (429, 503)
"""Answers of a service that is busy or has just been changed: the request is sent again."""


@dataclass(frozen=True)
class Verdict:
    """What a target said: `status` is 0 where nothing answered, `problem` empty where all is well.

    `latency_s` is the median of the requests that were answered, in seconds.
    """

    status: int
    problem: str = ""
    latency_s: float | None = None
    missing: tuple[str, ...] = ()


def sample(path: Path, flow: Flow) -> dict[str, Any]:
    """The request in a file, which must have what the flow needs.

    Raises:
        UserError: the file is missing, is not a JSON object, or lacks an input of the flow.
    """
    try:
        request = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found (TEST_FILE_PATH). Name the sample request.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not JSON ({error}).") from error
    if not isinstance(request, dict):
        raise UserError(f"{path}: expected a JSON object with the flow's inputs.")
    if missing := [n for n, needed in flow.inputs.items() if needed and n not in request]:
        raise UserError(f"{path}: lacks {', '.join(missing)} (inputs of {flow.path}). Add it.")
    return request


def ask(
    url: str,
    headers: Mapping[str, str],
    request: Mapping[str, Any],
    outputs: Iterable[str] | None,
    times: int = 1,
) -> Verdict:
    """Send the request some times; the first one that goes wrong decides the verdict."""
    took: list[float] = []
    verdict = Verdict(0)
    named = {**headers, "x-request-id": PROBE + uuid.uuid4().hex}
    with httpx.Client(headers=named, timeout=TIMEOUT_S) as client:
        for _ in range(times):
            began = time.perf_counter()
            try:
                answer = _send(client, url, request)
            except httpx.HTTPError as error:
                return Verdict(0, f"not reachable: {error or type(error).__name__}")
            took.append(time.perf_counter() - began)
            verdict = _judge(answer, outputs)
            if verdict.problem:
                break
    return Verdict(verdict.status, verdict.problem, median(took), verdict.missing)


def _send(client: httpx.Client, url: str, request: Mapping[str, Any]) -> httpx.Response:
    for pause in PAUSES_S:
        try:
            answer = client.post(url, json=request)
        except httpx.TransportError:
            time.sleep(pause)
            continue
        if answer.status_code not in PASSING:
            return answer
        time.sleep(pause)
    return client.post(url, json=request)


def _judge(answer: httpx.Response, outputs: Iterable[str] | None) -> Verdict:
    status = answer.status_code
    try:
        body = answer.json()
    except ValueError:
        body = None
    if status != 200:
        return Verdict(status, f"status {status}: {_message(body) or answer.text[:200]}".strip())
    if not isinstance(body, dict):
        return Verdict(status, "the answer is not a JSON object")
    if missing := tuple(name for name in outputs or () if name not in body):
        found = ", ".join(body) or "nothing"
        return Verdict(status, f"lacks {', '.join(missing)} (found {found})", None, missing)
    # The files of a Python flow do not name its outputs.
    return Verdict(status, "" if body else "the answer is empty")


def _message(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", "") if isinstance(error, dict) else error or "")[:500]
