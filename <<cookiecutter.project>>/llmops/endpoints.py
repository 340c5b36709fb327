"""Does a model's endpoint answer? One question that costs nothing, and one clear sentence."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from socket import gaierror
from urllib.parse import urlsplit

import httpx

from llmops.connections import OPENAI, Connection, variable

# The first that fits an error or one of its causes.
_TROUBLES: tuple[tuple[type[Exception], str], ...] = (
    (httpx.TimeoutException, "did not answer in time: is it up, and is {address} right?"),
    (httpx.ProxyError, "is not reached by the proxy in HTTPS_PROXY or HTTP_PROXY"),
    (gaierror, "is a host name that is not known: check {address} and the network"),
    (ssl.SSLError, "has no secure connection (TLS): check https:// in {address} and certificates"),
    (ConnectionRefusedError, "refuses the connection: is the server running at {address}?"),
    (httpx.RemoteProtocolError, "does not speak HTTP: check {address}"),
    (UnicodeEncodeError, "cannot be asked: {key} holds a character that no key has"),
    (httpx.LocalProtocolError, "cannot be asked: {key} holds a character that no key has"),
    (Exception, "cannot be reached: check {address}"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint said: whether calls may work, one sentence, and after how many seconds."""

    ok: bool
    sentence: str
    seconds: float


def check(connection: Connection, timeout_s: float = 10) -> Answer:
    """Ask an endpoint for its list of models. Never raises for what it answers.

    `connection` is one that is `served` and of which nothing is `missing`.
    """
    begin, status = time.monotonic(), 0
    try:
        status, body = _ask(connection, timeout_s)
        ok, sentence = _judge(connection, status, body)
    except Exception as error:
        # The error's own text may hold the key: it is not shown.
        chain = list(_causes(error))
        fits = (text for kind, text in _TROUBLES if any(isinstance(e, kind) for e in chain))
        ok, sentence = False, next(fits)
    host = urlsplit(connection.upstream().base).netloc
    key = variable(connection.name, "api_key")
    address = variable(connection.name, "base_url" if connection.type == OPENAI else "api_base")
    sentence = sentence.format(status=status, key=key, address=address)
    return Answer(ok, f"{host} {sentence}", time.monotonic() - begin)


def _ask(connection: Connection, timeout_s: float) -> tuple[int, bytes]:
    """The status and the body of the endpoint's answer."""
    target, body = connection.upstream(), b""
    path = "/openai/models" if target.kind == "azure" else "/models"
    end = time.monotonic() + timeout_s
    with (
        httpx.Client(timeout=timeout_s, headers=target.headers) as client,
        client.stream("GET", target.base + path, params=target.query) as response,
    ):
        for part in response.iter_bytes():
            body += part
            # httpx limits each step: a server that sends a byte now and then could hold us.
            if time.monotonic() > end:
                raise httpx.ReadTimeout("too slow")
    return response.status_code, body


def _judge(connection: Connection, status: int, body: bytes) -> tuple[bool, str]:
    match status:
        case 401 | 403 if connection.keyless:
            return True, "answers; the first call will try to sign in"
        case 401:
            return False, "refuses the key (401): check {key}"
        case 403:
            return False, "refuses access (403): check {key} and the service's network rules"
        case 404 | 405:
            return True, "answers ({status}: no list of models); if calls fail, check {address}"
        case 429:
            return False, "limits requests just now (429): wait, or raise the quota"
        case _ if status >= 500:
            return False, "has a fault of its own ({status}): try again later"
        case _ if status >= 300:
            return False, "does not take the question ({status}): check {address} and its version"
    try:
        json.loads(body)
    except ValueError:
        return False, "answers, but not in JSON: is {address} the address of an API?"
    return True, "answers"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
