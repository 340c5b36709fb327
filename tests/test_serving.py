"""A flow served: what each request gets, good or bad, and what the server does about trouble."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Served, at_once
from usecase import UseCase, wait_until

Json = dict[str, Any]
KEY = "a-key-that-nobody-may-see"

TRICKS = '''
import os
import time
from pathlib import Path


def run(text: str, times: int = 1, options: dict = {}, tags: list = (), loud: bool = False):
    """Do what the text says."""
    if text == "raise":
        raise ValueError("no such word")
    if text == "exit":
        raise SystemExit("enough")
    if text == "nan":
        return {"answer": float("nan")}
    if text.startswith("hang"):
        time.sleep(float(text.split()[1]))
    if text == "die once":
        mark = Path(__file__).with_name("died")
        if not mark.exists():
            mark.touch()
            os._exit(3)
    if text == "die":
        os._exit(3)
    if text.startswith("count"):
        return {"answer": count(float(text.split()[1])), "times": times}
    return {"answer": text.upper() * times}


def count(pause):
    mark = Path(os.environ["MARK"])
    for number in range(20):
        mark.write_text(str(number))
        yield f"{number} "
        time.sleep(pause)
'''


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    made = UseCase(tmp_path)
    made.write("flows/standard/flow.py", TRICKS)
    made.configure(limits={"timeout_s": 20, "retries": 0})
    return made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for tests that leave it as it is."""
    made = UseCase(tmp_path_factory.mktemp("served"))
    made.write("flows/standard/flow.py", TRICKS)
    made.write("sample-request.json", '{"text": "hello"}')
    made.configure(limits={"timeout_s": 20, "retries": 0})
    with Served(made, WORKERS="1", MARK=str(made.folder / "mark")) as served:
        yield served


def problem(answer: httpx.Response, status: int, code: str) -> str:
    """The message of an error, after a look at its form."""
    assert answer.status_code == status, answer.text
    body = answer.json()["error"]
    assert body["code"] == code, answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["azureml-model-deployment"] == "default"
    return str(body["message"])


# ---- What is asked and answered


def test_a_request_gets_the_outputs_and_says_who_answered(served: Served) -> None:
    answer = served.score({"text": "hello", "times": 2}, **{"x-request-id": "mine-1"})
    assert answer.status_code == 200
    assert answer.json() == {"answer": "HELLOHELLO"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["azureml-model-deployment"] == "default"
    made = served.score({"text": "hello"}, **{"x-request-id": "not an id"})
    assert re.fullmatch("[0-9a-f]{32}", made.headers["x-request-id"])


def test_null_and_a_whole_float_are_what_json_means_by_them(served: Served) -> None:
    answer = served.score({"text": "a", "times": 2.0, "options": None, "loud": None})
    assert answer.json() == {"answer": "AA"}


def test_nan_which_json_does_not_know_becomes_null(served: Served) -> None:
    assert served.score({"text": "nan"}).text == '{"answer": null}'


def test_probes_answer_as_prompt_flows_own_server(served: Served) -> None:
    health = served.client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "Healthy")
    assert health.json()["version"] == served.client.get("/version").json()["flow_hash"][:12]
    assert served.client.get("/ready").json() == {"status": "Ready"}
    assert served.client.head("/health").status_code == 200
    version = served.client.get("/version").json()
    assert version["deployment"] == version["variant"] == "default"
    assert version["llm"] == "live", "the flow asks no model"


WRONG = [
    (b"{text: 1}", "invalid_json", "not JSON"),
    (b'{"text": NaN}', "invalid_json", "NaN is no JSON value"),
    (b"\xff\xfe", "invalid_json", "not JSON"),
    (b"[" * 100_000, "invalid_json", "nested too deeply"),
    (b"", "invalid_json", "not JSON"),
    (b"[1]", "invalid_inputs", "expected a JSON object"),
    (b"{}", "invalid_inputs", "missing input 'text' (string)"),
    (b'{"text": null}', "invalid_inputs", "input 'text' is of type null, expected string"),
    (b'{"text": 3}', "invalid_inputs", "input 'text' is of type integer, expected string"),
    (b'{"text": "a", "times": "2"}', "invalid_inputs", "'times' is of type string, expected int"),
    (b'{"text": "a", "times": true}', "invalid_inputs", "'times' is of type boolean"),
    (b'{"text": "a", "times": 1.5}', "invalid_inputs", "'times' is of type number"),
    (b'{"text": "a", "loud": 1}', "invalid_inputs", "'loud' is of type integer"),
    (b'{"text": "a", "options": []}', "invalid_inputs", "'options' is of type array"),
    (b'{"text": "a", "tags": {}}', "invalid_inputs", "'tags' is of type object"),
    (b'{"text": "a", "no": 1}', "invalid_inputs", "unknown input 'no' (the flow's inputs: text,"),
]


