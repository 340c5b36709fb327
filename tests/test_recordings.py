"""The server of recordings, as the SDKs see it: what it replays, what it keeps, what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmops import recordings
from llmops.errors import UserError
from llmops.recordings import Server, Target, describe, digest, key
from openai import AzureOpenAI, OpenAI
from standin import StandIn

Json = dict[str, Any]

# Child processes that the tests start themselves import the library from here.
LIBRARY = Path(recordings.__file__).parents[1]
BY_HAND = "written by hand for this example"
SECRET = "sk-secret-0123456789"
QUESTION: list[Any] = [
    {"role": "system", "content": "Name the people in the text, separated by commas."},
    {"role": "user", "content": "Grüße von Ada Lovelace an Charles Babbage, 1843."},
]
ANSWER = "Ada Lovelace, Charles Babbage, «zwei» 🎩"
# Nothing listens on the discard port.
NOBODY = "http://127.0.0.1:9"


def chat_body(answer: str = ANSWER, **more: Any) -> Json:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer},
        "finish_reason": "stop",
    }
    count = {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "small"}
    return {**body, "choices": [choice], "usage": count, **more}


def recording(**changes: Any) -> Json:
    request = {"model": "small", "messages": QUESTION, "temperature": 0, "max_tokens": 256}
    request |= changes.pop("request", {})
    line = {"path": "/chat/completions", "repeat": 0, "request": request, "source": BY_HAND}
    return {**line, "response": chat_body(), **changes}


def write(folder: Path, *lines: Json, name: str = "people.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def lines_of(file: Path) -> list[Json]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def azure(server: Server, connection: str = "aoai", repeat: int = 0) -> AzureOpenAI:
    url = server.url(connection, repeat)
    return AzureOpenAI(azure_endpoint=url, api_key="any", api_version="2024-02-01", max_retries=0)


def plain(server: Server, connection: str = "local", repeat: int = 0, retries: int = 0) -> OpenAI:
    url = server.url(connection, repeat) + "/v1"
    return OpenAI(base_url=url, api_key="any", max_retries=retries)


def ask(client: OpenAI, **changes: Any) -> Any:
    request: Json = {"model": "small", "messages": QUESTION, "temperature": 0.0, "max_tokens": 256}
    return client.chat.completions.create(**{**request, **changes})


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that only ask."""
    embedding = {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}
    tool = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "find", "arguments": '{"a": 1}'},
    }
    wants_tool = {"role": "assistant", "content": None, "tool_calls": [tool]}
    completion = {"id": "1", "object": "text_completion", "created": 1, "model": "small"}
    folder = write(
        tmp_path_factory.mktemp("replay") / "recordings",
        recording(),
        recording(repeat=1, response=chat_body("another time")),
        recording(
            request={"messages": [{"role": "user", "content": "Use a tool."}]},
            response=chat_body(choices=[{"index": 0, "message": wants_tool}]),
        ),
        {
            "path": "/embeddings",
            "request": {"model": "vectors", "input": ["a text"]},
            "response": {"object": "list", "model": "vectors", "data": [embedding]},
        },
        {
            "path": "/completions",
            "request": {"model": "small", "prompt": "Once"},
            "response": {**completion, "choices": [{"index": 0, "text": " upon a time"}]},
        },
    )
    with Server("replay", folder) as server:
        yield server


# ---- Replay


def test_both_apis_find_the_same_recording(replay: Server) -> None:
    for client in (azure(replay), plain(replay)):
        answer = ask(client)
        assert answer.choices[0].message.content == ANSWER
        assert answer.usage.total_tokens == 28


def test_each_repeat_has_its_own_answer(replay: Server) -> None:
    assert ask(plain(replay, repeat=1)).choices[0].message.content == "another time"


