"""What is deployed, and where: put together before anything is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from llmops import config, flows
from llmops.config import DEFAULT_ENV, Experiment
from llmops.connections import Connection, environment, load, variable
from llmops.deploying import probe
from llmops.deploying.deployment import Endpoint, Kind, WebApp
from llmops.flows import Flow
from llmops.settings import Settings

HIDDEN = 4
"""Secrets shorter than this are not looked for in a log: they would be everywhere."""

Entry = TypeVar("Entry", Endpoint, WebApp)


@dataclass(frozen=True)
class Subject(Generic[Entry]):
    """One deployment of one environment, with all that is known before anything is asked."""

    env: str
    kind: Kind
    entry: Entry
    experiment: Experiment
    flow: Flow
    request: Mapping[str, Any]
    connections: Mapping[str, Connection]

    def mask(self, text: str) -> str:
        """The text with the names of secrets in the place of their values."""
        for link in self.connections.values():
            for key, secret in link.secrets.items():
                if len(value := secret.get_secret_value()) >= HIDDEN:
                    text = text.replace(value, f"<{variable(link.name, key)}>")
        return text


def read(settings: Settings, kind: Kind, entry: Entry) -> Subject[Entry]:
    """All that belongs to an entry of deployment_config.json.

    Raises:
        UserError: a file, a variable or the sample request is not as it must be.
    """
    own = Path(f"experiment.{settings.env}.yaml").is_file()
    experiment = config.load(settings.env if own else DEFAULT_ENV)
    flow = flows.describe(experiment.flow or experiment.name)
    request = probe.sample(Path(entry.TEST_FILE_PATH), flow)
    links = load(experiment.connections, environment())
    return Subject(settings.env, kind, entry, experiment, flow, request, links)