@pytest.mark.parametrize(("body", "code", "part"), WRONG)
def test_inputs_that_do_not_do_are_named(served: Served, body: bytes, code: str, part: str) -> None:
    headers = {"content-type": "application/json"}
    answer = served.client.post("/score", content=body, headers=headers)
    assert part in problem(answer, 400, code)


def test_every_wrong_input_is_named_at_once(served: Served) -> None:
    message = problem(served.score({"times": "x", "no": 1}), 400, "invalid_inputs")
    assert all(part in message for part in ("missing input 'text'", "'times'", "'no'"))


def test_the_wrong_method_path_or_media_type_is_told(served: Served) -> None:
    answer = served.client.get("/score")
    assert problem(answer, 405, "method_not_allowed") == "Use POST."
    assert answer.headers["allow"] == "POST"
    assert "/score" in problem(served.client.get("/scores"), 404, "not_found")
    form = served.client.post("/score", data={"text": "a"})
    assert "application/json" in problem(form, 415, "unsupported_media_type")
    page = served.score({"text": "a"}, accept="text/html")
    assert "application/json" in problem(page, 406, "not_acceptable")


def test_a_large_body_is_refused_whole_or_in_chunks(served: Served) -> None:
    body = json.dumps({"text": "a" * 10_000_000}).encode()
    headers = {"content-type": "application/json"}
    for content in (body, iter([body[:5_000_000], body[5_000_000:]])):
        answer = served.client.post("/score", content=content, headers=headers)
        assert "1,048,576 bytes" in problem(answer, 413, "too_large")
    assert served.score({"text": "a" * 500_000}).status_code == 200


def test_a_flow_that_raises_gets_500_and_the_server_goes_on(served: Served) -> None:
    assert (
        problem(served.score({"text": "raise"}), 500, "flow_failed") == "ValueError: no such word"
    )
    assert problem(served.score({"text": "exit"}), 500, "flow_failed") == "SystemExit: enough"
    assert served.score({"text": "a"}).json() == {"answer": "A"}


def test_the_log_has_a_line_a_request_and_not_what_was_said(served: Served) -> None:
    served.score({"text": "a secret thing"}, **{"x-request-id": "logged"})
    served.score({"text": "raise"}, **{"x-request-id": "failed"})
    lines = {line["request_id"]: line for line in served.lines}
    line = lines["logged"]
    assert line["status"] == 200
    assert line["deployment"] == "default"
    assert line["path"] == "/score"
    assert 0 < line["seconds"] < 20
    assert line["time"].endswith("+00:00")
    assert lines["failed"]["status"] == 500
    assert lines["failed"]["error"] == "flow_failed"
    assert "secret thing" not in served.log.read_text(encoding="utf-8").casefold()
    assert not any(line["path"] in ("/health", "/ready") for line in served.lines)


# ---- Trouble


def test_a_row_that_hangs_gets_504_and_its_worker_goes_on(use: UseCase) -> None:
    use.configure(limits={"timeout_s": 1, "retries": 0})
    with Served(use, WORKERS="1") as served:
        before = served.workers
        began = time.monotonic()
        assert "within 1 s" in problem(served.score({"text": "hang 30"}), 504, "timeout")
        assert time.monotonic() - began < 4
        assert served.score({"text": "a"}).status_code == 200
        assert served.workers == before


def test_a_worker_in_which_many_rows_hang_is_replaced_without_a_gap(use: UseCase) -> None:
    use.configure(limits={"timeout_s": 1, "retries": 0})
    found: list[int] = []
    with Served(use, WORKERS="1") as served:
        before = served.workers

        def ask() -> None:
            found.append(served.score({"text": "hang 600"}).status_code)

        at_once([threading.Thread(target=ask) for _ in range(20)])
        assert found == [504] * 20
        while served.workers == before or len(served.workers) > 1:
            assert served.score({"text": "a"}).status_code == 200
            time.sleep(0.1)
        assert served.score({"text": "a"}).status_code == 200