def test_azure_names_the_model_in_the_path(replay: Server) -> None:
    url = replay.url("aoai") + "/openai/deployments/small/chat/completions?api-version=1"
    body = {"messages": QUESTION, "max_tokens": 256, "temperature": 0}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode())) as answer:
        assert json.load(answer)["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_come_in_either_encoding(replay: Server, encoding: Any) -> None:
    vectors = plain(replay).embeddings.create(model="vectors", input=["a text"])
    assert vectors.data[0].embedding == [0.5, -0.25]
    chosen = azure(replay).embeddings.create(
        model="vectors", input=["a text"], encoding_format=encoding
    )
    assert chosen.data[0].embedding in ([0.5, -0.25], "AAAAPwAAgL4=")


def test_text_completions_are_replayed(replay: Server) -> None:
    answer = azure(replay).completions.create(model="small", prompt="Once")
    assert answer.choices[0].text == " upon a time"


@pytest.mark.parametrize("client", [azure, plain])
def test_a_stream_is_made_from_the_same_recording(replay: Server, client: Any) -> None:
    chunks = list(ask(client(replay), stream=True))
    assert len(chunks) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_ends_with_the_usage_where_it_is_asked_for(replay: Server) -> None:
    *_, last = ask(plain(replay), stream=True, stream_options={"include_usage": True})
    assert (last.choices, last.usage.total_tokens) == ([], 28)


def test_a_streamed_tool_call_is_whole(replay: Server) -> None:
    chunks = ask(plain(replay), messages=[{"role": "user", "content": "Use a tool."}], stream=True)
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("find", '{"a": 1}')
    ]


def test_many_questions_at_once(replay: Server) -> None:
    client = plain(replay)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: ask(client).choices[0].message.content, range(200)))
    assert answers == [ANSWER] * 200


def test_a_missing_folder_holds_no_recordings(tmp_path: Path) -> None:
    with (
        Server("replay", tmp_path / "none") as server,
        pytest.raises(openai.NotFoundError) as error,
    ):
        ask(plain(server))
    assert f"{tmp_path / 'none'} holds none for /chat/completions" in error.value.message


# ---- The key

parameters = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
requests = st.dictionaries(st.text(), parameters, max_size=5)


def with_floats(value: Any) -> Any:
    """The same JSON value with whole numbers written as 1.0."""
    if isinstance(value, dict):
        return {name: with_floats(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_floats(item) for item in value]
    return float(value) if type(value) is int else value


@given(requests)
def test_numbers_and_the_order_of_keys_do_not_change_the_key(request: Json) -> None:
    backwards = dict(reversed(request.items()))
    assert key("/p", 0, request) == key("/p", 0, with_floats(backwards))


@given(requests, st.sampled_from(["stream", "stream_options", "user", "seed"]))
def test_a_null_parameter_is_no_parameter(request: Json, name: str) -> None:
    request.pop(name, None)
    assert key("/p", 0, request | {name: None}) == key("/p", 0, request)


@given(requests, st.booleans())
def test_streaming_does_not_change_the_key(request: Json, usage: bool) -> None:
    streamed = request | {"stream": True, "stream_options": {"include_usage": usage}}
    assert key("/p", 0, streamed) == key("/p", 0, request)


@settings(max_examples=50)
@given(requests, st.text(), parameters)
def test_any_other_change_changes_the_key(request: Json, name: str, value: Any) -> None:
    if name in recordings.DELIVERY or with_floats(request.get(name)) == with_floats(value):
        return
    assert key("/p", 0, request | {name: value}) != key("/p", 0, request)
    assert key("/p", 1, request) != key("/p", 0, request) != key("/q", 0, request)


# ---- A miss


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"temperature": 0.7}, "temperature: wanted 0.7, recorded 0"),
        ({"max_tokens": None}, "max_tokens: wanted nothing, recorded 256"),
        ({"seed": 1}, "seed: wanted 1, recorded nothing"),
        ({"model": "large"}, 'model: wanted "large", recorded "small"'),
    ],
)
def test_a_miss_names_the_parameter_that_differs(
    replay: Server, changes: Json, difference: str
) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        ask(plain(replay), **changes)
    assert error.value.code == "recording_missing"
    assert difference in error.value.message
    assert "people.jsonl:1, where" in error.value.message


def miss_message(client: OpenAI, **changes: Any) -> str:
    with pytest.raises(openai.NotFoundError) as error:
        ask(client, **changes)
    assert isinstance(error.value.body, dict)
    return str(error.value.body["message"])


