"""`make doctor`: what it says of a folder and an environment, and when it fails."""

from __future__ import annotations

import json
import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from llmops import doctor, stages
from llmops.settings import Settings

EXPERIMENT = """\
name: x
flow: flows/standard
connections:
  - {name: aoai, api_base: "${api_base}", api_key: "${api_key}"}
"""
ANSWER = '{"path": "/chat/completions", "request": {"model": "m%d"}, "response": {}}\n'
MARK = "qZ7-mark"
DEFAULT = Settings()
# What can stand in a variable of the process.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)


class Models(BaseHTTPRequestHandler):
    """A list of models for the key that is MARK, and 401 for any other."""

    def do_GET(self) -> None:
        self.send_response(200 if self.headers["api-key"] == MARK else 401)
        self.end_headers()
        self.wfile.write(b'{"data": []}')

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    (tmp_path / "experiment.pr.yaml").write_text("datasets: []\n")
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "answers.jsonl").write_text(ANSWER % 1 + "\n" + ANSWER % 2)
    return tmp_path


def say(folder: Path, env: dict[str, str], settings: Settings = DEFAULT) -> tuple[str, int]:
    """The report with these variables set."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        return doctor.report(settings, folder)


def test_a_fresh_machine_replays(folder: Path) -> None:
    text, code = say(folder, {}, Settings(env="pr"))
    assert code == 0
    for words in (
        "replay: answers come from recordings/",
        "2 answers",
        "lacks AOAI_API_KEY, AOAI_API_BASE",
        "valid for ENV=pr",
        "cp .env.example .env",
        "GB free",
        "Nothing above stops a run. Whether flows and data fit, `make validate` says.",
    ):
        assert words in text
    assert sorted(p.name for p in folder.iterdir()) == [
        "experiment.pr.yaml",
        "experiment.yaml",
        "recordings",
    ]


def test_live_endpoints_are_asked(folder: Path, endpoint: str) -> None:
    (folder / ".env").write_text(f"AOAI_API_KEY={MARK}\nAOAI_API_BASE={endpoint}\n")
    text, code = say(folder, {})
    assert code == 0, text
    assert "live: the models are asked" in text
    assert "answers (0." in text
    assert MARK not in text


def test_an_endpoint_that_refuses_the_key(folder: Path, endpoint: str) -> None:
    env = {"AOAI_API_KEY": f"not-{MARK}", "AOAI_API_BASE": endpoint}
    text, code = say(folder, env)
    assert code == 1
    assert "refuses the key (401): check AOAI_API_KEY" in text
    assert "To fix: connection aoai." in text
    assert MARK not in text
    assert say(folder, env, Settings(llm="replay"))[1] == 0


def test_llm_and_env_are_not_read_from_dotenv(folder: Path) -> None:
    (folder / ".env").write_text("LLM=live\nENV=nowhere\n")
    text, code = say(folder, {})
    assert code == 0, text
    assert "valid for ENV=dev" in text


def test_connections_of_the_shared_list_that_nobody_uses_do_no_harm(folder: Path) -> None:
    item = {"name": "shared", "type": "open_ai", "api_key": MARK, "base_url": "http://127.0.0.1:9"}
    text, code = say(folder, {"COMMON_DEV_CONNECTIONS": json.dumps([item])})
    assert code == 0
    assert "shared" not in text


def test_a_custom_connection_is_not_asked(folder: Path, endpoint: str) -> None:
    entry = "  - {name: c, connection_type: custom, configs: {index: docs}}\n"
    (folder / "experiment.yaml").write_text(EXPERIMENT + entry)
    text, code = say(folder, {"AOAI_API_KEY": MARK, "AOAI_API_BASE": endpoint})
    assert code == 0, text
    assert "CustomConnection: complete, not asked" in text


@pytest.mark.parametrize(
    ("env", "llm", "words"),
    [
        ({}, "live", ["LLM=live", "AOAI_API_KEY"]),
        ({}, "maybe", ["expected one of live, replay, record"]),
        ({"COMMON_DEV_CONNECTIONS": f"[{MARK}"}, None, ["COMMON_DEV_CONNECTIONS", "column 2"]),
    ],
)
def test_what_stops_a_run(folder: Path, env: dict[str, str], llm: str, words: list[str]) -> None:
    text, code = say(folder, env, Settings(llm=llm))
    assert code == 1
    assert all(word in text for word in [*words, "FIX", "A run cannot start. To fix: settings"])
    assert MARK not in text


def test_a_folder_without_anything(tmp_path: Path) -> None:
    text, code = say(tmp_path, {})
    assert code == 1
    assert "experiment.yaml: not found" in text


def test_a_replay_without_recordings(folder: Path) -> None:
    (folder / "recordings" / "answers.jsonl").unlink()
    text, code = say(folder, {})
    assert code == 1
    assert "To fix: recordings." in text


def test_a_bad_dotenv(folder: Path) -> None:
    (folder / ".env").write_text(f"{MARK}\n")
    text, code = say(folder, {})
    assert code == 1
    assert ".env: line 1" in text
    assert MARK not in text


def test_reports_that_cannot_be_written(folder: Path) -> None:
    # A file in its place: what a mode forbids, root may do.
    (folder / "reports").write_text("")
    text, code = say(folder, {})
    assert code == 1
    assert "To fix: reports/" in text


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    text, code = say(folder, {})
    assert code == 1
    assert "free at least 200 MB" in text


def test_the_stage_prints_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert stages.doctor(Settings()) == 0
    assert "Nothing above stops a run." in capsys.readouterr().out


@given(head=TEXT, tail=TEXT)
@effort(max_examples=30, deadline=None)
def test_no_secret_is_ever_printed(
    tmp_path_factory: pytest.TempPathFactory, head: str, tail: str
) -> None:
    secret = f"{head}{MARK}{tail}"
    folder = tmp_path_factory.getbasetemp()
    (folder / "experiment.yaml").write_text(EXPERIMENT + "  - {name: shared}\n")
    item = {"name": "shared", "type": "custom", "api_key": secret, "pin": secret}
    env = {"AOAI_API_KEY": secret, "COMMON_DEV_CONNECTIONS": json.dumps([item])}
    text, _ = say(folder, env | {"AOAI_API_BASE": "http://127.0.0.1:9"})
    assert MARK not in text