def test_a_worker_that_dies_is_started_again_and_no_answer_is_lost(use: UseCase) -> None:
    found: list[int] = []
    with Served(use, WORKERS="2") as served:
        before = served.workers

        def ask() -> None:
            found.append(served.score({"text": "hang 1.5"}).status_code)

        tasks = [threading.Thread(target=ask) for _ in range(10)]
        killer = threading.Timer(0.7, os.kill, (before[0], signal.SIGKILL))
        at_once([*tasks, killer])
        assert found == [200] * 10
        assert served.score({"text": "die once"}).json() == {"answer": "DIE ONCE"}
        assert "exit code 3" in problem(served.score({"text": "die"}), 500, "worker_died")
        wait_until(lambda: len(served.workers) == 2 and not {*served.workers} & {*before})
        served.wait()
        assert served.score({"text": "a"}).status_code == 200


def test_a_client_that_goes_away_harms_nobody(use: UseCase) -> None:
    found: list[int] = []
    with Served(use, WORKERS="1") as served:

        def leave() -> None:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{served.url}/score", json={"text": "hang 2"}, timeout=0.3)

        def ask() -> None:
            found.append(served.score({"text": "hang 1"}).status_code)

        at_once([threading.Thread(target=task) for task in (leave, ask) * 5])
        assert found == [200] * 5
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as half:
            half.sendall(b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert served.score({"text": "a"}).status_code == 200
        wait_until(lambda: any(line["status"] == 499 for line in served.lines))
        assert "Traceback" not in served.log.read_text(encoding="utf-8")


def test_no_more_requests_than_the_limit_are_under_way(use: UseCase, tmp_path: Path) -> None:
    with Served(use, WORKERS="1", CONCURRENCY="2") as served:
        first = [
            threading.Thread(target=lambda: served.score({"text": "hang 2"})) for _ in range(2)
        ]
        for task in first:
            task.start()
        time.sleep(0.7)
        answer = served.score({"text": "a"})
        assert "2 requests" in problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "1"
        assert served.client.get("/health").status_code == 200
        assert served.client.get("/ready").status_code == 503
        for task in first:
            task.join()
        assert served.score({"text": "a"}).status_code == 200


def test_before_the_flow_is_loaded_it_is_not_ready(use: UseCase) -> None:
    use.write("flows/standard/flow.py", "import time\n\ntime.sleep(3)\n" + TRICKS)
    with Served(use, wait=False, WORKERS="1") as served:
        assert served.client.get("/health").status_code == 200
        answer = served.client.get("/ready")
        assert "not loaded" in problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"]
        assert served.score({"text": "a"}).status_code == 503
        served.wait()
        assert served.score({"text": "a"}).status_code == 200


def test_sigterm_lets_what_is_under_way_finish_and_ends_with_0(use: UseCase) -> None:
    found: list[Any] = []
    with Served(use, WORKERS="1") as served:
        task = threading.Thread(target=lambda: found.append(served.score({"text": "hang 2"})))
        task.start()
        time.sleep(0.7)
        began = time.monotonic()
        assert served.stop() == 0
        assert 0.5 < time.monotonic() - began < 10
        task.join()
        assert found[0].json() == {"answer": "HANG 2"}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{served.url}/health")


def test_nothing_is_left_behind(use: UseCase) -> None:
    with Served(use, WORKERS="2") as served:
        served.score({"text": "a"})
        workers = served.workers
        assert served.stop(signal.SIGINT) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert use.leftovers() == []


REFUSED = [
    ({"VARIANTS": "all"}, ("VARIANTS", "Name one")),
    ({"LLM": "record"}, ("LLM", "live, replay")),
    ({"WORKERS": "none"}, ("WORKERS", "1 or more")),
    ({"PORT": "http"}, ("PORT", "'http'")),
]


@pytest.mark.parametrize(("variables", "parts"), REFUSED)
def test_settings_that_do_not_do_are_refused(
    use: UseCase, variables: dict[str, str], parts: tuple[str, ...]
) -> None:
    use.configure(parameters={"times": [1, 2]} if "VARIANTS" in variables else {})
    use.run("serve", **variables).refused(*parts)


def test_a_flow_that_does_not_load_and_a_port_that_is_taken_are_refused(use: UseCase) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        use.run("serve", PORT=str(other.getsockname()[1])).refused("cannot listen", "PORT")
    use.write(
        "flows/standard/flow.py", "import nothing_like_it\n\n\ndef run(text):\n    return {}\n"
    )
    use.run("serve", PORT="0").refused("nothing_like_it")
