"""Runs A, A again and B over the same rows, so that B is answered with A's answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from hashlib import sha256

from llmops import results, work
from llmops.answers import Answers
from llmops.config import Evaluator, Experiment
from llmops.files import slug
from llmops.parity import rows, scores
from llmops.parity.document import Cell, Difference, Metric
from llmops.parity.sides import Side
from llmops.running.execution import Local
from llmops.runs import STORE, Run
from llmops.settings import Settings
from llmops.summary import Judge, Score
from llmops.verdict import baseline, judges
from llmops.work import Work

PLACE = STORE / "parity"
UNMARKED = PLACE / "unmarked.txt"
AGAIN = "A again"


class Kept(Answers):
    """Answers that are the same for the same request, whoever asks it.

    In replay they come from recordings/. Live, the model is asked once, and what it said is kept
    below runs/parity for every further run against the same endpoints, until FRESH=1.
    """

    def __init__(self, experiment: Experiment, llm: str | None) -> None:
        super().__init__(experiment, llm)
        if self.mode == "record":
            self.mode = "live"
        if self.mode == "live":
            self._folder = PLACE / f"answers-{sha256(self.target.encode()).hexdigest()[:12]}"

    def open(self) -> None:
        """See Answers."""
        if self.mode == "live":
            self._check()
        if self._real and self._server is None:
            UNMARKED.parent.mkdir(parents=True, exist_ok=True)
            self._serve("fill" if self.mode == "live" else "replay", UNMARKED)


class Measuring:
    """The runs of both sides on disk, and what was asked on the way."""

    def __init__(self, settings: Settings, a: Side, b: Side) -> None:
        self._settings, self._a, self._b = settings, a, b
        self.source = Kept(a.experiment, settings.llm)
        self.calls = 0
        self.remedies: list[str] = []
        """What a person may do about what was not measured, in sentences."""
        self._works: dict[str, list[Work]] = {}

    def run(self) -> tuple[list[Cell], list[Difference]]:
        """Run A twice and B once, and compare them row by row; raises UserError."""
        self._forget()
        for label, side in (("A", self._a), (AGAIN, self._a), ("B", self._b)):
            self._works[label] = self._prepared(label, work.cells(side.checked, label))
            for one in self._works[label]:
                one.keep_requests = True
        # All of A is answered first. Each has a process of its own: A again begins as A did.
        same = self._a.flow.folder.resolve() == self._b.flow.folder.resolve()
        for labels in (("A",), (AGAIN,), ("B",)) if same else (("A",), (AGAIN, "B")):
            print(f"running {' and '.join(labels)}", flush=True)
            self._execute([one for label in labels for one in self._works[label]], (), ())
        tallies = [self._tally(at) for at in range(len(self._works["A"]))]
        cells = [tally.cell(unseen=UNMARKED.exists()) for tally in tallies]
        return cells, [one for tally in tallies for one in tally.differences]

    def metrics(self) -> list[Metric]:
        """Score the rows of both with the experiment's evaluators; raises UserError.

        Those that are judges take part with JUDGE=1.
        """
        chosen = [
            one for one in self._a.experiment.evaluators if self._settings.judge or not one.judge
        ]
        left = ", ".join(one.name for one in self._a.experiment.evaluators if one not in chosen)
        if left:
            self.remedies.append(f"Not asked: {left}, which is a judge. JUDGE=1 asks it.")
        experiment = self._a.experiment.model_copy(update={"evaluators": tuple(chosen)})
        a, b = (self._evaluations(label, experiment) for label in ("A", "B"))
        labels = work.labels(self._a.checked, experiment, "parity")
        labels = self._prepared("labels", labels)
        self._execute([*self._works["A"], *self._works["B"]], [*a, *b], labels)
        judged = judges.measured(labels, experiment)
        found = [
            metric
            for one, other in zip(a, b, strict=True)
            for metric in self._judged(one, other, chosen, judged)
        ]
        return scores.deciding(found)

    def _forget(self) -> None:
        """Remove what an earlier parity ran; the answers stay, unless FRESH is set."""
        for folder in PLACE.glob("*"):
            if folder.is_dir() and (self._settings.fresh or not folder.name.startswith("answers-")):
                shutil.rmtree(folder, ignore_errors=True)
        UNMARKED.unlink(missing_ok=True)

    def _prepared(self, label: str, found: Iterable[Work]) -> list[Work]:
        """Works with folders of their own, so that no other task's rows stand for theirs."""
        works = list(found)
        for one in works:
            one.run = Run(PLACE / slug(label) / one.run.folder.name)
        return works

    def _evaluations(self, label: str, experiment: Experiment) -> list[Work]:
        runs = self._works[label]
        for one in runs:  # a row that failed is not tried again
            one.done = set(range(one.rows))
        found = work.evaluations(self._a.checked, experiment, "parity", runs)
        return self._prepared(f"{label} scores", (one for one in found if one.scored))

    def _execute(
        self, runs: Sequence[Work], evaluations: Sequence[Work], labels: Sequence[Work]
    ) -> None:
        experiment = self._a.experiment
        source = Kept(experiment, self._settings.llm)
        counts = Local(experiment, None, source=source).execute(runs, evaluations, labels)
        self.calls += counts.calls
        if counts.remedy and counts.remedy not in self.remedies:
            self.remedies.append(counts.remedy)

    def _tally(self, at: int) -> rows.Tally:
        one, again, other = (self._works[label][at] for label in ("A", AGAIN, "B"))
        tally = rows.Tally(one.variant, one.dataset)
        return rows.compare(tally, one.run.rows(), other.run.rows(), again.run.rows())

    def _judged(
        self, a: Work, b: Work, evaluators: Sequence[Evaluator], judged: Sequence[Judge]
    ) -> list[Metric]:
        evaluator = next(one for one in evaluators if one.name == a.evaluator)
        known: list[list[Score]] = [list(results.scores(one)) for one in (a, b)]
        rules = baseline.rules_of(evaluator, self._a.experiment, [*known[0], *known[1]])
        sides = [
            baseline.evidence(results.evaluation(one), own)
            for one, own in zip((a, b), known, strict=True)
        ]
        doubt = partial(judges.doubt, judged, evaluator)
        return scores.judged(a.variant, sides[0], sides[1], rules, doubt)
