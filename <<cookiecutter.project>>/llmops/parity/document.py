"""What `make parity` found, in `reports/parity.json`: a cut-over asks it first."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from llmops import summary
from llmops.summary import Comparison, Llm, Model

PARITY = Path("reports/parity.json")
Verdict = Literal["equal", "equivalent", "different", "inconclusive"]


class Side(Model):
    """One implementation: its folder or file as it was named, its kind, and what it was then.

    `hashes` has for each variant of A what registration and deployment call the flow's hash; no
    entry where the variant cannot be put into the flow's files.
    """

    flow: str
    kind: str
    hashes: dict[str, str]


class Cell(Model):
    """A variant over a dataset. All numbers but `requests_a` and `requests_b` count rows.

    `failed_same` failed in both in the same way, `failed_otherwise` in another way; `only_a` and
    `only_b` failed in one, though a model answered. `unanswered` had no answer of the model in at
    least one of them. `random` differ where A runs twice. `unseen` says whether requests went out
    that the OpenAI client did not send, so that nobody knows which row they are of.
    """

    variant: str
    dataset: str
    rows: int
    requests_a: int = 0
    requests_b: int = 0
    same_requests: int = 0
    same_outputs: int = 0
    failed_same: int = 0
    failed_otherwise: int = 0
    only_a: int = 0
    only_b: int = 0
    unanswered: int = 0
    random: int = 0
    unseen: bool = False

    @property
    def proven(self) -> bool:
        """Whether every row asks for the same and comes to the same."""
        same = self.same_requests == self.same_outputs == self.rows
        doubt = self.unanswered or self.random or self.unseen
        return same and not doubt and self.failed_same < self.rows


class Difference(Model):
    """Something in which A and B differ in one row, as lines of a unified diff: - is A, + is B."""

    variant: str
    dataset: str
    row: int
    what: Literal["requests", "outputs"]
    lines: tuple[str, ...]


class Metric(Model):
    """Whether B is worse than A by one metric: a paired test of non-inferiority.

    `margin` is the largest loss that counts as none, null where experiment.yaml has none.
    `decides` says whether the verdict rests on it.
    """

    variant: str
    comparison: Comparison
    margin: float | None
    verdict: Literal["not worse", "worse", "inconclusive"]
    decides: bool = True
    sentence: str


class Parity(Model):
    """Whether B does what A does. `level` is what the verdict rests on: 1 requests, 2 results."""

    experiment: str
    env: str
    a: Side
    b: Side
    verdict: Verdict
    level: Literal[1, 2]
    sentence: str
    reasons: tuple[str, ...] = ()
    llm: Llm
    started_at: str
    seconds: float
    cells: tuple[Cell, ...]
    metrics: tuple[Metric, ...] = ()
    differences: tuple[Difference, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether B may take A's place."""
        return self.verdict in ("equal", "equivalent")

    def is_about(self, a: str, b: str) -> bool:
        """Whether it compared the flows with these hashes, as one and the same variant of A."""
        return any(
            self.a.hashes.get(name) == a and b == self.b.hashes[name] for name in self.b.hashes
        )


def load(path: Path = PARITY) -> Parity:
    """The last parity; raises UserError where there is none."""
    return summary.read(Parity, path, "parity", "a parity of this version")
