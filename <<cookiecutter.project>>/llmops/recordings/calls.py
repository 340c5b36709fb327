"""Requests to the server, in the layout of OpenAI or of Azure OpenAI."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace

from llmops.recordings import Json, key, single, texts_of

CHAT = "/chat/completions"


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the server.

    `tail` is the path after connection and repeat as the SDK wrote it, `path` the same without what
    differs between Azure and OpenAI. `request` is the body with Azure's deployment as the model;
    `body` and `query` are what came in.
    """

    connection: str
    repeat: int
    tail: str
    path: str
    request: Json
    body: bytes
    query: dict[str, str]

    @property
    def key(self) -> str:
        """The key under which the answer is recorded."""
        return key(self.path, self.repeat, self.request)

    @property
    def singles(self) -> list[Call]:
        """The calls for each of its texts, where it asks for embeddings; else none."""
        texts = texts_of(self.path, self.request)
        return [replace(self, request=single(self.request, text)) for text in texts]

    @property
    def streams(self) -> bool:
        """Whether the answer is wanted in pieces."""
        return bool(self.request.get("stream"))


class RequestError(Exception):
    """A request that gets an error in the form that the SDKs understand."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


_PATH = re.compile(
    r"/(?P<connection>[^/]+)/(?P<repeat>\d{1,9})"
    r"(?P<tail>(?:/openai)?(?:/deployments/(?P<deployment>[^/]+))?(?:/v1)?(?P<path>/.+))"
)


_ELSEWHERE = re.compile(
    r"(?:.*/deployments/(?P<deployment>[^/]+)|.*?(?:/openai)?/v1|.*?/openai)(?P<path>/.+)"
)
"""The same at a real endpoint, whose address may have a path of its own."""


def asked(method: str, path: str, body: bytes) -> Json:
    """A request to any address, as recordings have it: {"path", "request"}.

    Of a body that is no JSON object there is only its hash, as two of them can be no more alike.
    """
    match = _PATH.fullmatch(path) or _ELSEWHERE.fullmatch(path)
    try:
        request = json.loads(body)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        request = {"sha256": hashlib.sha256(body).hexdigest()} if body else {}
    if match and match["deployment"]:
        request["model"] = match["deployment"]
    name = match["path"] if match else path
    return {"path": name if method == "POST" else f"{method} {name}", "request": request}


def parse_call(method: str, path: str, query: dict[str, str], body: bytes) -> Call:
    """Understand a request in the layout of Azure OpenAI or of OpenAI.

    Raises:
        RequestError: it is in neither, or asks to stream something other than a chat.
    """
    match = _PATH.fullmatch(path)
    if match is None or method != "POST":
        raise RequestError(
            404, "not_found", f"{method} {path[:200]}: there are no recordings of this."
        )
    try:
        request = json.loads(body)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise RequestError(400, "bad_request", "The body of the request is not a JSON object.")
    if match["deployment"]:
        request["model"] = match["deployment"]
    if request.get("stream") and match["path"] != CHAT:
        raise RequestError(400, "bad_request", f"stream: recordings know it for {CHAT} only.")
    return Call(
        match["connection"],
        int(match["repeat"]),
        match["tail"],
        match["path"],
        request,
        body,
        query,
    )
