"""Where rows run: on this machine, or in Azure; plan, store, report and gate are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from llmops.answers import Answers
from llmops.config import Experiment
from llmops.running import stopping
from llmops.running.pipeline import Pipeline
from llmops.running.progress import Progress
from llmops.settings import Settings
from llmops.work import Work


@dataclass(frozen=True)
class Counts:
    """What was asked of models: `calls` made, and rows `unrecorded`, without a recorded answer.

    `remedy` says what to do about these rows.
    """

    calls: int = 0
    unrecorded: int = 0
    remedy: str = ""


class Executor(Protocol):
    """Does what is left of some works.

    `mode` and `note` are those of `summary.Llm`; `target` is what decides the answers, for a run's
    content address. `here` is what decides those of works that always run on this machine.
    """

    @property
    def mode(self) -> Literal["live", "replay", "record"]:
        """See above."""

    @property
    def note(self) -> str:
        """See above."""

    @property
    def target(self) -> str:
        """See above."""

    @property
    def here(self) -> str:
        """See above."""

    def execute(
        self, runs: Sequence[Work], evaluations: Sequence[Work], labels: Sequence[Work] = ()
    ) -> Counts:
        """Finish every run, then every evaluation with its metrics; raises UserError.

        The `labels` are the works of judges over labelled rows, which run on this machine.
        """


class Local:
    """Runs rows in worker processes of this machine."""

    def __init__(
        self,
        experiment: Experiment,
        llm: str | None,
        root: Path = Path(),
        source: Answers | None = None,
    ) -> None:
        self._answers = source or Answers(experiment, llm, root)
        self._limits = experiment.limits
        self.mode = self._answers.mode
        self.note = self._answers.note

    @property
    def target(self) -> str:
        """See Executor."""
        return self._answers.target

    @property
    def here(self) -> str:
        """See Executor."""
        return self.target

    def execute(
        self, runs: Sequence[Work], evaluations: Sequence[Work], labels: Sequence[Work] = ()
    ) -> Counts:
        """See Executor."""
        left = sum(item.left for item in (*runs, *evaluations, *labels))
        with Progress(left) as progress:
            try:
                if left:
                    self._answers.open()
                pipeline = Pipeline(self._answers, self._limits, progress)
                stopping.run(pipeline.run([*runs, *labels], evaluations))
            finally:
                self._answers.close()
        missing = pipeline.unrecorded
        remedy = self._answers.no_recording(missing) if missing else ""
        return Counts(pipeline.calls, missing, remedy)


def choose(settings: Settings, experiment: Experiment, root: Path = Path()) -> Executor:
    """The executor for TARGET; `root` is the folder of the use case.

    Raises:
        UserError: a setting of the target is missing or does not fit it.
    """
    if settings.target == "local":
        return Local(experiment, settings.llm, root)
    from llmops.azure import cloud  # only who works in Azure has its packages

    return cloud.choose(settings, experiment, root)
