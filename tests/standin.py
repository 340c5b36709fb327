"""A model server for tests and benchmarks: OpenAI's and Azure OpenAI's paths, on loopback.

    python tests/standin.py --delay 0.2 --answers answers.jsonl

prints {"port": N} and serves until its stdin closes or SIGTERM comes. Every answer follows from the
request: the first line of the answers file, {"when": ["substring", …], "answer": "…"}, all of whose
substrings occur in the messages, else an echo of the last message. An answer that is a list is
given in turn, one at a time. Each answer takes `--delay` seconds.

Embeddings are bytes of a hash, as many as the request's `dimensions` says, or what the module of
`--vectors` makes of the text.

Faults make it misbehave, in the order of the list. Each has optionally `when` (a substring of the
messages), `times` (how often, default always) and `share` (of the requests, evenly), and one of

    {"status": 429, "retry_after": 1}   {"hang": 5}   {"body": "not json"}   {"drop": true}

Beside the API: GET /_stats, GET /_last (the last request), POST /_faults (a JSON list).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import importlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

Json = dict[str, Any]

CREATED = 1_750_000_000
MODELS = ("standin-small", "standin-large")


# ---- What it answers


def tokens(text: str) -> int:
    """A stand-in for a tokenizer: four characters a token."""
    return max(1, len(text) // 4)


def texts_of(request: Json) -> list[str]:
    """The texts of a request's messages, prompts or inputs."""
    items = request.get("messages") or request.get("input") or request.get("prompt") or ""
    contents = [
        item.get("content") if isinstance(item, dict) else item
        for item in (items if isinstance(items, list) else [items])
    ]
    return [text if isinstance(text, str) else json.dumps(text) for text in contents]


def usage(prompt: str, answer: str) -> Json:
    """Tokens as the chat API counts them."""
    asked, said = tokens(prompt), tokens(answer)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def chat(request: Json, prompt: str, answer: str) -> Json:
    """A chat completion."""
    message = {"role": "assistant", "content": answer}
    return {
        "id": identity("chatcmpl", prompt),
        "object": "chat.completion",
        "created": CREATED,
        "model": request.get("model", MODELS[0]),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage(prompt, answer),
    }


def completion(request: Json, prompt: str, answer: str) -> Json:
    """A text completion."""
    return chat(request, prompt, answer) | {
        "id": identity("cmpl", prompt),
        "object": "text_completion",
        "choices": [{"index": 0, "text": answer, "finish_reason": "stop", "logprobs": None}],
    }


def response(request: Json, prompt: str, answer: str) -> Json:
    """A body of the responses API."""
    content = [{"type": "output_text", "text": answer, "annotations": []}]
    count = usage(prompt, answer)
    return {
        "id": identity("resp", prompt),
        "object": "response",
        "created_at": CREATED,
        "model": request.get("model", MODELS[0]),
        "status": "completed",
        "error": None,
        "output": [
            {
                "type": "message",
                "id": "msg",
                "role": "assistant",
                "status": "completed",
                "content": content,
            }
        ],
        "usage": {
            "input_tokens": count["prompt_tokens"],
            "output_tokens": count["completion_tokens"],
            "total_tokens": count["total_tokens"],
        },
    }


def hashed(text: str, dimensions: int) -> list[float]:
    """Numbers that are the same for the same text, and mean nothing."""
    digest = hashlib.sha256(text.encode()).digest()
    more = hashlib.shake_256(digest).digest(max(0, dimensions - len(digest)))
    return [byte / 255 for byte in (digest + more)[:dimensions]]


vectors: list[Callable[[str, int], list[float]]] = [hashed]
"""What makes a vector of a text; `--vectors` puts another one in its place."""