def test_a_miss_shows_the_place_where_a_message_differs(replay: Server) -> None:
    edited = {**QUESTION[0], "content": "Name the people in the text, one on a line."}
    message = miss_message(azure(replay), messages=[edited, QUESTION[1]])
    assert "message 1 (system): " in message
    assert 'one on a line."' in message and 'separated by commas."' in message
    assert "message 2" not in message


def test_a_miss_names_a_repeat_that_was_not_recorded(replay: Server) -> None:
    message = miss_message(plain(replay, repeat=7))
    assert "No recording of this request for repeat 7: " in message
    assert "people.jsonl:2 answers repeat 1. `make record` with `repeats: 8` or more" in message


def test_a_miss_leads_to_a_model_in_a_short_message(replay: Server) -> None:
    long = [{"role": "user", "content": f"{number} " + '"\n' * 9_000} for number in range(9)]
    message = miss_message(plain(replay), messages=long, stop=["x" * 2_000], model="m" * 2_000)
    assert len(message) <= 600
    assert "\n" not in message


def test_a_miss_is_not_tried_again(replay: Server) -> None:
    start = time.monotonic()
    with pytest.raises(openai.NotFoundError):
        ask(plain(replay, retries=5), seed=3)
    assert time.monotonic() - start < 0.5


def test_the_nearest_of_many_recordings_is_the_one_of_the_same_row(tmp_path: Path) -> None:
    def row(number: int, prompt: str) -> Json:
        text = f"Row {number} is about topic{number}."
        roles = {"system": prompt, "user": text}
        return {"messages": [{"role": role, "content": roles[role]} for role in roles]}

    lines = [recording(request=row(number, "Answer briefly.")) for number in range(1_000)]
    with Server("replay", write(tmp_path, *lines)) as server:
        message = miss_message(plain(server), **row(617, "Answer at length, please."))
    assert "people.jsonl:618" in message
    assert "message 1 (system): " in message


def test_the_same_prompt_to_another_model_is_nearer_than_another_prompt(tmp_path: Path) -> None:
    def asked(prompt: str, model: str) -> Json:
        return {"model": model, "messages": [{"role": "user", "content": prompt}]}

    lines = [
        recording(request=asked(*one)) for one in (("Be brief.", "a-b-c-4"), ("Be kind.", "d"))
    ]
    with Server("replay", write(tmp_path, *lines)) as server:
        message = miss_message(plain(server), **asked("Be kind.", "a-b-c-4"))
    assert 'people.jsonl:2, where it differs: model: wanted "a-b-c-4", recorded "d"' in message


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", b"not json", 400),
        ("/v1/chat/completions", b"[]", 400),
        ("/v1/completions", b'{"stream": true}', 400),
        ("", b"{}", 404),
    ],
)
def test_what_is_no_question_is_refused(
    replay: Server, path: str, body: bytes, status: int
) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(replay.url("local") + path, body))
    assert error.value.code == status
    assert set(json.load(error.value)["error"]) == {"code", "message"}


# ---- Record


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    """The stand-in for a real endpoint."""
    with StandIn(answers=[{"when": ["Ada Lovelace"], "answer": ANSWER}]) as model:
        yield model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `record` keeps the answers."""
    return tmp_path_factory.mktemp("record")


@pytest.fixture(scope="module")
def shared(model: StandIn, folder: Path) -> Iterator[Server]:
    with recorder(folder, model.url) as server:
        yield server


@pytest.fixture
def record(model: StandIn, shared: Server) -> Iterator[Server]:
    """One server for many tests, each of which asks a model of its own name."""
    yield shared
    model.fail()


def recorder(folder: Path, base: str) -> Server:
    targets = {
        "aoai": Target(base, "azure", {"api-key": SECRET}, {"api-version": "2030-01-01"}),
        "local": Target(base + "/v1", "openai", {"Authorization": f"Bearer {SECRET}"}),
        "nobody": Target(NOBODY, "azure"),
    }
    return Server("record", folder, targets, "recorded 2026-11-20")


def kept(folder: Path, model: str) -> list[Json]:
    """The recordings of one model's answers."""
    lines = lines_of(folder / "recorded.jsonl") if (folder / "recorded.jsonl").exists() else []
    return [line for line in lines if line["request"].get("model") == model]


