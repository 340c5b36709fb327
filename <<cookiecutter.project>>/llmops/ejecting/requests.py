"""What prompt flow sends for an LLM node: the arguments of the client's call, as data.

The tables say it for each kind of connection: what is always sent, and what only if it is given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmops.ejecting.graph import LLM_TOOL, Node, Reference, Value

Call = Literal["chat.completions", "completions"]

NAMES = ("deployment_name", "model")
_SAMPLING = {"temperature": 1.0, "top_p": 1.0}
_CHAT = (
    *("temperature", "top_p", "n", "stop", "max_tokens", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "user", "functions", "function_call", "tools", "tool_choice"),
    *("response_format", "seed"),
)
_VISION = (
    *("temperature", "top_p", "stop", "max_tokens", "presence_penalty", "frequency_penalty"),
    "seed",
)
_COMPLETION = {
    **{"max_tokens": 16, "temperature": 1.0, "top_p": 1.0, "n": 1, "echo": False, "best_of": 1},
    **{"logit_bias": {}, "user": ""},
}
_COMPLETION_TOO = ("suffix", "logprobs", "stop", "presence_penalty", "frequency_penalty")
_UNSENT = ("stream", "detail")
"""How an answer is delivered, and what the vision tools take and lose on the way."""
IF_ANY = ("stop", "logit_bias", "response_format", "user", "functions", "tools")
_WHOLE_NUMBERS = ("n", "max_tokens", "best_of", "logprobs", "seed")
_NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_JSON = (
    *("stop", "logit_bias", "functions", "function_call", "tools", "tool_choice"),
    "response_format",
)


@dataclass(frozen=True)
class Request:
    """What an LLM node asks.

    `call` is the client's method, `model` null where the node names none; `own_model` says whether
    the connection's own model goes first. `parameters` are sent as they are, `values` fill the
    prompt's file. With `message` the answer is the message and not its text alone.
    """

    call: Call
    prompt: str
    model: Value | None
    own_model: bool
    parameters: Mapping[str, Value]
    values: Mapping[str, Value]
    message: bool = False
    vision: bool = False

    @property
    def tail(self) -> str:
        """What of the answer the node gives."""
        if self.message:
            return '.model_dump()["choices"][0]["message"]'
        return ".choices[0].text" if self.call == "completions" else ".choices[0].message.content"


def of(node: Node, kind: str) -> Request:
    """The request of an LLM node by way of a connection of this type.

    Raises:
        ValueError: a parameter is no number where it has to be one.
    """
    azure = kind == "AzureOpenAIConnection"
    given = {name: _typed(name, value) for name, value in node.inputs.items()}
    named = NAMES if azure else NAMES[::-1]
    model = next((given[name] for name in named if given.get(name)), None)
    completion = node.api == "completion" and not node.vision
    sent = _completion(given) if completion else _chat(given, node, azure)
    if completion and node.tool == LLM_TOOL and "max_tokens" not in given:
        del sent["max_tokens"]
    values = {name: value for name, value in node.inputs.items() if name not in _taken(node)}
    return Request(
        "completions" if completion else "chat.completions",
        node.source,
        model or _usual_model(node, azure, completion),
        not node.vision,
        sent,
        values,
        bool("functions" in sent or "tools" in sent),
        node.vision,
    )


def _usual_model(node: Node, azure: bool, completion: bool) -> str | None:
    if azure:
        return None
    return "gpt-4-vision-preview" if node.vision else "text-davinci-003" if completion else ""


def _taken(node: Node) -> set[str]:
    """The inputs that are the tool's own; any other fills the prompt."""
    completion = {*_COMPLETION, *_COMPLETION_TOO, *NAMES, *_UNSENT, "api", "connection"}
    if node.tool == LLM_TOOL:
        return {*completion, *_CHAT}
    if node.vision:
        return {*_VISION, *NAMES, *_UNSENT, "connection"}
    own = completion if node.api == "completion" else {*_CHAT, *NAMES, "stream"}
    return {*own, "api", "connection"}


def _chat(given: Mapping[str, Value], node: Node, azure: bool) -> dict[str, Value]:
    sent: dict[str, Value] = dict(_SAMPLING)
    if azure or node.vision:
        sent["n"] = 1
    if node.vision:
        sent |= {"presence_penalty": 0, "frequency_penalty": 0}
    own = _VISION if node.vision else _CHAT
    known = {name: given[name] for name in own if given.get(name) is not None}
    if not (azure or node.vision):
        known.pop("n", None)
    sent |= {k: v for k, v in known.items() if v or k not in IF_ANY}
    return _with_tools(sent, azure)


def _with_tools(sent: dict[str, Value], azure: bool) -> dict[str, Value]:
    """Tools win over functions; what chooses among them goes only with them."""
    if "tools" in sent:
        left = ("functions", "function_call")
        if azure:
            sent.setdefault("tool_choice", "auto")
    elif "functions" in sent:
        left = ("tools", "tool_choice")
        sent.setdefault("function_call", "auto")
    else:
        left = ("function_call", "tool_choice")
    return {name: value for name, value in sent.items() if name not in left}


def _completion(given: Mapping[str, Value]) -> dict[str, Value]:
    sent = dict(_COMPLETION)
    for name in (*_COMPLETION, *_COMPLETION_TOO):
        value = given.get(name)
        if value is not None and (value or name not in ("suffix", "logprobs", "stop")):
            sent[name] = value
    if not isinstance(sent["echo"], Reference):
        sent["echo"] = str(sent["echo"]).lower() == "true"
    return sent


def _typed(name: str, value: Any) -> Value:
    """A literal as the tool's parameter takes it; a number of `inf` tokens is none."""
    if isinstance(value, Reference):
        return value
    try:
        if name == "max_tokens" and str(value).lower() == "inf":
            return None
        if name in _WHOLE_NUMBERS:
            return int(value)
        if name in _NUMBERS:
            return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"inputs.{name}: {value!r} is no number") from None
    return _parsed(value) if name in _JSON and isinstance(value, str) else value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
