"""Connections: every form in which they are written, no form in which a secret is shown."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from llmops import config, connections
from llmops.connections import Connection, choose_mode
from llmops.endpoints import check
from llmops.errors import UserError
from llmops.recordings import Target

AOAI = {
    "name": "aoai",
    "connection_type": "AzureOpenAIConnection",
    "api_base": "${api_base}",
    "api_key": "${api_key}",
    "api_type": "azure",
    "api_version": "2024-02-01",
}
BASE = "https://unit.openai.azure.com/"
OLLAMA = "http://localhost:11434/v1"


def listed(*items: dict[str, Any]) -> dict[str, str]:
    return {"COMMON_DEV_CONNECTIONS": json.dumps(items)}


def azure(**more: Any) -> dict[str, Any]:
    return {"name": "aoai", "type": "azure_open_ai", "api_base": BASE, "api_key": "k1", **more}


def load(entries: list[dict[str, Any]], env: dict[str, str]) -> dict[str, Connection]:
    return connections.load([config.Connection(**entry) for entry in entries], env)


def only(entries: list[dict[str, Any]], env: dict[str, str]) -> Connection:
    (connection,) = load(entries, env).values()
    return connection


def given(item: dict[str, Any]) -> Connection:
    """A connection of which experiment.yaml says the name alone."""
    return only([{"name": item["name"]}], listed(item))


# --- forms -------------------------------------------------------------------------------------

FORMS: dict[str, tuple[list[dict[str, Any]], dict[str, str], dict[str, str]]] = {
    "plain variables": (
        [AOAI],
        {"AOAI_API_KEY": "k1", "AOAI_API_BASE": BASE},
        {"api_key": "k1", "api_base": BASE, "api_version": "2024-02-01"},
    ),
    "a variable of another name": (
        [{**AOAI, "api_key": "${TEAM_KEY}"}],
        {"TEAM_KEY": "k1", "AOAI_API_BASE": BASE},
        {"api_key": "k1", "api_base": BASE},
    ),
    "a part of an address": (
        [{**AOAI, "api_base": "https://${resource}.openai.azure.com"}],
        {"AOAI_API_KEY": "k1", "AOAI_RESOURCE": "unit"},
        {"api_base": "https://unit.openai.azure.com"},
    ),
    "api_endpoint for api_base": (
        [{"name": "aoai", "connection_type": "azure_open_ai", "api_endpoint": BASE}],
        {"AOAI_API_KEY": "k1"},
        {"api_key": "k1", "api_base": BASE},
    ),
    "the type's own word wins over its synonyms": (
        [{**AOAI, "api_base": BASE, "api_endpoint": "https://other/"}],
        {"AOAI_API_KEY": "k1"},
        {"api_base": BASE},
    ),
    "plain variables override the entry": (
        [{**AOAI, "api_version": "2023-03-15-preview"}],
        {"AOAI_API_KEY": "k1", "AOAI_API_BASE": BASE, "AOAI_API_VERSION": "2024-06-01"},
        {"api_version": "2024-06-01"},
    ),
    "the shared list": ([AOAI], listed(azure()), {"api_key": "k1", "api_base": BASE}),
    "the shared list overrides plain variables": (
        [AOAI],
        {"AOAI_API_KEY": "old", **listed(azure())},
        {"api_key": "k1"},
    ),
    "a line in the connection's name": (
        [AOAI],
        {"aoai": json.dumps({"api_key": "k1", "api_base": BASE, "api_type": "azure"})},
        {"api_key": "k1", "api_base": BASE},
    ),
    "a line in capitals": (
        [AOAI],
        {"AOAI": json.dumps({"api_key": "k1", "api_base": BASE})},
        {"api_key": "k1"},
    ),
    "a line overrides the shared list": (
        [AOAI],
        {**listed(azure(api_key="old")), "aoai": '{"api_key": "k1"}'},
        {"api_key": "k1", "api_base": BASE},
    ),
    "an empty text is unset": (
        [AOAI],
        {"AOAI_API_KEY": "k1", "AOAI_API_BASE": BASE, "aoai": '{"api_key": "", "api_base": ""}'},
        {"api_key": "k1", "api_base": BASE},
    ),
    "a placeholder replaces no value": (
        [AOAI],
        {
            "AOAI_API_KEY": "k1",
            "AOAI_API_BASE": BASE,
            **listed(azure(api_key="xxxxxxxxxxxx", api_base="https://xxxxx/")),
        },
        {"api_key": "k1", "api_base": BASE},
    ),
    "a secret is taken literally": (
        [AOAI],
        {"AOAI_API_KEY": "a${api_base}%$#", "AOAI_API_BASE": BASE},
        {"api_key": "a${api_base}%$#"},
    ),
    "an item with connection_type": (
        [{"name": "aoai"}],
        listed(azure(type=None, connection_type="AzureOpenAIConnection")),
        {"api_key": "k1", "api_base": BASE},
    ),
    "the list as the documents show it": (
        [AOAI],
        {"COMMON_DEV_CONNECTIONS": json.dumps([azure(), azure(name="b")], indent="\t")},
        {"api_key": "k1", "api_base": BASE},
    ),
    "numbers, dates and truth values": (
        [{"name": "aoai", "connection_type": "custom"}],
        {"aoai": '{"configs": {"top": 4, "strict": true, "none": null}}'},
        {"top": "4", "strict": "true"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read(form: str) -> None:
    entries, env, expected = FORMS[form]
    connection = only(entries, env)
    found = connection.as_promptflow()["value"]
    assert {key: found[key] for key in expected} == expected
    assert connection.missing == ()
    assert choose_mode({"aoai": connection}, None) == "live"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("azure_open_ai", "AzureOpenAIConnection"),
        ("AzureOpenAIConnection", "AzureOpenAIConnection"),
        ("open_ai", "OpenAIConnection"),
        ("serverless", "ServerlessConnection"),
        ("custom", "CustomConnection"),
        ("CognitiveSearchConnection", "CognitiveSearchConnection"),
    ],
)
def test_types_have_short_names(word: str, expected: str) -> None:
    assert given({"name": "c", "type": word}).type == expected
    assert only([{"name": "c"}], {"c": json.dumps({"type": word})}).type == expected
    assert only([{"name": "c", "connection_type": word}], {}).type == expected
    assert only([AOAI | {"name": "c"}], {"C_CONNECTION_TYPE": word}).type == expected


def test_only_connections_that_experiment_yaml_names_are_used() -> None:
    env = {**listed(azure(), {"name": "other", "type": "nonsense"}), "mine": '{"api_key": "k"}'}
    assert set(load([AOAI], env)) == {"aoai"}
    assert load([], env) == {}


def test_a_local_model_needs_no_key_and_leaves_azure_behind() -> None:
    env = {
        "AOAI_API_BASE": BASE,
        "AOAI_API_KEY": "azure-key",
        "aoai": json.dumps({"type": "open_ai", "base_url": OLLAMA, "model": "llama3.2"}),
    }
    connection = only([AOAI], env)
    assert (connection.type, connection.model) == ("OpenAIConnection", "llama3.2")
    assert connection.upstream().base == OLLAMA
    assert connection.as_environment()["AOAI_MODEL"] == "llama3.2"
    without_key = only([AOAI], {key: env[key] for key in ("AOAI_API_BASE", "aoai")})
    assert without_key.as_promptflow()["value"] == {
        "base_url": OLLAMA,
        "api_key": connections.NO_KEY,
    }
    plain = {"AOAI_CONNECTION_TYPE": "open_ai", "AOAI_BASE_URL": OLLAMA, "AOAI_MODEL": "m"}
    assert only([AOAI], plain).missing == ()


def test_the_azure_address_is_not_sent_an_openai_key() -> None:
    env = {"AOAI_API_BASE": BASE, "aoai": '{"type": "open_ai", "api_key": "k"}'}
    assert only([AOAI], env).upstream().base == connections.OPENAI_URL


def test_a_custom_connection_keeps_configs_and_secrets_apart() -> None:
    entry = {
        "name": "search",
        "connection_type": "CustomConnection",
        "configs": {"endpoint": "https://search.example", "index": "${index}"},
        "secrets": {"pin": "${pin}"},
    }
    connection = only([entry], {"SEARCH_INDEX": "docs", "SEARCH_PIN": "1234"})
    assert connection.values == {"endpoint": "https://search.example", "index": "docs"}
    assert connection.as_promptflow()["secret_keys"] == ["pin"]
    assert only([entry], {}).missing == ("SEARCH_INDEX", "SEARCH_PIN")
    item = {"name": "search", "type": "custom", "configs": {"index": "docs"}, "anything": "s"}
    connection = given(item)
    assert (connection.values, list(connection.secrets)) == ({"index": "docs"}, ["anything"])


# --- bad input ---------------------------------------------------------------------------------

SLIP = "s3cret-slip"


@pytest.mark.parametrize(
    ("entries", "env", "words"),
    [
        ([], {"COMMON_DEV_CONNECTIONS": f'[{{"name": "a",\n "{SLIP}'}, ["line 2 column"]),
        ([], {"COMMON_DEV_CONNECTIONS": f'{{"name": "{SLIP}"}}'}, ["not a JSON list"]),
        ([], {"COMMON_DEV_CONNECTIONS": f'["{SLIP}"]'}, ["objects with a name"]),
        ([], listed({"type": SLIP}), ["COMMON_DEV_CONNECTIONS", "name"]),
        ([AOAI], listed(azure(type=SLIP)), ["aoai", "expected", "azure_open_ai"]),
        ([AOAI], listed(azure(configs=SLIP)), ["aoai", "configs and secrets"]),
        ([], {"COMMON_DEV_CONNECTIONS": "[" * 100_000}, ["not JSON"]),
        ([AOAI], {"aoai": "{" + SLIP}, ["aoai: not JSON", "line 1 column 2"]),
        ([AOAI], {"AOAI": "{" + SLIP}, ["AOAI: not JSON"]),
        ([AOAI], {"AOAI_API_BASE": f"{SLIP}.example"}, ["'aoai'", "api_base", "AOAI_API_BASE"]),
        ([AOAI], {"AOAI_API_BASE": f"https://h:{SLIP}"}, ["not an address"]),
        ([AOAI], {"AOAI_API_BASE": f"https://[{SLIP}"}, ["not an address"]),
        ([AOAI], {"AOAI_API_BASE": f"https://me:{SLIP}@h/"}, ["no user, password or query"]),
        ([{**AOAI, "connection_type": "Azur"}], {}, ["connections: aoai", "'Azur'", "open_ai"]),
        ([AOAI], {"AOAI_CONNECTION_TYPE": SLIP}, ["AOAI_CONNECTION_TYPE", "expected one of"]),
    ],
)
def test_bad_input_says_where_and_never_what(
    entries: list[dict[str, Any]], env: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        load(entries, env)
    assert all(word in str(caught.value) for word in words)
    assert SLIP not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_connection_may_be_called_like_a_variable_of_the_system() -> None:
    env = {"HOME": "/root", "home": "/root"}
    assert only([{**AOAI, "name": "home"}], env).type == "AzureOpenAIConnection"


# --- .env --------------------------------------------------------------------------------------


def test_environment_goes_over_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "# keys",
        "",
        'aoai={"api_key": "k1", "api_base": "https://h/", "api_type": "azure"}',
        "export PLAIN=${HOME}",
        "MINE=file",
        "COMMON_DEV_CONNECTIONS='[",
        '{"name": "other", "type": "open_ai"}',
        "]'",
    ]
    (tmp_path / ".env").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    monkeypatch.setenv("MINE", "process")
    before = dict(os.environ)
    env = connections.environment(tmp_path)
    assert (env["PLAIN"], env["MINE"]) == ("${HOME}", "process")
    found = load([AOAI, {"name": "other"}], env)
    assert [(c.type, c.missing) for c in found.values()] == [
        ("AzureOpenAIConnection", ()),
        ("OpenAIConnection", ("OTHER_API_KEY",)),
    ]
    assert dict(os.environ) == before
    assert connections.environment(tmp_path / "nowhere") == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"A=1\n\n\n{SLIP}\n", ["line 4", "not NAME=value"]),
        (f'A=1\nB="{SLIP}\n', ["line 2"]),
        (f'COMMON_DEV_CONNECTIONS=[\n{{"name": "{SLIP}"}}\n]\n', ["line 2", "single quotes"]),
        (b"A=\xff\xfe".decode("latin-1") + SLIP, ["not UTF-8"]),
    ],
)
def test_a_bad_line_of_dotenv(tmp_path: Path, content: str, words: list[str]) -> None:
    encoding = "latin-1" if "\xff" in content else "utf-8"
    (tmp_path / ".env").write_bytes(content.encode(encoding))
    with pytest.raises(UserError) as caught:
        connections.environment(tmp_path)
    assert all(word in str(caught.value) for word in [".env", *words])
    assert SLIP not in str(caught.value)


# --- what is missing, and the mode -------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "env", "expected"),
    [
        (AOAI, {}, ["AOAI_API_KEY", "AOAI_API_BASE"]),
        (AOAI, {"aoai": '{"api_key": "", "api_base": ""}'}, ["AOAI_API_KEY", "AOAI_API_BASE"]),
        (AOAI, {"AOAI_API_KEY": "k", "AOAI_API_BASE": "https://….azure.com/"}, ["AOAI_API_BASE"]),
        (AOAI, {"AOAI_API_KEY": "<key>", "AOAI_API_BASE": BASE}, ["AOAI_API_KEY"]),
        (AOAI, {"AOAI_API_KEY": "xxxxxxxx", "AOAI_API_BASE": BASE}, ["AOAI_API_KEY"]),
        (AOAI, {"AOAI_API_KEY": "k", "AOAI_API_BASE": "https://xxxxxx/"}, ["AOAI_API_BASE"]),
        (
            AOAI,
            {"AOAI_API_KEY": "k", "AOAI_API_BASE": "https://<your service name>.openai.azure.com/"},
            ["AOAI_API_BASE"],
        ),
        ({**AOAI, "api_key": "${TEAM_KEY}"}, {"AOAI_API_BASE": BASE}, ["TEAM_KEY"]),
        ({**AOAI, "api_base": "https://${RES}.x"}, {"AOAI_API_KEY": "k"}, ["RES"]),
        ({**AOAI, "api_type": "azure_ad"}, {"AOAI_API_BASE": BASE}, []),
        ({**AOAI, "auth_mode": "meid_token"}, {}, ["AOAI_API_BASE"]),
        ({"name": "my-ai", "connection_type": "OpenAIConnection"}, {}, ["MY_AI_API_KEY"]),
        ({"name": "o", "connection_type": "open_ai"}, {"O_API_KEY": "k"}, []),
        ({"name": "o", "connection_type": "open_ai"}, {"O_BASE_URL": OLLAMA}, []),
        (
            {"name": "o", "connection_type": "open_ai"},
            {"O_BASE_URL": "https://<host>/v1", "O_API_KEY": "k"},
            ["O_BASE_URL"],
        ),
        (
            {"name": "s", "connection_type": "serverless"},
            {"S_API_KEY": "k"},
            ["S_API_BASE"],
        ),
        ({"name": "c", "connection_type": "custom", "configs": {"empty": ""}}, {}, []),
    ],
)
def test_missing_variables(entry: dict[str, Any], env: dict[str, str], expected: list[str]) -> None:
    assert only([entry], env).missing == tuple(expected)


READY = {"AOAI_API_KEY": "k", "AOAI_API_BASE": BASE}
OTHER = {"name": "other", "connection_type": "open_ai"}
SEARCH = {"name": "search", "connection_type": "custom", "configs": {"index": "docs"}}


@pytest.mark.parametrize(
    ("entries", "env", "requested", "mode"),
    [
        ([], {}, None, "live"),
        ([AOAI], {}, None, "replay"),
        ([AOAI, OTHER], {}, "", "replay"),
        ([AOAI, SEARCH], {}, None, "replay"),
        ([AOAI], READY, None, "live"),
        ([AOAI], READY, "record", "record"),
        ([AOAI], READY, "replay", "replay"),
        ([AOAI, OTHER], READY, "replay", "replay"),
        ([AOAI], {**READY, **listed({"name": "shared", "type": "open_ai"})}, None, "live"),
        ([AOAI], listed({"name": "shared", "type": "open_ai", "api_key": "k"}), None, "replay"),
    ],
)
def test_mode(
    entries: list[dict[str, Any]], env: dict[str, str], requested: str | None, mode: str
) -> None:
    assert choose_mode(load(entries, env), requested) == mode


@pytest.mark.parametrize(
    ("entries", "env", "requested", "words"),
    [
        ([AOAI], {}, "live", ["LLM=live", "AOAI_API_KEY, AOAI_API_BASE", "LLM=replay"]),
        ([AOAI], {"AOAI_API_KEY": "k"}, "record", ["'aoai' lacks AOAI_API_BASE"]),
        ([AOAI, OTHER], READY, None, ["'aoai' is complete", "'other' lacks OTHER_API_KEY"]),
        ([AOAI], READY, "on", ["LLM: value 'on'", "live, replay, record"]),
        ([{**AOAI, "api_type": "azure_ad"}], READY, "record", ["recording needs a key"]),
    ],
)
def test_mode_refused(
    entries: list[dict[str, Any]], env: dict[str, str], requested: str | None, words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        choose_mode(load(entries, env), requested)
    assert all(word in str(caught.value) for word in words)


# --- what flows and the recording server get ---------------------------------------------------

EVERY_TYPE: dict[str, dict[str, Any]] = {
    "AzureOpenAIConnection": {"api_base": BASE, "api_version": "2024-06-01"},
    "OpenAIConnection": {"base_url": "https://h.example/v1", "organization": "org"},
    "ServerlessConnection": {"api_base": "https://h.example"},
    "CognitiveSearchConnection": {"api_base": "https://h.example"},
    "AzureAIServicesConnection": {"endpoint": "https://h.example"},
    "AzureContentSafetyConnection": {"endpoint": "https://h.example"},
    "FormRecognizerConnection": {"endpoint": "https://h.example"},
    "SerpConnection": {},
}
LOOPBACK = "http://127.0.0.1:1/c/0"
CASES = {
    **{kind: {"type": kind, "api_key": "k1", **more} for kind, more in EVERY_TYPE.items()},
    "custom": {"type": "custom", "configs": {"index": "i", "none": ""}, "pin": "1234"},
    "keyless": {"type": "azure_open_ai", "api_base": BASE, "api_type": "azure_ad"},
    "default": {"type": "open_ai", "api_key": "k1"},
}
# In a child and without the devkit, whose import alone calls home.
BUILD = """
import importlib.util, json, sys, types
package = types.ModuleType("promptflow")
package.__path__ = list(importlib.util.find_spec("promptflow").submodule_search_locations)
sys.modules["promptflow"] = package
from promptflow.core._connection_provider._dict_connection_provider import DictConnectionProvider
given = json.load(sys.stdin)
provider = DictConnectionProvider(given)
real = {name: provider.get(name) for name in given}
print(json.dumps({n: [type(c).__name__, *map(vars(c).get, ("configs", "secrets"))]
                  if "configs" in vars(c) else [type(c).__name__, {}, vars(c)]
                  for n, c in real.items()}, default=str))
