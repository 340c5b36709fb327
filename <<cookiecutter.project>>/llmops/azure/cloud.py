"""TARGET=azure: the plan's runs in Azure; what they answer goes into the same store as local rows.

A run's name follows from its content address, so a task that was stopped, or one on another
machine, finds the run that is under way and follows it instead of starting a second one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmops import answers, connections, origin
from llmops.assets import check_names, sources
from llmops.azure import aggregation, assets, workspace
from llmops.azure.following import Session
from llmops.azure.parallel import ParallelJobs
from llmops.azure.promptflow_runs import PromptFlowRuns
from llmops.azure.service import Service
from llmops.config import Experiment
from llmops.errors import UserError
from llmops.running.execution import Counts, Executor, Local
from llmops.settings import Settings
from llmops.work import Work

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

PACKAGES, RETIRED = ("promptflow-core", "promptflow-azure"), "2027-04-20"


def choose(settings: Settings, experiment: Experiment, root: Path) -> Executor:
    """The executor for TARGET=azure or azure-pipeline.

    Raises:
        UserError: a variable of the workspace is unset, LLM or `repeats` does not fit, or a
            dataset's name cannot be that of an asset.
    """
    _require_promptflow(settings.target)
    if settings.llm not in (None, "live"):
        raise UserError(
            f"LLM: '{settings.llm}' with TARGET={settings.target}: in Azure the workspace's own "
            "connections answer. Leave out LLM, or TARGET."
        )
    if experiment.repeats > 1:
        raise UserError(
            f"{experiment.file('repeats')}: repeats: {experiment.repeats} with "
            f"TARGET={settings.target}: a run in Azure answers each row once. Set `repeats: 1` (an "
            "overlay may), or leave out TARGET."
        )
    check_names(source.name for source in sources(experiment))
    kinds = {"azure": Cloud, "azure-pipeline": Pipelines}
    return kinds[settings.target](settings, experiment, root)


def _require_promptflow(target: str) -> None:
    try:
        for package in PACKAGES:
            metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"TARGET: '{target}' runs rows in prompt flow's service, which Microsoft retires on "
            f"{RETIRED}, and {package} is not installed. Leave out TARGET: the rows run here, with "
            "the same scores and gate; register, deploy and monitor need no prompt flow. While "
            f"the service is there, `make experiment TARGET={target}` installs what it asks."
        ) from error


class Cloud:
    """See execution.Executor: prompt flow's cloud runs, of flows and of evaluators."""

    mode: Literal["live", "replay", "record"] = "live"

    def __init__(self, settings: Settings, experiment: Experiment, root: Path) -> None:
        self._root = root
        self._where = workspace.place(connections.environment())
        self._settings = settings
        self._experiment = experiment
        self._local = Local(experiment, None, root)

    @property
    def note(self) -> str:
        """See Executor."""
        note = f"Answers come from the connections of the workspace '{self._where.workspace}'."
        if any(evaluator.judge for evaluator in self._experiment.evaluators):
            note += f" Labelled rows are judged here ({self._local.mode})."
        return note

    @property
    def target(self) -> str:
        """See Executor."""
        return f"{self._settings.target} {self._where.scope}"

    @property
    def here(self) -> str:
        """See Executor."""
        return self._local.target

    def execute(
        self, runs: Sequence[Work], evaluations: Sequence[Work], labels: Sequence[Work] = ()
    ) -> Counts:
        """See Executor."""
        asked = self._local.execute(labels, ()) if labels else Counts()
        self._execute(runs, evaluations)
        return asked

    def _execute(self, runs: Sequence[Work], evaluations: Sequence[Work]) -> None:
        measured = all(item.run.metrics() is not None for item in evaluations)
        if measured and not any(item.left for item in (*runs, *evaluations)):
            return
        session = self._session(runs, evaluations)
        unreachable = answers.Answers(self._experiment, "replay").unreachable()
        aggregation.measure(session.evaluated, unreachable)

    def _session(self, runs: Sequence[Work], evaluations: Sequence[Work]) -> Session:
        """Everything that runs in Azure, done."""
        with workspace.explained(self._where):
            client = workspace.client(self._where)
            client.workspaces.get(self._where.workspace)  # its absence would look like a run's
            data, service = self._data(client, [*runs, *evaluations]), self.service(client)
            session = Session(service, self._experiment, data, self._settings.fresh)
            session.run(runs, evaluations)
        return session

    def service(self, client: MLClient) -> Service:
        """What runs the flows."""
        experiment = self._experiment
        return PromptFlowRuns(client, experiment.runtime, experiment.azure, experiment.limits)

    def _data(self, client: MLClient, works: Iterable[Work]) -> dict[Path, str]:
        """The assets that hold the works' data, by the path of the file."""
        used = {item.table.path for item in works}
        experiment = self._experiment
        tags = origin.tags(experiment.name, origin.commit(), os.environ)
        found = {}
        for source in sources(experiment, self._root):
            if source.path in used:
                asset = assets.data(client, source, tags)
                found[source.path] = f"azureml:{asset.name}:{asset.version}"
        return found


class Pipelines(Cloud):
    """See execution.Executor: flows as parallel components; evaluators score their rows here."""

    @property
    def note(self) -> str:
        """See Executor."""
        return f"{super().note} Evaluators run here ({self._local.mode}). {self._local.note}"

    def execute(
        self, runs: Sequence[Work], evaluations: Sequence[Work], labels: Sequence[Work] = ()
    ) -> Counts:
        """See Executor."""
        if any(item.left for item in runs):
            self._session(runs, ())
        for item in runs:
            item.done.update(range(len(item.table)))  # a row that failed there must not run here
        return self._local.execute(runs, evaluations, labels)

    def service(self, client: MLClient) -> Service:
        """See Cloud."""
        return ParallelJobs(client, self._experiment)
