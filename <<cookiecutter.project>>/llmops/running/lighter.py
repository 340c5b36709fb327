"""Leaves out what the OpenAI client does anew for each chat request and that changes nothing.

It walks the request along its typed description, to rename keys and encode files; in a request of
texts and numbers there is nothing of the kind, and the walk is a quarter of a row's CPU time. Any
other request goes the client's own way.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

CHAT = "openai.resources.chat.completions.completions"
# Their names and values go over the wire as they are.
PLAIN = frozenset(
    (
        "model",
        "messages",
        "temperature",
        "top_p",
        "n",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "user",
        "stream",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "response_format",
    )
)
NOTHING = object()


def lighten() -> None:
    """Change the chat client of this process, once the client is loaded."""
    module = importlib.import_module(CHAT)
    given = importlib.import_module("openai._utils").is_given
    walk = getattr(module, "maybe_transform", None)
    walk_async = getattr(module, "async_maybe_transform", None)
    if walk is None or walk_async is None:  # another version of the client
        return

    def transform(data: Any, expected: Any) -> Any:
        plain = as_it_is(data, given)
        return walk(data, expected) if plain is NOTHING else plain

    async def transform_async(data: Any, expected: Any) -> Any:
        plain = as_it_is(data, given)
        return await walk_async(data, expected) if plain is NOTHING else plain

    vars(module).update(maybe_transform=transform, async_maybe_transform=transform_async)


def as_it_is(data: Any, given: Callable[[Any], bool]) -> Any:
    """The request without what was not given, or NOTHING where it is not plain."""
    if not isinstance(data, Mapping):
        return NOTHING
    kept = {name: value for name, value in data.items() if given(value)}
    messages = kept.get("messages")
    if not kept.keys() <= PLAIN or not isinstance(messages, list):
        return NOTHING
    for message in messages:
        if not isinstance(message, dict) or not all(_text(value) for value in message.values()):
            return NOTHING
    return kept if all(_simple(v) for n, v in kept.items() if n != "messages") else NOTHING


def _text(value: Any) -> bool:
    return value is None or type(value) is str


def _simple(value: Any) -> bool:
    """Text, number, truth, or a list or dict of these."""
    if isinstance(value, dict):
        return all(_text(part) or isinstance(part, int | float) for part in value.values())
    if isinstance(value, list):
        return all(map(_text, value))
    return value is None or isinstance(value, str | int | float)