def test_what_was_recorded_is_replayed(tmp_path: Path, model: StandIn) -> None:
    def conversation(server: Server) -> list[Any]:
        client = plain(server)
        return [
            ask(azure(server)).to_dict(),
            ask(client, model="large").to_dict(),
            client.embeddings.create(model="vectors", input=["a", "b"]).to_dict(),
            client.completions.create(model="small", prompt="Once").to_dict(),
            client.responses.create(model="small", input="Twice").to_dict(),
        ]

    with recorder(tmp_path, model.url) as server:
        recorded = conversation(server)
    asked = model.requests
    with Server("replay", tmp_path) as server:
        assert conversation(server) == recorded
    assert model.requests == asked
    assert recorded[0]["choices"][0]["message"]["content"] == ANSWER


def test_a_batch_is_answered_from_single_texts(tmp_path: Path, model: StandIn) -> None:
    def vectors(server: Server, *texts: str) -> list[list[float]]:
        made = azure(server).embeddings.create(model="v", input=list(texts), dimensions=4)
        assert [item.index for item in made.data] == list(range(len(texts)))
        return [item.embedding for item in made.data]

    with recorder(tmp_path, model.url) as server:
        a, b, c = vectors(server, "a", "b", "c")
        one = azure(server).embeddings.create(model="v", input="d", dimensions=4)
    assert [line["request"]["input"] for line in kept(tmp_path, "v")] == ["a", "b", "c", "d"]
    assert [len(line["response"]["data"]) for line in kept(tmp_path, "v")] == [1] * 4
    with Server("replay", tmp_path) as server:
        assert vectors(server, "c", "d", "a") == [c, one.data[0].embedding, a]
        assert vectors(server, "b") == [b]
        alone = azure(server).embeddings.create(model="v", input="a", dimensions=4)
        assert alone.data[0].embedding == a
        with pytest.raises(openai.NotFoundError, match=r"No recording of this request: .*Nobody"):
            vectors(server, "a", "Nobody recorded this")
        with pytest.raises(openai.NotFoundError, match="dimensions: wanted 8, recorded 4"):
            azure(server).embeddings.create(model="v", input=["a"], dimensions=8)


def test_a_recorded_batch_answers_its_texts(tmp_path: Path) -> None:
    items = [{"object": "embedding", "index": n, "embedding": [float(n)]} for n in (1, 0)]
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    line = {
        "path": "/embeddings",
        "repeat": 0,
        "request": {"model": "v", "input": ["zero", "one"]},
        "response": {"object": "list", "model": "v", "data": items, "usage": usage},
        "source": "x",
    }
    (tmp_path / "x.jsonl").write_text(json.dumps(line))
    with Server("replay", tmp_path) as server:
        for texts, numbers in ((["one"], [1]), (["one", "zero", "one"], [1, 0, 1]), ("zero", [0])):
            made = plain(server).embeddings.create(model="v", input=texts)
            assert [item.embedding for item in made.data] == [[number] for number in numbers]
            assert made.usage.total_tokens == 2 * len(numbers)


