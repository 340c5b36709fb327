"""The OpenAPI document of a served flow, out of its inputs and outputs."""

from __future__ import annotations

from typing import Any

from llmops.serving.bundle import Bundle
from llmops.serving.feedback import LONGEST_COMMENT
from llmops.serving.log import REQUEST_ID
from llmops.serving.signature import Signature, Value

Json = dict[str, Any]

_JSON = "application/json"
_ERRORS = {
    "400": "not JSON, or inputs that are missing, unknown or of another type; it names them",
    "405": "another method is wanted: see the header Allow",
    "406": "the flow does not answer in a media type that the request accepts",
    "408": "the body did not come in time",
    "413": "the body is too large",
    "415": "the body is not sent as application/json",
    "500": "the flow raised; its type and message, no traceback",
    "502": "the model's endpoint failed; `status` is what it answered",
    "503": "not ready, shutting down, or too many requests under way: see the header Retry-After",
    "504": "no answer in time",
}


def document(bundle: Bundle, flow: Signature) -> Json:
    """OpenAPI 3.0 with the extensions by which Azure ML's test page knows a chat flow."""
    info: Json = {
        "title": bundle.name,
        "version": bundle.flow_hash[:12],
        "description": f"The flow {bundle.name} in the variant {bundle.variant}.",
        "x-flow-name": bundle.name,
    }
    if chat := flow.chat:
        info |= {"x-flow-type": "chat", **{f"x-chat-{role}": name for role, name in chat.items()}}
    return {
        "openapi": "3.0.3",
        "info": info,
        "servers": [{"url": "/"}],
        "paths": {
            "/score": {"post": _score(bundle, flow)},
            "/feedback": {"post": _feedback()},
            "/health": {"get": _probe("The process serves.", "getHealth")},
            "/ready": {"get": _probe("A request to /score would be taken.", "getReady", "503")},
            "/version": {"get": _probe("What is served.", "getVersion")},
        },
        "components": {
            "schemas": {"Inputs": _inputs(flow), "Outputs": _outputs(flow), "Error": _error()}
        },
    }


def _score(bundle: Bundle, flow: Signature) -> Json:
    body: Json = {"schema": _reference("Inputs")}
    if bundle.sample is not None:
        body["example"] = bundle.sample
    answers = {
        _JSON: {"schema": _reference("Outputs")},
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": 'data: {"answer": "Hel"}\n\ndata: {"answer": "lo"}\n\n',
        },
    }
    return {
        "operationId": "score",
        "summary": "Run the flow on one set of inputs",
        "description": "With `Accept: text/event-stream` a flow that streams answers in events: "
        "each holds the next piece of an output, by its name; a failure comes as an event `error`.",
        "requestBody": {"required": True, "content": {_JSON: body}},
        "responses": {
            "200": {"description": "the outputs", "content": answers},
            **_errors(*_ERRORS),
        },
    }


def _feedback() -> Json:
    keys = {
        "request_id": {
            "type": "string",
            "pattern": f"^{REQUEST_ID.pattern}$",
            "description": "the header x-request-id of the answer",
        },
        "score": {"type": "number", "description": "more is better"},
        "comment": {"type": "string", "maxLength": LONGEST_COMMENT},
    }
    schema = _object(keys, ["request_id", "score"], more=False)
    return {
        "operationId": "feedback",
        "summary": "Say how good an answer was",
        "requestBody": {"required": True, "content": {_JSON: {"schema": schema}}},
        "responses": {"200": _content("it is kept", _object()), **_errors("400", "413", "415")},
    }


def _probe(says: str, name: str, *codes: str) -> Json:
    answer = _content(says, _object())
    return {"operationId": name, "summary": says, "responses": {"200": answer, **_errors(*codes)}}


def _errors(*codes: str) -> Json:
    return {code: _content(_ERRORS[code], _reference("Error")) for code in codes}


def _content(description: str, schema: Json) -> Json:
    return {"description": description, "content": {_JSON: {"schema": schema}}}


def _inputs(flow: Signature) -> Json:
    needed = [name for name, value in flow.inputs.items() if value.required]
    return _object({n: _schema(v) for n, v in flow.inputs.items()}, needed, flow.more_inputs)


def _outputs(flow: Signature) -> Json:
    return _object({name: _schema(value) for name, value in flow.outputs.items()})


def _error() -> Json:
    texts: Json = {"code": {"type": "string"}, "message": {"type": "string"}}
    status = {"type": "integer", "nullable": True, "description": "of the model's endpoint"}
    inner = _object({**texts, "status": status}, ["code", "message"])
    return _object({"error": inner}, ["error"])


def _object(keys: Json | None = None, needed: list[str] | None = None, more: bool = True) -> Json:
    """A schema; one without any required key has no list of them, which may not be empty."""
    schema: Json = {"type": "object", "additionalProperties": more}
    if keys:
        schema["properties"] = keys
    if needed:
        schema["required"] = needed
    return schema


def _schema(value: Value) -> Json:
    schema: Json = {"type": value.type} if value.type else {}
    if value.type == "array":
        schema["items"] = {}
    if value.default is not None:
        schema["default"] = value.default
    if value.description:
        schema["description"] = value.description
    return schema


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