def embeddings(request: Json, prompt: str, _: str) -> Json:
    """As many numbers for each input as were asked for (default: eight)."""
    data = []
    for index, text in enumerate(texts_of(request)):
        vector: Any = vectors[0](text, request.get("dimensions") or 8)
        if request.get("encoding_format") == "base64":
            vector = base64.b64encode(array("f", vector).tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    count = tokens(prompt)
    return {
        "object": "list",
        "data": data,
        "model": request.get("model", MODELS[0]),
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


MAKERS = {
    "chat/completions": chat,
    "completions": completion,
    "responses": response,
    "embeddings": embeddings,
}


def identity(kind: str, prompt: str) -> str:
    """An id that follows from the request."""
    return f"{kind}-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"


def stream(body: Json, include_usage: bool) -> list[bytes]:
    """A chat completion word by word, as server-sent events."""
    head = {**body, "object": "chat.completion.chunk"}
    count = head.pop("usage")
    words = body["choices"][0]["message"]["content"].split(" ")
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": (" " if number else "") + word} for number, word in enumerate(words)]
    pieces: list[Json] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    pieces.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    events: list[Json] = [{**head, "choices": [piece]} for piece in pieces]
    if include_usage:
        events.append({**head, "choices": [], "usage": count})
    lines = [json.dumps(event) for event in events] + ["[DONE]"]
    return [f"data: {line}\n\n".encode() for line in lines]


# ---- The server


class Model:
    """The ASGI application."""

    def __init__(self, delay: float, answers: list[Json]) -> None:
        self.delay = delay
        # The first substring stands alone because it decides almost every line.
        self.answers = [
            (line["when"][0] if line["when"] else "", line["when"][1:], in_turn(line["answer"]))
            for line in answers
        ]
        self.faults: list[Json] = []
        self.last: Json = {}
        self.requests = self.parallel = self.max_parallel = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request: control, list of models, or a question to the model."""
        body = await read(receive)
        path = scope["path"]
        if path.startswith("/_"):
            await reply(send, 200, self.control(path, body))
        elif scope["method"] == "GET" and path.endswith("/models"):
            data = [{"id": name, "object": "model", "created": CREATED} for name in MODELS]
            await reply(send, 200, {"object": "list", "data": data})
        else:
            async with self.counted():
                await self.answer(scope, body, send)

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        """Count a request, and how many are under way."""
        self.requests += 1
        self.parallel += 1
        self.max_parallel = max(self.max_parallel, self.parallel)
        try:
            yield
        finally:
            self.parallel -= 1

    def control(self, path: str, body: bytes) -> Json:
        """What tests ask beside the API."""
        if path == "/_faults":
            self.faults = json.loads(body)
        if path == "/_last":
            return self.last
        return {"requests": self.requests, "max_parallel": self.max_parallel}

    async def answer(self, scope: Scope, body: bytes, send: Send) -> None:
        """A question to the model, after the delay and with the fault that is due."""
        path = scope["path"]
        make = next((make for end, make in MAKERS.items() if path.endswith("/" + end)), None)
        if make is None:
            error = {"code": "not_found", "message": f"{path}: no such path"}
            await reply(send, 404, {"error": error})
            return
        request = json.loads(body)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        self.last = {"path": path, "query": query, "headers": headers, "body": request}
        texts = texts_of(request)
        prompt = "\n".join(texts)
        await asyncio.sleep(self.delay)
        if (fault := self.due(prompt)) and await misbehave(send, fault):
            return
        made = make(request, prompt, self.say(prompt, texts))
        if request.get("stream"):
            options = request.get("stream_options") or {}
            await reply_streaming(send, stream(made, bool(options.get("include_usage"))))
        else:
            await reply(send, 200, made)

    def say(self, prompt: str, texts: Sequence[str]) -> str:
        """The prepared answer, or an echo."""
        for first, rest, answer in self.answers:
            if first in prompt and all(part in prompt for part in rest):
                return next(answer)
        return f"echo: {texts[-1]}" if texts else "echo"

    def due(self, prompt: str) -> Json | None:
        """The first fault that applies and has not been used up."""
        for fault in self.faults:
            if fault.get("when", "") in prompt and fault.get("times", 1) > 0:
                if "share" in fault and self.requests % round(1 / fault["share"]):
                    continue
                if "times" in fault:
                    fault["times"] -= 1
                return fault
        return None


def in_turn(answer: Any) -> Iterator[str]:
    """The same answer again and again, or those of a list in turn."""
    return itertools.cycle(map(str, answer if isinstance(answer, list) else [answer]))


async def misbehave(send: Send, fault: Json) -> bool:
    """Do what the fault says; False if the answer still follows."""
    if "hang" in fault:
        await asyncio.sleep(fault["hang"])
        return False
    if "drop" in fault:
        # uvicorn closes the connection when the application ends before its body is complete.
        await start(send, 200, [(b"content-length", b"1000")])
        return True
    if "body" in fault:
        await start(send, 200, [(b"content-type", b"text/plain")])
        await send({"type": "http.response.body", "body": fault["body"].encode()})
        return True
    headers = []
    if "retry_after" in fault:
        headers.append((b"retry-after", str(fault["retry_after"]).encode()))
    error = {"code": str(fault["status"]), "message": f"The stand-in was told to say {fault}"}
    await reply(send, fault["status"], {"error": error}, headers)
    return True


async def read(receive: Receive) -> bytes:
    """The whole body of a request."""
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def start(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    """Status and headers."""
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def reply(
    send: Send, status: int, body: Json, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """A JSON body."""
    content = json.dumps(body).encode()
    length = str(len(content)).encode()
    kind = [(b"content-type", b"application/json"), (b"content-length", length)]
    await start(send, status, [*kind, *headers])
    await send({"type": "http.response.body", "body": content})


async def reply_streaming(send: Send, events: Sequence[bytes]) -> None:
    """Server-sent events, one message each."""
    await start(send, 200, [(b"content-type", b"text/event-stream")])
    for event in events:
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def serve(model: Model, port: int) -> None:
    """Print the port and serve until stdin closes or SIGTERM comes."""
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            model,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=1,
        )
    )

    def stop(*_: object) -> None:
        server.should_exit = True

    def stop_with_parent() -> None:
        while os.read(0, 4096):
            pass
        stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # With the protocol named asyncio sets TCP_NODELAY; without it each answer comes 40 ms late.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", port))
    listening.listen(2048)
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    threading.Thread(target=stop_with_parent, daemon=True).start()
    server.run(sockets=[listening])


# ---- As tests use it


class StandIn:
    """The server as a child process, for a `with` block.

    `answers` and `faults` are lists as described at the top of this file; `delay` is in seconds,
    `vectors` a module beside this file that makes the embeddings.
    """

    def __init__(
        self,
        delay: float = 0.0,
        answers: Sequence[Json] = (),
        faults: Sequence[Json] = (),
        vectors: str = "",
    ) -> None:
        self.delay = delay
        self.answers = list(answers)
        self._faults = list(faults)
        self._vectors = ["--vectors", vectors] if vectors else []

    def __enter__(self) -> Self:
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps(answer) + "\n" for answer in self.answers)
            file.flush()
            self._child = subprocess.Popen(
                [
                    *(sys.executable, __file__, "--delay", str(self.delay)),
                    *("--answers", file.name, *self._vectors),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._child.stdout
            self.url = f"http://127.0.0.1:{json.loads(self._child.stdout.readline())['port']}"
        if self._faults:
            self.fail(*self._faults)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin and self._child.stdout
        self._child.stdin.close()
        self._child.wait(timeout=10)
        self._child.stdout.close()

    def fail(self, *faults: Json) -> None:
        """From now on misbehave so; without faults, behave."""
        self._call("/_faults", json.dumps(faults).encode())

    @property
    def pid(self) -> int:
        """The process."""
        return self._child.pid

    @property
    def requests(self) -> int:
        """How many questions the model has had."""
        return int(self._call("/_stats")["requests"])

    @property
    def max_parallel(self) -> int:
        """How many questions were under way at once, at most."""
        return int(self._call("/_stats")["max_parallel"])

    @property
    def last(self) -> Json:
        """The last question: path, query, headers and body."""
        return self._call("/_last")

    def _call(self, path: str, body: bytes | None = None) -> Json:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url + path, body, timeout=10) as answer:
            return json.load(answer)  # type: ignore[no-any-return]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A model server for tests and benchmarks.")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds an answer takes")
    parser.add_argument("--answers", type=Path, help='JSON Lines of {"when": […], "answer": "…"}')
    parser.add_argument("--vectors", help="a module with vector(text, dimensions) for embeddings")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.vectors:
        vectors[0] = importlib.import_module(arguments.vectors).vector
    lines = arguments.answers.read_text(encoding="utf-8").split("\n") if arguments.answers else []
    serve(Model(arguments.delay, [json.loads(line) for line in lines if line]), arguments.port)


if __name__ == "__main__":
    main()
