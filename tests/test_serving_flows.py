"""Served flows that ask a model: streams, the model's failures, recordings, logs, traces, pages."""

from __future__ import annotations

import json
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from llmops import flows, plan
from llmops.config import load
from llmops.errors import UserError
from llmops.serving import bundle, feedback, openapi, signature
from serving import Served, at_once, chat
from standin import StandIn
from test_serving import TRICKS, problem
from usecase import UseCase, example

Json = dict[str, Any]
KEY = "a-key-that-nobody-may-see"
ASK = {"question": "how are you"}
BOTH = "text/event-stream, application/json"

FLEX = '''
def ask(question: str, times: int = 2):
    """A function that is a generator."""
    for _ in range(times):
        yield question
'''
FLEX_ASYNC = """
from typing import TypedDict


async def pieces(question):
    for word in question.split():
        yield word


class Talker:
    async def __call__(self, question: str) -> dict:
        return {"answer": pieces(question), "length": len(question)}
"""
PROMPTY = """---
name: ask
model:
  api: chat
  configuration:
    type: azure_openai
    azure_deployment: standin-small
    azure_endpoint: ${env:AOAI_API_BASE}
    api_key: ${env:AOAI_API_KEY}
    api_version: "2024-02-01"
  parameters:
    max_tokens: 16
inputs:
  question:
    type: string
---
user:
{{question}}
"""


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    return UseCase(tmp_path)


@pytest.fixture
def model() -> Iterator[StandIn]:
    with StandIn() as started:
        yield started


def live(model: StandIn) -> dict[str, str]:
    return {"AOAI_API_BASE": model.url, "AOAI_API_KEY": KEY, "WORKERS": "1"}


def joined(events: list[tuple[str, Json]]) -> Json:
    """What a client has when a stream is over."""
    outputs: Json = {}
    for name, event in events:
        assert name == "message", events
        for key, value in event.items():
            outputs[key] = outputs[key] + value if key in outputs else value
    return outputs


# ---- Streams


def test_a_chat_flow_streams_what_it_would_answer(use: UseCase, model: StandIn) -> None:
    chat(use)
    with Served(use, **live(model)) as served:
        whole = served.score(ASK).json()
        assert whole == {"answer": "echo: how are you", "length": 11}
        events = served.events(ASK)
        assert len(events) > 3
        assert joined(events) == whole
        past = [{"inputs": {"question": "who?"}, "outputs": {"answer": "me"}}]
        served.score({**ASK, "chat_history": past, "tone": "dry"})
        sent = [m["content"].strip() for m in model.last["body"]["messages"]]
        assert sent == ["Answer in a dry tone.", "who?", "me", "how are you"]
        assert model.last["body"].get("stream") in (None, False)
        document = served.client.get("/openapi.json").json()
    assert document["info"]["x-chat-input"] == "question"
    assert document["info"]["x-chat-history"] == "chat_history"
    assert document["info"]["x-chat-output"] == "answer"


def test_a_stream_is_replayed_from_a_recording_of_a_whole_answer(
    use: UseCase, model: StandIn
) -> None:
    chat(use)
    use.rows([{"text": ASK["question"], "truth": ""}])
    assert use.run("record", **live(model)).code in (0, 2)
    with Served(use, LLM="replay", WORKERS="1") as served:
        assert served.client.get("/version").json()["llm"] == "replay"
        assert joined(served.events(ASK))["answer"] == "echo: how are you"
        missing = served.score({"question": "never asked"})
        assert problem(missing, 502, "model_failed")
        assert missing.json()["error"]["reason"] == "recording_missing"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"flow.flex.yaml": "entry: ask:ask\n", "ask.py": FLEX}, {"output": "how are you" * 2}),
        (
            {"flow.flex.yaml": "entry: ask:Talker\n", "ask.py": FLEX_ASYNC},
            {"answer": "howareyou", "length": 11},
        ),
        ({"ask.prompty": PROMPTY}, {"output": "echo: how are you"}),
    ],
    ids=["function", "async class", "prompty"],
)
def test_flex_flows_and_prompty_stream(
    use: UseCase, model: StandIn, files: dict[str, str], expected: Json
) -> None:
    shutil.rmtree(use.folder / "flows/standard")
    for name, content in files.items():
        use.write(f"flows/standard/{name}", content)
    chat_link = {"name": "aoai", "connection_type": "AzureOpenAIConnection"}
    words = {"name": "words", "source": "data/words.jsonl"}
    words |= {"mappings": {"question": "${data.text}"}}
    use.configure(connections=[chat_link], datasets=[words], evaluators=[])
    with Served(use, **live(model)) as served:
        assert served.score(ASK).json() == expected
        events = served.events(ASK)
        assert len(events) > 1
        assert joined(events) == expected


