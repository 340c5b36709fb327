"""What shall be there: the deployment and the endpoint that the files and the variables ask for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from llmops import connections
from llmops.answers import FOLDER as RECORDINGS
from llmops.deploying import rollout
from llmops.deploying.deployment import Endpoint
from llmops.deploying.rollout import Step
from llmops.deploying.subject import Subject
from llmops.errors import UserError
from llmops.indexing import upkeep
from llmops.local.machine import NOT_RUNNING, Seen, listening
from llmops.local.state import Kept, State
from llmops.plan import DEFAULT, Variant, plan
from llmops.serving import bundle
from llmops.settings import Settings

Case = Subject[Endpoint]

NO_PART = {"commit", "sample"}
"""What of a bundle's manifest does not change what it answers."""


def variant(case: Case, settings: Settings) -> Variant:
    """The one that VARIANTS names, by default the default one."""
    name = ", ".join(settings.variants) or DEFAULT  # a comma may be part of a grid's name
    cells = plan(case.experiment, case.flow, (name.partition(" [")[0],))
    found = {cell.variant.name: cell.variant for cell in cells}
    if not found:
        raise UserError(
            f"ENV: '{case.env}' has no datasets, so no flow to deploy. Choose another, or give "
            "experiment.yaml a dataset."
        )
    if name not in found and len(found) > 1:
        raise UserError(
            f"VARIANTS: {(settings.variants and repr(name)) or 'unset'}: name one of "
            f"{'; '.join(found)}."
        )
    return found.get(name) or next(iter(found.values()))


def deployment(case: Case, chosen: Variant, folder: Path, settings: Settings) -> Kept:
    """The deployment that the files ask for, with its bundle in `folder`."""
    entry = case.entry
    upkeep.require(case.experiment, case.flow)
    mode = connections.choose_mode(case.connections, settings.llm)
    if mode == "record":
        raise UserError("LLM: 'record': a deployment does not record (expected live or replay).")
    recordings = RECORDINGS if mode == "replay" else None
    made = bundle.write(
        case.experiment, case.flow, chosen, folder, recordings=recordings, sample=case.request
    )
    return Kept(
        name=entry.CURRENT_DEPLOYMENT_NAME,
        model=f"{case.experiment.name}:{_digest(folder)}",
        variant=made.variant,
        llm=mode,
        description=entry.DEPLOYMENT_DESC,
        variables=entry.ENVIRONMENT_VARIABLES,
        collects=entry.DATA_COLLECTION,
        timeout_s=made.timeout_s,
    )


def _digest(folder: Path) -> str:
    """A hash over what a bundle answers with."""
    content = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path == folder / bundle.MANIFEST:
            manifest = {k: v for k, v in json.loads(data).items() if k not in NO_PART}
            data = json.dumps(manifest, sort_keys=True).encode()
        name = path.relative_to(folder).as_posix()
        content.update(json.dumps([name, hashlib.sha256(data).hexdigest()]).encode())
    return content.hexdigest()[:12]


def endpoint(case: Case, seen: Seen, port: int | None) -> State:
    """The endpoint as the entry asks for it, on PORT.

    Raises:
        UserError: it runs on another port, or another program has it.
    """
    entry = case.entry
    kept = seen.kept or State(endpoint=entry.ENDPOINT_NAME)
    if seen.running and port not in (None, 0, kept.port):
        raise UserError(
            f"PORT: {port}: endpoint '{kept.endpoint}' runs on {kept.port}. To move it, run `make "
            f"deploy KIND=local DOWN=1`, then `make deploy KIND=local PORT={port}`."
        )
    place = kept.port if seen.running else _free(kept.port if port is None else port)
    changes = {"description": entry.ENDPOINT_DESC, "sticky_key": entry.STICKY_KEY}
    return kept.model_copy(update={**changes, "port": place})


def _free(port: int) -> int:
    """The port, or any that is free for 0; raises UserError where something listens there."""
    with listening(port) as found:
        taken: int = found.getsockname()[1]
    return taken


def step(then: State, seen: Seen) -> Step:
    """The plan's line for the endpoint, which shall be `then`."""
    before = seen.kept
    if before is None:
        return Step("endpoint", then.endpoint, "absent", f"start at {then.url}", "create")
    if seen.running is None:
        return start(then)
    pairs = {
        "description": (before.description, then.description),
        "STICKY_KEY": (before.sticky_key, then.sticky_key),
    }
    changed = [f"{k}: {a or 'none'} to {b or 'none'}" for k, (a, b) in pairs.items() if a != b]
    action: rollout.Action = "update" if changed else "keep"
    return Step("endpoint", then.endpoint, "exists", "; ".join(changed) or "-", action)


def start(kept: State) -> Step:
    """The line where its processes have ended."""
    what = rollout.shares(kept.traffic, kept.mirror)
    return Step("endpoint", kept.endpoint, NOT_RUNNING, f"start at {kept.url} with {what}")
