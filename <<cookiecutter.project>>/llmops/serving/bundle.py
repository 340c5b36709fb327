"""What a server needs of a flow, in one folder with nothing beside it.

    flow/          the flow in one variant, what it includes inside (see `llmops.package`)
    serving.json   what it is and how it is served; no secret
    recordings/    the answers to replay, where it is served without a model

Secrets come from the environment when the server starts, as everywhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from llmops import flows, origin
from llmops.config import Connection, Experiment
from llmops.errors import UserError
from llmops.files import write_atomically
from llmops.flows import Flow
from llmops.package import flow_hash, package
from llmops.plan import Variant
from llmops.recordings import recording_files
from llmops.validate import SAMPLE_REQUEST

MANIFEST = "serving.json"
FLOW = "flow"
RECORDINGS = "recordings"
AT_ONCE = 512
"""Requests under way at most, where nothing else is said; one more is refused."""


class Bundle(BaseModel):
    """`serving.json`.

    `name` is the experiment's, `flow` the file inside `flow/` (of a Python flow `file:function`),
    `connections` are the entries of experiment.yaml as they are, `timeout_s` is what a request may
    take, `concurrency` how many may be under way, `retries` how often a row is run again after a
    passing fault of its model, `sample` a request that works.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    variant: str
    flow: str
    flow_hash: str
    commit: str = ""
    connections: tuple[Connection, ...] = ()
    timeout_s: float = 60
    concurrency: int = AT_ONCE
    retries: int = 3
    sample: dict[str, Any] | None = None

    def describe(self, folder: Path) -> Flow:
        """The flow that lies in the bundle's folder; raises UserError where it cannot be read."""
        return flows.describe(self.flow, folder / FLOW)


def write(
    experiment: Experiment,
    flow: Flow,
    variant: Variant,
    folder: Path,
    *,
    recordings: Path | None = None,
    sample: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a flow in one variant as a bundle into `folder`, which may be there already.

    `recordings` is a folder of recorded answers to take along. `sample` is the sample request; by
    default the one in `sample-request.json`, if there is one.

    Raises:
        UserError: the variant cannot be packed (see `package`), or the folder not be written.
    """
    for part in (FLOW, RECORDINGS):
        shutil.rmtree(folder / part, ignore_errors=True)
    packed = package(flow, variant, folder / FLOW)
    for file in recording_files(recordings) if recordings else ():
        (folder / RECORDINGS).mkdir(exist_ok=True)
        shutil.copyfile(file, folder / RECORDINGS / file.name)
    function = packed.entry.partition(":")[2] if packed.kind == "python" else ""
    made = Bundle(
        name=experiment.name,
        variant=variant.name,
        flow=f"{packed.file}:{function}" if function else packed.file,
        flow_hash=flow_hash(packed),
        commit=origin.commit(),
        connections=experiment.connections,
        timeout_s=experiment.limits.timeout_s,
        retries=experiment.limits.retries,
        sample=dict(sample) if sample is not None else _sample(Path(SAMPLE_REQUEST)),
    )
    with write_atomically(folder / MANIFEST) as file_:
        file_.write(made.model_dump_json(indent=1, exclude_none=True) + "\n")
    return made


def read(folder: Path) -> Bundle:
    """The bundle in a folder.

    Raises:
        UserError: there is none, or it is not one of this version.
    """
    path = folder / MANIFEST
    try:
        return Bundle.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found. Name the folder of a bundle.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {where}: {first['msg']}. Write the bundle again.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Write the bundle again.") from None


def _sample(path: Path) -> dict[str, Any] | None:
    """A sample request that is one; what is wrong with another, `make validate` says."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