def test_a_python_flow_streams_and_stops_when_its_client_leaves(use: UseCase) -> None:
    use.write("flows/standard/flow.py", TRICKS)
    mark = use.folder / "mark"
    with Served(use, WORKERS="1", MARK=str(mark)) as served:
        whole = served.score({"text": "count 0"}).json()
        assert whole == {"answer": "".join(f"{n} " for n in range(20)), "times": 1}
        assert joined(served.events({"text": "count 0"})) == whole
        accept = {"accept": "text/event-stream"}
        began = time.monotonic()
        with served.client.stream(
            "POST", "/score", json={"text": "count 0.2"}, headers=accept
        ) as answer:
            next(answer.iter_bytes())
            assert time.monotonic() - began < 3, "the first piece waits for no other"
        time.sleep(1.5)
        stopped = mark.read_text()
        time.sleep(1)
        assert mark.read_text() == stopped
        assert int(stopped) < 15
        assert served.score({"text": "a"}, accept=BOTH).json() == {"answer": "A"}
        alone = served.score({"text": "a"}, accept="text/event-stream")
        assert "does not stream" in problem(alone, 406, "not_acceptable")


def test_a_stream_that_fails_ends_with_an_error_event(use: UseCase) -> None:
    use.write(
        "flows/standard/flow.py",
        "def run(text):\n    return {'answer': pieces()}\n\n\ndef pieces():\n    yield 'one'\n"
        "    raise ValueError('no more')\n",
    )
    with Served(use, WORKERS="1") as served:
        first, last = served.events({"text": "a"})
        assert first == ("message", {"answer": "one"})
        error = {"code": "flow_failed", "message": "ValueError: no more"}
        assert last == ("error", {"error": error})
        assert served.score({"text": "a"}).status_code == 500


# ---- The model's failures


def test_what_the_model_fails_with_is_told_and_tried_again(use: UseCase, model: StandIn) -> None:
    chat(use)
    use.configure(limits={"timeout_s": 10, "retries": 1})
    with Served(use, **live(model)) as served:
        model.fail({"status": 500, "times": 1})
        assert served.score(ASK).status_code == 200, "a passing fault is tried again"
        model.fail({"status": 401})
        refused = served.score(ASK)
        assert "AuthenticationError" in problem(refused, 502, "model_failed")
        assert refused.json()["error"]["status"] == 401
        assert KEY not in refused.text
        model.fail({"status": 429, "retry_after": 30})
        late = served.score(ASK)
        assert problem(late, 502, "model_failed")
        assert late.headers["retry-after"] == "30"
        model.fail({"status": 500})
        assert problem(served.score(ASK, accept="text/event-stream"), 502, "model_failed")
        model.fail({"hang": 30})
        use_s = time.monotonic()
        assert problem(served.score(ASK), 504, "timeout")
        assert 9 < time.monotonic() - use_s < 14


# ---- What is logged


def test_content_is_logged_where_it_is_asked_for_but_never_a_key(
    use: UseCase, model: StandIn
) -> None:
    chat(use)
    asked = {"question": f"is {KEY} right?"}
    with Served(use, **live(model), LOG_CONTENT="1") as served:
        served.score(asked)
        served.events(asked)
    lines = served.lines  # all of them: a server writes the last one after it has answered
    text = served.log.read_text(encoding="utf-8")
    assert lines[0]["inputs"]["question"] == "is *** right?"
    assert lines[0]["outputs"]["answer"] == "echo: is *** right?"
    assert lines[1]["outputs"] == lines[0]["outputs"]
    assert lines[0]["calls"] == 1
    assert lines[0]["tokens"]["prompt"] > 0
    assert KEY not in text


