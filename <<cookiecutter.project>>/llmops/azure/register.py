"""`make register`: data and flow as assets of Azure ML, a new version where they changed."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from llmops import connections, origin, registration
from llmops.assets import Asset
from llmops.azure import assets, workspace
from llmops.errors import OK
from llmops.package import flow_hash, package
from llmops.registration import Candidate, Registration
from llmops.settings import Settings
from llmops.verdict import approval

if TYPE_CHECKING:
    from azure.ai.ml import MLClient


def run(settings: Settings) -> int:
    """Register what the last experiment ran, print the versions, and write the manifest.

    Raises:
        UserError: what `registration.candidate` refuses, or what Azure does.
    """
    candidate = registration.candidate(settings)
    where = workspace.place(connections.environment())
    for remark in _remarks(candidate):
        print(remark, flush=True)
    with workspace.explained(where):
        client = workspace.client(where)
        client.workspaces.get(where.workspace)  # else its absence would look like the assets'
        tags = origin.tags(candidate.name, candidate.commit, os.environ)
        data = tuple(assets.data(client, source, tags) for source in candidate.data)
        model = _model(client, candidate)
    registration.save(_manifest(candidate, model, data))
    print(_table(model, data))
    print(f"manifest: {registration.REGISTRATION}")
    return OK


def _remarks(candidate: Candidate) -> Iterable[str]:
    if candidate.verdict == "off":
        yield "gate: off. experiment.yaml has no gate, so nothing judged this variant."
    if candidate.verdict == "inconclusive" and not candidate.forced:
        yield "gate: inconclusive. experiment.yaml lets that go on (on_inconclusive: warn)."
    if candidate.forced:
        yield f"gate: {candidate.verdict}, forced: {candidate.forced}"
    yield from (f"judge: {line}" for line in candidate.judges)
    if candidate.summary.llm.mode == "replay":
        yield "llm: replay. The metrics are those of recorded answers."


def _model(client: MLClient, candidate: Candidate) -> Asset:
    from azure.ai.ml.entities import Model

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / candidate.name  # the name that the folder has in the store
        content_hash = flow_hash(package(candidate.flow, candidate.variant, folder))

        def create(version: int) -> Model:
            return Model(
                name=candidate.name,
                version=str(version),
                type="custom_model",
                path=str(folder),
                tags=registration.tags(candidate, content_hash, os.environ),
            )

        asset, found = assets.ensure(client.models, candidate.name, content_hash, create)
    if found is not None:
        _judge_again(client, candidate, found)
    return asset


def _judge_again(client: MLClient, candidate: Candidate, found: Any) -> None:
    """Of a version that is there already, say what the gate says of it now."""
    judged = registration.verdict_tags(candidate)
    changing = ("gate", "forced", "judges")
    kept = {name: value for name, value in found.tags.items() if name not in changing}
    if found.tags != kept | judged:
        found.tags = kept | judged
        client.models.create_or_update(found)


def _manifest(candidate: Candidate, model: Asset, data: tuple[Asset, ...]) -> Registration:
    return Registration(
        experiment=candidate.summary.experiment,
        env=candidate.summary.env,
        model=model,
        data=data,
        flow=candidate.flow_file,
        variant=candidate.variant.name,
        commit=candidate.commit,
        gate=candidate.verdict,
        forced=candidate.forced,
        llm=candidate.summary.llm.mode,
        metrics=candidate.metrics,
        registered_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        run=approval.run_of(candidate.summary),
        judges=candidate.judges,
        index=candidate.summary.index,
    )


def _table(model: Asset, data: Iterable[Asset]) -> str:
    rows = [("model", model), *(("data", asset) for asset in data)]
    lines = [(w, a.name, a.version, "new" if a.created else "unchanged") for w, a in rows]
    return tabulate(lines, headers=("what", "name", "version", ""))
