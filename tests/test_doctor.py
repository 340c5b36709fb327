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
from hypothesis import given, settings
from hypothesis import strategies as st
from llmops import connections, doctor

AOAI = {
    "name": "aoai",
    "connection_type": "AzureOpenAIConnection",
    "api_base": "${api_base}",
    "api_key": "${api_key}",
}
MARK = "qZ7-mark"


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
    (tmp_path / "experiment.yaml").write_text("name: x\nflow: flows/standard\n")
    (tmp_path / "experiment.pr.yaml").write_text("datasets: []\n")
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "answers.jsonl").write_text("{}\n\n{}\n{}")
    return tmp_path


def test_a_fresh_machine_replays(folder: Path) -> None:
    text, code = doctor.report([AOAI], {"ENV": "pr"}, folder)
    assert code == 0
    for words in (
        "replay: answers come from recordings/",
        "3 answers in 1 files",
        "lacks AOAI_API_KEY, AOAI_API_BASE",
        "with experiment.pr.yaml over it",
        "cp .env.example .env",
        "GB free",
        "A run can start.",
    ):
        assert words in text
    assert sorted(p.name for p in folder.iterdir()) == [
        "experiment.pr.yaml",
        "experiment.yaml",
        "recordings",
    ]


def test_live_endpoints_are_asked(folder: Path, endpoint: str) -> None:
    (folder / ".env").write_text(f"AOAI_API_KEY={MARK}\nAOAI_API_BASE={endpoint}\n")
    text, code = doctor.report([AOAI], connections.environment(folder), folder)
    assert code == 0, text
    assert "live: the models are asked" in text
    assert "AOAI_API_BASE (.env), AOAI_API_KEY (.env)" in text.replace(
        "AOAI_API_KEY (.env), AOAI_API_BASE (.env)", "AOAI_API_BASE (.env), AOAI_API_KEY (.env)"
    )
    assert "answers (0." in text
    assert MARK not in text


def test_an_endpoint_that_refuses_the_key(folder: Path, endpoint: str) -> None:
    env = {"AOAI_API_KEY": f"not-{MARK}", "AOAI_API_BASE": endpoint}
    text, code = doctor.report([AOAI], env, folder)
    assert code == 1
    assert "refuses the key (401): check AOAI_API_KEY" in text
    assert "To fix: aoai" in text
    assert MARK not in text
    assert doctor.report([AOAI], {**env, "LLM": "replay"}, folder)[1] == 0


def test_a_connection_nobody_uses_does_no_harm(folder: Path) -> None:
    item = {"name": "shared", "type": "open_ai", "api_key": MARK, "base_url": "http://127.0.0.1:9"}
    env = {"COMMON_DEV_CONNECTIONS": json.dumps([item])}
    text, code = doctor.report([AOAI], env, folder)
    assert code == 0
    assert "not used by this experiment" in text


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"LLM": "live"}, ["LLM=live", "AOAI_API_KEY"]),
        ({"LLM": "maybe"}, ["expected one of live, replay, record"]),
        ({"COMMON_DEV_CONNECTIONS": f"[{MARK}"}, ["COMMON_DEV_CONNECTIONS: line 1, column 2"]),
    ],
)
def test_what_stops_a_run(folder: Path, env: dict[str, str], words: list[str]) -> None:
    text, code = doctor.report([AOAI], env, folder)
    assert code == 1
    assert all(word in text for word in [*words, "FIX", "A run cannot start. To fix: mode."])
    assert MARK not in text


def test_a_folder_without_anything(tmp_path: Path) -> None:
    text, code = doctor.report([AOAI], {}, tmp_path)
    assert code == 1
    assert "experiment.yaml, recordings" in text


def test_a_bad_dotenv(folder: Path) -> None:
    (folder / ".env").write_text(f"{MARK}\n")
    text, code = doctor.report([AOAI], {}, folder)
    assert code == 1
    assert ".env: line 1" in text
    assert MARK not in text


def test_reports_that_cannot_be_written(folder: Path) -> None:
    # A file in its place: what a mode forbids, root may do.
    (folder / "reports").write_text("")
    text, code = doctor.report([AOAI], {}, folder)
    assert code == 1
    assert "To fix: reports/" in text


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    text, code = doctor.report([AOAI], {}, folder)
    assert code == 1
    assert "free at least 200 MB" in text


@given(head=st.text(max_size=10), tail=st.text(max_size=10))
@settings(max_examples=30, deadline=None)
def test_no_secret_is_ever_printed(
    tmp_path_factory: pytest.TempPathFactory, head: str, tail: str
) -> None:
    secret = f"{head}{MARK}{tail}"
    item = {"name": "shared", "type": "custom", "api_key": secret, "pin": secret}
    env = {"AOAI_API_KEY": secret, "COMMON_DEV_CONNECTIONS": json.dumps([item])}
    env |= {"AOAI_API_BASE": "http://127.0.0.1:9"}
    text, _ = doctor.report([AOAI], env, tmp_path_factory.getbasetemp())
    assert MARK not in text
