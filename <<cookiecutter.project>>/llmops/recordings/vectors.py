"""Answers with several embeddings, taken apart into those of single texts and put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmops.recordings import Json


def take_apart(body: Json, texts: Sequence[str]) -> Iterator[Json]:
    """An answer to each text alone; the tokens are shared out by length, and their sum stays."""
    every = sorted(body["data"], key=lambda item: item.get("index", 0))
    usage = body.get("usage") or {}
    length, before = sum(map(len, texts)) or 1, 0
    for text, item in zip(texts, every, strict=True):
        after = before + len(text)
        own = {
            name: count * after // length - count * before // length
            for name, count in usage.items()
            if isinstance(count, int)
        }
        yield {**body, "data": [{**item, "index": 0}], "usage": own}
        before = after


def pick(body: Json, position: int) -> Json:
    """Of an answer the part that is about the text at this position."""
    data = body.get("data") or []
    item: Json = next((one for one in data if one.get("index", 0) == position), {})
    usage = {
        name: count // (len(data) or 1)
        for name, count in (body.get("usage") or {}).items()
        if isinstance(count, int)
    }
    return {**body, "data": [item], "usage": usage}


def put_together(bodies: Sequence[Json]) -> Json:
    """One answer to several texts from the answers to each."""
    usage: dict[str, int] = {}
    for body in bodies:
        for name, count in body["usage"].items():
            usage[name] = usage.get(name, 0) + count
    data = [{**body["data"][0], "index": index} for index, body in enumerate(bodies)]
    return {**bodies[0], "data": data, "usage": usage}
