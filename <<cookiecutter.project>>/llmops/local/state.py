"""What an endpoint on this machine is: `runs/endpoints/<endpoint>/state.json`.

The file says what shall run; it survives the processes. Only the router writes it while it runs.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from llmops.deploying.deployment import CONFIG
from llmops.deploying.rollout import READY, Deployment, Shares
from llmops.errors import UserError
from llmops.files import unwritable, write_atomically

ROOT = Path("runs/endpoints")
PORT = 8080
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kept(_Model):
    """A deployment: the bundle in `deployments/<name>/`, and how it is served.

    `model` names the bundle by its content, `variant` is the flow's; `llm` says where its answers
    come from, `collects` how many percent of its requests are kept with what went in and out.
    `state` is FAILED if it never became ready.
    """

    name: str
    model: str
    variant: str
    llm: str
    description: str = ""
    variables: dict[str, str] = {}
    collects: int = 0
    timeout_s: float = 60
    state: str = READY

    @property
    def deployment(self) -> Deployment:
        """The same as a plan wants it; `size` is the word for what is counted."""
        found = Deployment(
            self.name,
            self.model,
            f"llm:{self.llm}",
            "process",
            description=self.description,
            variables=self.variables,
            state=self.state,
            collects=self.collects,
        )
        return replace(found, names=found.digest)


class State(_Model):
    """An endpoint: where it listens, its deployments, and the split of the traffic in percent.

    `traffic_since` is when that was set, in UTC.
    """

    version: Literal[1] = 1
    endpoint: str
    port: int = PORT
    description: str = ""
    sticky_key: str = ""
    traffic: Shares = {}
    mirror: Shares = {}
    traffic_since: str = ""
    deployments: dict[str, Kept] = {}

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"http://127.0.0.1:{self.port}/score"

    def having(self, deployment: Kept) -> State:
        """The same with this deployment in the place of one with its name."""
        kept = {**self.deployments, deployment.name: deployment}
        return self.model_copy(update={"deployments": kept})


def folder(endpoint: str) -> Path:
    """The endpoint's folder; relative, because the path of a socket must be short.

    Raises:
        UserError: the name cannot be one.
    """
    if not NAME.fullmatch(endpoint.replace(".", "-")):
        raise UserError(f"{CONFIG}: ENDPOINT_NAME: '{endpoint}' {_EXPECTED}")
    return ROOT / endpoint


def check_name(deployment: str) -> None:
    """Raise UserError where a deployment cannot have this name."""
    if not NAME.fullmatch(deployment):
        raise UserError(f"{CONFIG}: CURRENT_DEPLOYMENT_NAME: '{deployment}' {_EXPECTED}")


_EXPECTED = "(expected letters, digits, - and _, at most 64, a letter or digit first). Rename it."


def read(place: Path) -> State | None:
    """The state in an endpoint's folder, null where there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = place / "state.json"
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".lstrip(": ")
        raise UserError(f"{path}: broken ({what}). {_begin_anew(place)}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Make it readable.") from None


def _begin_anew(place: Path) -> str:
    return (
        f"Restore the file, or end what runs with DOWN=1, delete the folder {place} and run "
        "`make deploy KIND=local`."
    )


def write(place: Path, state: State) -> None:
    """Put the state on disk, for this user alone; raises UserError where it cannot be written."""
    private(place)
    with write_atomically(place / "state.json") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(state.model_dump_json(indent=1) + "\n")


def private(place: Path) -> None:
    """Make a folder that nobody else can look into; raises UserError."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            place.mkdir(mode=0o700)
    except OSError as error:
        raise unwritable(place, error) from error