class Collector(ThreadingHTTPServer):
    """Takes traces as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Collect)
        self.spans: list[Any] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Collect(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        body = self.rfile.read(int(self.headers["content-length"]))
        sent = ExportTraceServiceRequest.FromString(body)
        collector: Any = self.server
        for resource in sent.resource_spans:
            for scope in resource.scope_spans:
                collector.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_requests_are_traced_where_a_collector_is_named(use: UseCase, model: StandIn) -> None:
    chat(use)
    collector = Collector()
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    above = "4bf92f3577b34da6a3ce929d0e0e4736"
    try:
        with Served(use, **live(model), OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as served:
            served.score(ASK, traceparent=f"00-{above}-00f067aa0ba902b7-01")
            served.score({})
            assert served.stop() == 0
    finally:
        collector.shutdown()
        collector.server_close()
    first, second = collector.spans
    said = {pair.key: pair.value for pair in first.attributes}
    assert first.name == "POST /score"
    assert first.trace_id.hex() == above
    assert said["http.response.status_code"].int_value == 200
    assert said["llmops.deploying.deployment"].string_value == "default"
    assert said["gen_ai.usage.input_tokens"].int_value > 0
    assert {p.key: p.value for p in second.attributes}["http.response.status_code"].int_value == 400
    assert "how are you" not in str(collector.spans)
    assert KEY not in str(collector.spans)


# ---- Feedback


def test_feedback_is_kept_a_line_each_and_checked(use: UseCase) -> None:
    use.write("flows/standard/flow.py", TRICKS)
    with Served(use, WORKERS="1", FEEDBACK_LOG="runs/said") as served:
        own = served.score({"text": "a"}).headers["x-request-id"]
        said = {"request_id": own, "score": 0.5, "comment": "so\nso — ☂"}
        assert served.client.post("/feedback", json=said).status_code == 200
        wrong: list[Any] = [{"score": 1}, {"request_id": own, "score": "1"}, [1], {}]
        wrong += [{"request_id": own, "score": True}, {"request_id": "a b", "score": 1}]
        wrong += [{"request_id": own, "score": 1, "comment": "x" * 5000}]
        for body in wrong:
            problem(served.client.post("/feedback", json=body), 400, "invalid_inputs")
        assert served.client.get("/feedback").status_code == 405

        def give(number: int) -> None:
            httpx.post(f"{served.url}/feedback", json={"request_id": f"r{number}", "score": number})

        at_once([threading.Thread(target=give, args=(n,)) for n in range(50)])
    path = use.folder / "runs/said" / feedback.FILE
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {**lines[0], "time": ""} == {**said, "time": ""}
    assert sorted(line["score"] for line in lines[1:]) == list(range(50))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# ---- The bundle


def packed(use: UseCase, folder: Path) -> bundle.Bundle:
    experiment = load(folder=use.folder)
    flow = flows.describe(experiment.flow, use.folder)
    variant = plan.plan(experiment, flow, ["default"])[0].variant
    return bundle.write(
        experiment, flow, variant, folder, recordings=use.folder / "recordings", sample={"a": 1}
    )


def test_a_bundle_is_all_that_a_server_needs(tmp_path: Path, model: StandIn) -> None:
    use = example(tmp_path)
    asked = json.loads((use.folder / "sample-request.json").read_text())
    made = packed(use, tmp_path / "made")
    assert bundle.read(tmp_path / "made") == made
    assert packed(use, tmp_path / "made") == made, "it may be written again"
    shutil.rmtree(use.folder)
    use.folder.mkdir()
    socket = tmp_path / "s"
    command = ("llmops.serving", str(tmp_path / "made"), "--uds", str(socket), "--name", "blue")
    with Served(use, *command, LLM="replay") as served:
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        answer = served.score(asked)
        assert answer.status_code == 200, answer.text
        assert answer.headers["azureml-model-deployment"] == "blue"
        assert served.stop() == 0
    assert not socket.exists()
    told = (tmp_path / "made" / bundle.MANIFEST).read_text()
    assert "${api_key}" in told


def test_a_bundle_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        bundle.read(tmp_path)
    (tmp_path / bundle.MANIFEST).write_text('{"name": "x"}')
    with pytest.raises(UserError, match="variant: Field required"):
        bundle.read(tmp_path)


# ---- OpenAPI


def document_of(use: UseCase, folder: Path) -> Json:
    made = packed(use, folder)
    return openapi.document(made, signature.read(made.describe(folder)))


def test_the_document_is_valid_openapi_with_the_flows_types(use: UseCase, tmp_path: Path) -> None:
    from openapi_spec_validator import validate

    chat(use)
    document = document_of(use, tmp_path / "made")
    validate(document)
    inputs = document["components"]["schemas"]["Inputs"]
    assert inputs["required"] == ["question"]
    assert inputs["properties"]["chat_history"]["type"] == "array"
    assert inputs["properties"]["tone"] == {"type": "string", "default": "calm"}
    assert document["components"]["schemas"]["Outputs"]["properties"]["length"] == {
        "type": "integer"
    }
    (use.folder / "flows/standard/flow.dag.yaml").unlink()
    use.write("flows/standard/flow.py", TRICKS)
    document = document_of(use, tmp_path / "other")
    validate(document)
    types = {
        name: schema["type"]
        for name, schema in document["components"]["schemas"]["Inputs"]["properties"].items()
    }
    expected = {"text": "string", "times": "integer", "options": "object", "tags": "array"}
    assert types == {**expected, "loud": "boolean"}
    assert set(document["paths"]["/score"]["post"]["responses"]) >= {"200", "400", "502", "504"}


# ---- What is left out of a call


@pytest.mark.parametrize(
    ("more", "plain"),
    [
        ({}, True),
        ({"temperature": 0.5, "stop": ["a"], "response_format": {"type": "json_object"}}, True),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, False),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, False),
    ],
)
def test_a_plain_request_goes_over_the_wire_as_the_client_would_send_it(
    more: Json, plain: bool
) -> None:
    from llmops.running.lighter import NOTHING, as_it_is
    from openai import NOT_GIVEN
    from openai._utils import is_given, maybe_transform
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": None, "name": "n"}]
    request = {"model": "m", "messages": messages, "seed": None, "user": NOT_GIVEN, **more}
    found = as_it_is(request, is_given)
    assert (found is not NOTHING) == plain
    if plain:
        assert found == maybe_transform(request, CompletionCreateParamsNonStreaming)
