"""A connection as the workspace tells it is read as prompt flow reads it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from llmops.azure import connection
from llmops.errors import UserError

Json = dict[str, object]
KEY: Json = {"authType": "ApiKey", "credentials": {"key": "k" * 20}}
ENTRA: Json = {"authType": "AAD"}
VERSIONED: Json = {"ApiType": "azure", "ApiVersion": "2024-02-01"}
CASES: dict[str, Json] = {
    "key": {"category": "AzureOpenAI", "target": "https://a", **KEY, "metadata": VERSIONED},
    "entra": {"category": "AzureOpenAI", "target": "https://a", **ENTRA, "metadata": VERSIONED},
    "search": {"category": "CognitiveSearch", "target": "https://s", **KEY, "metadata": VERSIONED},
    "serverless": {"category": "Serverless", "target": "https://m", **KEY, "metadata": {}},
    "services": {"category": "AIServices", "target": "https://v", **ENTRA, "metadata": {}},
    "safety": {
        **{"category": "CognitiveService", "target": "https://c", **KEY},
        "metadata": {"Kind": "Content Safety", "ApiVersion": "1"},
    },
    "custom": {
        **{"category": "CustomKeys", "target": "_", "authType": "CustomKeys"},
        "credentials": {"keys": {"token": "t" * 20}},
        "metadata": {"region": "north", "azureml.flow.connection_type": "Custom"},
    },
    "named": {
        **{"category": "CustomKeys", "target": "_", "authType": "CustomKeys"},
        "credentials": {"keys": {"api_key": "t" * 20}},
        "metadata": {
            "azureml.flow.connection_type": "OpenAI",
            "azureml.flow.module": "promptflow.connections",
            "organization": "ours",
        },
    },
}
THEIRS = """
import json, sys
from llmops.running.promptflow_runner import import_promptflow
import_promptflow()
from promptflow.core._connection_provider._workspace_connection_provider import (
    WorkspaceConnectionProvider as Provider,
)
cases = json.loads(sys.argv[1])
read = Provider._convert_to_connection_dict
found = {name: read(name, {"name": name, "properties": case}) for name, case in cases.items()}
print(json.dumps(found, default=str))
"""


def test_it_is_read_as_prompt_flow_reads_it() -> None:
    command = [sys.executable, "-W", "ignore", "-c", THEIRS, json.dumps(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, theirs in json.loads(done.stdout.splitlines()[-1]).items():
        ours = connection.read(name, CASES[name])
        assert (ours["type"], ours["value"]) == (theirs["type"], theirs["value"]), name
        if theirs["type"] == "CustomConnection":
            assert ours["secret_keys"] == theirs["secret_keys"]


@pytest.mark.parametrize(
    ("change", "told"),
    [({"category": "Git"}, "of the category 'Git'"), ({"authType": "SAS"}, "signs in by 'SAS'")],
)
def test_another_kind_is_named(change: Json, told: str) -> None:
    with pytest.raises(UserError, match=told):
        connection.read("x", CASES["key"] | change)
