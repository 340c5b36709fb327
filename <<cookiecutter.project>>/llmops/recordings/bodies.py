"""Bodies of answers: whole, in the pieces of a stream, and embeddings in either encoding."""

from __future__ import annotations

import base64
import json
import re
from array import array
from collections.abc import Iterator
from typing import Any

from llmops.recordings import Json


def split_stream(body: Json, include_usage: bool) -> bytes:
    """A chat completion as the server-sent events that stream it."""
    head = {name: value for name, value in body.items() if name not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    events = [{**head, "choices": [piece]} for piece in _pieces(body.get("choices", []))]
    if include_usage and body.get("usage"):
        events.append({**head, "choices": [], "usage": body["usage"]})
    return b"".join(b"data: " + dump(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def _pieces(choices: list[Json]) -> Iterator[Json]:
    for choice in choices:
        index = choice.get("index", 0)
        for delta in _deltas(choice.get("message") or {}):
            yield {"index": index, "delta": delta, "finish_reason": None}
        rest = {name: value for name, value in choice.items() if name != "message"}
        yield {**rest, "index": index, "delta": {}}


def _deltas(message: Json) -> Iterator[Json]:
    content, calls = message.get("content"), message.get("tool_calls")
    rest = {name: value for name, value in message.items() if name not in ("content", "tool_calls")}
    yield {"role": "assistant", **rest, "content": content and ""}
    for piece in re.findall(r"(?s).{1,24}", content or ""):
        yield {"content": piece}
    if calls:
        yield {"tool_calls": [{"index": number, **call} for number, call in enumerate(calls)]}


def join_stream(events: bytes) -> Json | None:
    """The chat completion that server-sent events streamed; None if they stop before the end."""
    data = [line[5:].strip() for line in events.splitlines() if line.startswith(b"data:")]
    if not data or data.pop() != b"[DONE]":
        return None
    body: Json = {}
    choices: dict[int, Json] = {}
    for chunk in map(json.loads, data):
        body.update({name: value for name, value in chunk.items() if value})
        for piece in chunk.get("choices") or []:
            index = piece.get("index", 0)
            choice = choices.setdefault(index, {"index": index, "message": {}})
            _merge(choice["message"], piece.get("delta") or {})
            _merge_rest(choice, piece)
    for choice in choices.values():
        for call in choice["message"].get("tool_calls") or []:
            call.pop("index", None)
    return {**body, "object": "chat.completion", "choices": [choices[n] for n in sorted(choices)]}


def _merge(message: Json, delta: Json) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault(name, [])
            for piece in value or []:
                index = piece.get("index", len(calls))
                calls.extend({} for _ in range(index + 1 - len(calls)))
                _merge(calls[index], piece)
        elif isinstance(value, dict):
            _merge(message.setdefault(name, {}), value)
        elif isinstance(value, str) and name in ("content", "refusal", "arguments"):
            message[name] = (message.get(name) or "") + value
        elif value or name not in message:
            message[name] = value


def _merge_rest(choice: Json, piece: Json) -> None:
    for name, value in piece.items():
        if name == "logprobs" and value:
            kept = choice.get(name) or {}
            choice[name] = {part: (kept.get(part) or []) + (value[part] or []) for part in value}
        elif name != "delta" and (value or name not in choice):
            choice[name] = value


def with_encoding(body: Json, encoding: str) -> Json:
    """Embeddings in the encoding that the client wants, however they were recorded."""

    def encode(vector: Any) -> Any:
        if encoding == "base64" and isinstance(vector, list):
            return base64.b64encode(array("f", vector).tobytes()).decode()
        if encoding != "base64" and isinstance(vector, str):
            return array("f", base64.b64decode(vector)).tolist()
        return vector

    data = [{**item, "embedding": encode(item.get("embedding"))} for item in body.get("data", [])]
    return {**body, "data": data}


def dump(value: Any) -> bytes:
    """JSON on one line in UTF-8; what UTF-8 cannot hold (half a surrogate pair) is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()