"""


def case(name: str) -> Connection:
    return given({"name": "c", **CASES[name]})


@pytest.fixture(scope="module")
def real() -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """What promptflow makes of each case, directly and through a server: type, configs, secrets."""
    given = {name: case(name).as_promptflow() for name in CASES}
    given |= {f"{name} served": case(name).through(LOOPBACK).as_promptflow() for name in CASES}
    done = subprocess.run(
        [sys.executable, "-c", BUILD],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    built: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = json.loads(done.stdout)
    return built


@pytest.mark.parametrize("kind", EVERY_TYPE)
def test_promptflow_builds_each_type(kind: str, real: Any) -> None:
    name, configs, secrets = real[kind]
    assert name == kind
    assert {key: configs[key] for key in EVERY_TYPE[kind]} == EVERY_TYPE[kind]
    assert secrets["api_key"] == "k1"
    assert case(kind).as_promptflow()["secret_keys"] == ["api_key"]


def test_promptflow_builds_the_others(real: Any) -> None:
    assert real["custom"][1:] == [{"index": "i", "none": ""}, {"pin": "1234"}]
    assert real["default"][1]["base_url"] == connections.OPENAI_URL
    _, configs, secrets = real["keyless"]
    assert (configs["auth_mode"], configs["api_type"], secrets) == ("meid_token", "azure", {})


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("AzureOpenAIConnection", "api_base", LOOPBACK),
        ("keyless", "api_base", LOOPBACK),
        ("OpenAIConnection", "base_url", f"{LOOPBACK}/v1"),
        ("default", "base_url", f"{LOOPBACK}/v1"),
        ("ServerlessConnection", "api_base", f"{LOOPBACK}/v1"),
    ],
)
def test_through_the_recording_server(name: str, key: str, expected: str, real: Any) -> None:
    _, configs, secrets = real[f"{name} served"]
    assert (configs[key], configs.get("auth_mode", "key")) == (expected, "key")
    assert secrets == {"api_key": connections.REPLAYED_KEY}
    child = case(name).through(LOOPBACK).as_environment()
    assert child[f"C_{key.upper()}"] == expected
    assert child["C_API_KEY"] == connections.REPLAYED_KEY


def test_custom_connections_are_left_alone() -> None:
    connection = case("custom")
    assert connection.through(LOOPBACK) is connection
    assert not connection.served


def test_another_type_of_promptflow_passes_through() -> None:
    entry = {
        "name": "search",
        "connection_type": "CognitiveSearchConnection",
        "api_base": "https://h",
    }
    connection = only([entry | {"api_key": "${api_key}"}], {"SEARCH_API_KEY": "k1"})
    assert connection.as_promptflow() == {
        "type": "CognitiveSearchConnection",
        "module": "promptflow.connections",
        "value": {"api_base": "https://h", "api_key": "k1"},
        "secret_keys": ["api_key"],
    }
    assert "https://h" in connection.address
    assert only([entry], {"SEARCH_API_KEY": "k1"}).secrets.keys() == {"api_key"}


def test_upstream() -> None:
    assert given(azure(api_version="v")).upstream() == Target(
        "https://unit.openai.azure.com", "azure", {"api-key": "k1"}, {"api-version": "v"}
    )
    openai = {"name": "o", "type": "open_ai", "api_key": "k1", "organization": "org"}
    headers = {"Authorization": "Bearer k1", "OpenAI-Organization": "org"}
    assert given(openai).upstream() == Target("https://api.openai.com/v1", "openai", headers)
    serverless = {"name": "s", "type": "serverless", "api_key": "k1", "api_base": "https://h/"}
    assert given(serverless).upstream().base == "https://h/v1"


def test_address_tells_where_but_no_secret() -> None:
    assert given(azure()).address == "https://unit.openai.azure.com?api-version=2024-02-01"
    item = {"name": "o", "type": "open_ai", "api_key": SLIP, "base_url": "https://h:1/v1"}
    connection = given(item)
    assert connection.address == "https://h:1/v1"
    assert SLIP not in connection.model_dump_json() + repr(connection) + repr(connection.upstream())
    assert connection.through(LOOPBACK).upstream().base == f"{LOOPBACK}/v1"
    custom = {"name": "c", "type": "custom", "configs": {"index": "i"}, "pin": SLIP}
    custom |= {"endpoint": f"https://h/?sig={SLIP}"}
    assert given(custom).address == 'CustomConnection:{"index": "i"}'


def test_environment_of_a_child() -> None:
    entry = {**AOAI, "api_key": "${TEAM_KEY}"}
    child = only([entry], {"TEAM_KEY": "k1", "AOAI_API_BASE": BASE}).as_environment()
    assert child["AOAI_API_KEY"] == "k1"
    assert (child["AOAI_API_BASE"], child["AOAI_API_VERSION"]) == (BASE, "2024-02-01")


def test_variables_that_a_flow_reads_itself_have_what_the_run_uses() -> None:
    entry = {**AOAI, "api_base": "${AZURE_OPENAI_ENDPOINT}", "api_key": "${TEAM_KEY}"}
    real = only([entry], {"AZURE_OPENAI_ENDPOINT": BASE, "TEAM_KEY": "k1"})
    child, replayed = real.as_environment(), real.through("http://127.0.0.1:1").as_environment()
    assert child["TEAM_KEY"] == child["AZURE_OPENAI_API_KEY"] == "k1"
    assert (child["AZURE_OPENAI_ENDPOINT"], child["OPENAI_API_VERSION"]) == (BASE, "2024-02-01")
    assert replayed["AZURE_OPENAI_ENDPOINT"] == "http://127.0.0.1:1"
    assert "k1" not in replayed.values() and replayed["TEAM_KEY"] == "replayed"
    assert real.secret_variables == {"AOAI_API_KEY", "AZURE_OPENAI_API_KEY", "TEAM_KEY"}
    own = only([AOAI | {"api_key": "${api_key}"}], {"AOAI_API_KEY": "k1", "AOAI_API_BASE": BASE})
    assert not any(name.startswith("AZURE") for name in own.as_environment())


# --- secrets -----------------------------------------------------------------------------------

MARK = "qZ7-mark"
SECRETS = st.tuples(st.text(max_size=20), st.text(max_size=20)).map(lambda t: MARK.join(t))


def shown(connection: Connection) -> str:
    parts = [repr(connection), str(connection), f"{connection}", str(connection.model_dump())]
    return "\n".join([*parts, connection.model_dump_json(), connection.address])


@hypothesis.given(secret=SECRETS, cut=st.integers(0, 200))
@settings(max_examples=150, deadline=None)
def test_no_secret_is_ever_shown(secret: str, cut: int) -> None:
    item = {"name": "c", "type": "custom", "secrets": {"pin": secret}, "more": secret}
    full = json.dumps([azure(api_key=secret), item])
    line = json.dumps({"api_key": secret, "api_base": f"https://u:{MARK}@h/?sig={MARK}"})
    for env in (
        {"AOAI_API_KEY": secret, "AOAI_API_BASE": BASE},
        {"COMMON_DEV_CONNECTIONS": full},
        {"COMMON_DEV_CONNECTIONS": full[:cut]},
        {"aoai": line},
        {"aoai": line[:cut] or "{"},
        {"AOAI_API_BASE": secret},
    ):
        try:
            found = load([AOAI, {"name": "c"}], env)
            text = "\n".join(shown(c) for c in found.values())
        except UserError as error:
            text = f"{error!r} {error.__cause__!r}"
        assert MARK not in text


def test_a_connection_is_frozen_and_strict() -> None:
    connection = only([AOAI], READY)
    with pytest.raises(ValueError, match="frozen"):
        connection.name = "x"
    with pytest.raises(ValueError, match="extra") as caught:
        Connection(name="a", type="b", api_key=SLIP)  # type: ignore[call-arg]
    assert SLIP not in str(caught.value)


# --- does it answer ----------------------------------------------------------------------------

Reply = Callable[[BaseHTTPRequestHandler], None]
SEEN: list[tuple[str, dict[str, str]]] = []


def reply(status: int, body: str = "{}", content_type: str = "application/json") -> Reply:
    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())

    return write


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, without an end."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        try:
            handler.wfile.write(b" ")
        except OSError:
            return
        time.sleep(0.05)


@contextmanager
def server(answer: Reply) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            SEEN.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            answer(self)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    SEEN.clear()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()


def to(url: str, **more: Any) -> Connection:
    return given(azure(api_base=url, api_key=SLIP, **more))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("answer", "ok", "words"),
    [
        (reply(200, '{"data": []}'), True, ["answers"]),
        (reply(401), False, ["refuses the key (401)", "AOAI_API_KEY"]),
        (reply(403), False, ["refuses access (403)", "AOAI_API_KEY"]),
        (reply(404, "nothing", "text/plain"), True, ["404", "no list of models"]),
        (reply(429), False, ["429", "wait"]),
        (reply(500), False, ["fault of its own (500)"]),
        (reply(503, "<html>", "text/html"), False, ["503"]),
        (reply(302), False, ["does not take the question (302)", "AOAI_API_BASE"]),
        (reply(400), False, ["does not take the question (400)"]),
        (reply(200, "<!doctype html>", "text/html"), False, ["not in JSON", "AOAI_API_BASE"]),
        (drip, False, ["did not answer in time"]),
        (lambda handler: time.sleep(1), False, ["did not answer in time"]),
        (lambda handler: handler.wfile.write(b"hello\r\n"), False, ["does not speak HTTP"]),
    ],
)
def test_what_an_endpoint_answers(answer: Reply, ok: bool, words: list[str]) -> None:
    with server(answer) as url:
        said = check(to(url), timeout_s=0.5)
    assert said.ok is ok, said
    assert all(word in said.sentence for word in [*words, "127.0.0.1"])
    assert SLIP not in said.sentence
    assert "\n" not in said.sentence
    assert 0 < said.seconds < 5


def test_a_port_where_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        said = check(to(f"http://127.0.0.1:{free.getsockname()[1]}"))
    assert not said.ok
    assert "refuses the connection" in said.sentence


def test_a_name_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert (
        "nowhere.invalid is a host name that is not known"
        in check(to("https://nowhere.invalid")).sentence
    )


def test_a_server_without_tls() -> None:
    with server(reply(200)) as url:
        said = check(to(url.replace("http://", "https://")), timeout_s=5)
    assert "TLS" in said.sentence


@pytest.mark.parametrize("key", [f"{SLIP}\nmore", f"{SLIP}-é", f"{SLIP}\x00"])
def test_a_key_with_a_character_that_cannot_be_sent(key: str) -> None:
    with server(reply(200)) as url:
        said = check(given(azure(api_base=url, api_key=key)), timeout_s=5)
    assert not said.ok
    assert "AOAI_API_KEY holds a character" in said.sentence
    assert SLIP not in said.sentence


def test_the_question_costs_nothing() -> None:
    with server(reply(200)) as url:
        assert check(to(url, api_version="2024-06-01")).ok
        openai = {"name": "o", "type": "open_ai", "api_key": "k1", "base_url": f"{url}/v1"}
        assert check(given(openai)).ok
        keyless = given(azure(api_base=url, api_type="azure_ad", api_key=SLIP))
        assert check(keyless).ok
    (first, azure_headers), (second, openai_headers), (_, keyless_headers) = SEEN
    assert first == "/openai/models?api-version=2024-06-01"
    assert azure_headers["api-key"] == SLIP
    assert (second, openai_headers["authorization"]) == ("/v1/models", "Bearer k1")
    assert "api-key" not in keyless_headers


def test_signing_in_without_a_key_is_left_to_the_first_call() -> None:
    with server(reply(401)) as url:
        said = check(to(url, auth_mode="meid_token"))
    assert said.ok
    assert "sign in" in said.sentence