def test_the_endpoint_gets_its_key_and_the_file_none(
    record: Server, folder: Path, model: StandIn
) -> None:
    ask(azure(record), model="a")
    sent = model.last
    assert sent["path"] == "/openai/deployments/a/chat/completions"
    assert sent["query"] == "api-version=2030-01-01"
    assert sent["headers"]["api-key"] == SECRET
    ask(plain(record), model="b")
    sent = model.last
    assert sent["path"] == "/v1/chat/completions"
    assert sent["headers"]["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in (folder / "recorded.jsonl").read_text(encoding="utf-8")
    for line in kept(folder, "a") + kept(folder, "b"):
        assert set(line) == {"path", "repeat", "request", "response", "source"}
        assert set(line["request"]) == {"model", "messages", "temperature", "max_tokens"}
        assert line["source"] == "recorded 2026-11-20"


def test_an_answer_is_on_disk_before_the_client_goes_on(record: Server, folder: Path) -> None:
    for number in range(3):
        ask(plain(record, repeat=number), model="at once")
        assert len(kept(folder, "at once")) == number + 1


def test_a_stream_is_passed_on_and_kept_whole(record: Server, folder: Path) -> None:
    usage = {"include_usage": True}
    chunks = list(ask(plain(record), model="streamed", stream=True, stream_options=usage))
    whole = ask(plain(record), model="whole").to_dict()
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    [streamed] = kept(folder, "streamed")
    assert streamed["response"] == whole | {"model": "streamed"}
    assert "stream" not in streamed["request"]


def test_a_new_answer_replaces_the_old_one(tmp_path: Path, model: StandIn) -> None:
    write(tmp_path, recording())
    old = [recording(repeat=n, response=chat_body("old"), source="old") for n in range(3)]
    write(tmp_path, *old, name="recorded.jsonl")
    with recorder(tmp_path, model.url) as server:
        ask(plain(server, repeat=1))
    sources = [line["source"] for line in lines_of(tmp_path / "recorded.jsonl")]
    assert sources == ["old", "old", "recorded 2026-11-20"]
    assert describe(tmp_path) == "Replayed answers: 2 old, 1 recorded 2026-11-20."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people.jsonl", "recorded.jsonl"]


def test_an_error_is_passed_on_and_not_kept(record: Server, folder: Path, model: StandIn) -> None:
    model.fail({"status": 429, "retry_after": 17})
    with pytest.raises(openai.RateLimitError) as error:
        ask(azure(record), model="busy")
    assert error.value.response.headers["retry-after"] == "17"
    assert "The stand-in was told" in error.value.message
    assert kept(folder, "busy") == []


def test_the_clients_own_retry_works_through_the_server(
    record: Server, folder: Path, model: StandIn
) -> None:
    model.fail({"status": 429, "retry_after": 0, "times": 1}, {"drop": True, "times": 1})
    answer = ask(plain(record, retries=3), model="hesitant")
    assert answer.choices[0].message.content == ANSWER
    assert len(kept(folder, "hesitant")) == 1


@pytest.mark.parametrize("body", ["not json", '{"error": {"message": "overloaded"}}', "[1]"])
def test_what_is_no_answer_is_not_kept(
    record: Server, folder: Path, model: StandIn, body: str
) -> None:
    model.fail({"body": body})
    request = urllib.request.Request(
        record.url("local") + "/v1/chat/completions", b'{"model": "odd"}'
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.read().decode() == body
    assert kept(folder, "odd") == []


def test_an_unreachable_endpoint_is_named_by_its_host(record: Server) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        ask(azure(record, connection="nobody"))
    assert error.value.status_code == 502
    assert error.value.code == "endpoint_unreachable"
    assert "127.0.0.1: no answer (ConnectError)." in error.value.message
    assert "deployments" not in error.value.message


def test_a_connection_without_target_is_refused(record: Server) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        ask(azure(record, connection="other"))
    assert "other: no connection of this name." in error.value.message


def test_a_session_without_answers_leaves_no_file(tmp_path: Path) -> None:
    with recorder(tmp_path, NOBODY) as server, pytest.raises(openai.APIStatusError):
        ask(plain(server))
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_record_into_one_folder(tmp_path: Path) -> None:
    with recorder(tmp_path, NOBODY) as first:
        first.url("aoai")
        with (
            recorder(tmp_path, NOBODY) as second,
            pytest.raises(UserError, match="another `make record` writes here"),
        ):
            second.url("aoai")


# ---- Bad files


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", r"not JSON \(Expecting property name enclosed in double quotes, column 2\)"),
        (b'{"path": "\xff"}', r"not UTF-8 \(byte 11\)"),
        (b"[]", "not a JSON object"),
        (b'{"answer": 1}', "answer: unknown key .expected one of path, repeat, request"),
        (b'{"path": "/x", "request": {}}', "response: missing or not a JSON object"),
        (b'{"path": "/x", "request": {}, "response": {}, "repeat": -1}', "repeat: -1 is not"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, problem: str) -> None:
    write(tmp_path, recording())
    (tmp_path / "second.jsonl").write_bytes(b"\n\n" + line + b"\n")
    with Server("replay", tmp_path) as server, pytest.raises(UserError, match=problem) as error:
        server.url("aoai")
    assert str(error.value).startswith(f"{tmp_path / 'second.jsonl'}:3: ")
    assert "Traceback" not in str(error.value)
    with pytest.raises(UserError, match=problem):
        describe(tmp_path)


def test_two_answers_to_one_request_are_refused(tmp_path: Path) -> None:
    write(tmp_path, recording(), recording(), name="a.jsonl")
    write(tmp_path, recording(response=chat_body("other")), name="b.jsonl")
    with pytest.raises(UserError, match=r"b\.jsonl:1: request: .*a\.jsonl:1 answers it otherwise"):
        describe(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    lines = [json.dumps(recording(repeat=repeat)).encode() for repeat in range(2)]
    (tmp_path / "windows.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    with Server("replay", tmp_path) as server:
        for repeat in range(2):
            assert ask(plain(server, repeat=repeat)).choices[0].message.content == ANSWER


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "recordings").write_text("a file")
    with recorder(tmp_path / "recordings", NOBODY) as server, pytest.raises(UserError) as error:
        server.url("aoai")
    assert "recordings" in str(error.value)
    assert "cannot be written" in str(error.value)


# ---- What the report says


def test_the_report_says_where_the_answers_came_from(tmp_path: Path) -> None:
    write(tmp_path, *[recording(repeat=n) for n in range(3)])
    write(tmp_path, recording(repeat=3, source="recorded 2026-11-20"), name="recorded.jsonl")
    sentence = f"Replayed answers: 3 {BY_HAND}, 1 recorded 2026-11-20."
    assert describe(tmp_path) == sentence
    assert (
        describe(tmp_path / "none")
        == f"Replayed answers: none, {tmp_path / 'none'} holds no recordings."
    )


def test_the_digest_is_of_the_recordings_not_of_their_order(tmp_path: Path) -> None:
    one, two, three = (recording(repeat=n) for n in range(3))
    first = digest(write(tmp_path / "a", one, two, three))
    write(tmp_path / "b", three, one, name="x.jsonl")
    assert digest(tmp_path / "b") != first
    write(tmp_path / "b", two, name="y.jsonl")
    assert digest(tmp_path / "b") == first
    assert digest(tmp_path / "none") == digest(write(tmp_path / "c"))


# ---- The process


def child(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "llmops.recordings"],
        cwd=LIBRARY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps({"mode": "replay", "folder": str(folder)}) + "\n")
    process.stdin.flush()
    assert "port" in json.loads(process.stdout.readline())
    return process


@pytest.mark.parametrize("end", ["its parent has gone", "SIGTERM"])
def test_the_child_ends_with_code_0(tmp_path: Path, end: str) -> None:
    process = child(tmp_path)
    assert process.stdin
    if end == "SIGTERM":
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0
    assert process.communicate(timeout=5) == ("", "")
    assert process.returncode == 0


def test_the_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from llmops.recordings import Server
        server = Server("replay", Path(sys.argv[1]))
        print(server.url("aoai"), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    parent = [sys.executable, "-c", code, str(tmp_path)]
    url = subprocess.run(parent, cwd=LIBRARY, capture_output=True, text=True).stdout.strip()
    deadline = time.monotonic() + 5
    with pytest.raises(ConnectionRefusedError):
        while time.monotonic() < deadline:
            with suppress(ConnectionResetError):
                socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)).close()
            time.sleep(0.05)


def test_a_server_stops_twice_and_starts_again(tmp_path: Path) -> None:
    server = Server("replay", write(tmp_path, recording()))
    server.stop()
    for _ in range(2):
        with server:
            assert ask(plain(server)).choices[0].message.content == ANSWER
        server.stop()


def test_the_parent_does_not_import_the_web_stack() -> None:
    code = """if True:
        import sys, llmops.recordings
        heavy = {"starlette", "uvicorn", "httpx", "asyncio", "pydantic", "promptflow"}
        print(sorted(heavy & sys.modules.keys()))
    """
    run = subprocess.run([sys.executable, "-c", code], cwd=LIBRARY, capture_output=True, text=True)
    assert run.stdout == "[]\n"
