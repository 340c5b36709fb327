"""What a request without a recording is told: where it differs from the nearest one."""

from __future__ import annotations

import heapq
import json
import re
import sys
from itertools import islice
from typing import Any

from llmops.recordings import MISSING, Entry, Json, Store, key, relevant
from llmops.recordings.calls import Call, RequestError

# Characters of a text quoted in a message.
EXCERPT = 50
# The search for the nearest recording looks at so many, which keeps a miss at a few milliseconds.
SEARCHED = 2_000


def nearest(store: Store, call: Call) -> Entry | None:
    """The recording of the same path that shares most words, then most parameters.

    The model's name is a parameter: an answer of another model to the same prompt is near.
    """
    wanted = _words(call.request)
    same_path = (entry for entry in store.entries.values() if entry.path == call.path)
    overlaps = (
        (_overlap(wanted, _words_of(store, entry)), -number, entry)
        for number, entry in enumerate(islice(same_path, SEARCHED))
    )
    _, _, nearest = min(
        heapq.nlargest(8, overlaps),
        key=lambda found: (-found[0], len(_differences(call, store.read(found[2])))),
        default=(0, 0, None),
    )
    return nearest


def _words_of(store: Store, entry: Entry) -> frozenset[str]:
    if entry.words is None:
        entry.words = _words(store.read(entry)["request"])
    return entry.words


def _words(request: Json) -> frozenset[str]:
    said = [value for name, value in relevant(request).items() if name != "model"]
    text = json.dumps(said, ensure_ascii=False)
    return frozenset(map(sys.intern, re.findall(r"\w+", text)))


def _overlap(some: frozenset[str], others: frozenset[str]) -> float:
    shared = len(some & others)
    return shared / (len(some) + len(others) - shared or 1)


def places(request: Json) -> Json:
    """A request as a flat dict: one entry a parameter, one a message."""
    found = relevant(request)
    messages = found.get("messages")
    if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
        del found["messages"]
        for number, message in enumerate(messages, 1):
            rest = {name: value for name, value in message.items() if name != "role"}
            content = rest.get("content")
            text = content if rest.keys() == {"content"} and isinstance(content, str) else rest
            found[f"message {number} ({message.get('role')})"] = text
    return found


def _differences(call: Call, recording: Json) -> list[str]:
    """What the request has otherwise than a recording, one short phrase each."""
    wanted = {"repeat": call.repeat, **places(call.request)}
    recorded = {"repeat": recording.get("repeat", 0), **places(recording["request"])}
    return [
        f"{place}: {_contrast(wanted.get(place), recorded.get(place))}"
        for place in wanted | recorded
        if wanted.get(place) != recorded.get(place)
    ]


def _contrast(wanted: Any, recorded: Any) -> str:
    if not (isinstance(wanted, str | list | dict) and isinstance(recorded, str | list | dict)):
        return f"wanted {_excerpt(wanted)}, recorded {_excerpt(recorded)}"
    wanted, recorded = (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for value in (wanted, recorded)
    )
    pairs = enumerate(zip(wanted, recorded, strict=False))
    same = next((n for n, (a, b) in pairs if a != b), min(len(wanted), len(recorded)))
    start = max(0, same - 15) if max(len(wanted), len(recorded)) > EXCERPT else 0
    where = f"from character {start + 1} " if start else ""
    return f"{where}wanted {_excerpt(wanted[start:])}, recorded {_excerpt(recorded[start:])}"


def _excerpt(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        cut = value if len(value) <= EXCERPT else value[:EXCERPT] + "…"
        return json.dumps(cut, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)[:EXCERPT]


def _of_another_repeat(store: Store, call: Call) -> str:
    """What to do where the request was recorded for an earlier repeat; empty where it was not."""
    for repeat in reversed(range(call.repeat)):
        if entry := store.entries.get(key(call.path, repeat, call.request)):
            return (
                f"No recording of this request for repeat {call.repeat}: {entry} answers repeat "
                f"{repeat}. `make record` with `repeats: {call.repeat + 1}` or more asks for it."
            )
    return ""


def miss(store: Store, call: Call) -> RequestError:
    """The refusal of a request that has no recording, and where it differs from the nearest one."""
    if call.repeat and (told := _of_another_repeat(store, call)):
        return RequestError(404, MISSING, told)
    entry = nearest(store, call)
    if entry is None:
        what = f"{store.folder} holds none for {call.path[:80]}"
    else:
        found = _differences(call, store.read(entry))
        more = f"; {len(found) - 2} more differences" if len(found) > 2 else ""
        what = f"nearest is {entry}, where it differs: {'; '.join(found[:2])[:300]}{more}"
    return RequestError(404, MISSING, f"No recording of this request: {what[:450]}.")
