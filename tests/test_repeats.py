"""Each row answered several times: the model's own noise apart from the spread of the rows.

The numbers are checked against a direct computation; the rest as a user would run it, with a
stand-in for a model that answers otherwise each time.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from llmops import metrics
from llmops.metrics import Measured, measure
from llmops.running.runners import over
from llmops.summary import Comparison
from llmops.verdict.comparison import Evidence, Measure, compare
from simulated import f1
from standin import StandIn
from test_compare import commit, git
from test_resume import DAG
from usecase import AOAI, UseCase, wait_until

Json = dict[str, Any]
Rows = Sequence[Any]

KEY = "sk-0123456789-never-written"
ROWS, REPEATS = 8, 3


# --- numbers -------------------------------------------------------------------------------------


def measured(repeats: Sequence[Rows], statistic: Any = fmean) -> Measured:
    """What the worker keeps of answers by repeat and row; null where a row failed."""
    rows = len(repeats[0])
    every = [value for repeat in repeats for value in repeat]
    scored = [number for number, value in enumerate(every) if value is not None]

    def aggregate(chosen: Sequence[int]) -> Json:
        return {"f1": statistic([every[scored[at]] for at in chosen])}

    return measure(over(len(scored), aggregate), scored, rows, repeats=len(repeats))


def evidence(repeats: Sequence[Rows], variant: str = "new") -> Evidence:
    """The same as one side of a comparison."""
    found = measured(repeats)
    metric = found.metrics["f1"]
    kept = Measure(metric.value, len(repeats[0]), found.draws["f1"], found.alone["f1"], metric.note)
    return Evidence(variant, "news", "match", {"f1": kept})


def noisy(dice: random.Random, rows: Rows, repeats: int, noise: float = 1.0) -> list[list[float]]:
    return [[row + dice.gauss(0, noise) for row in rows] for _ in range(repeats)]


def test_value_interval_and_spread_are_those_of_a_direct_computation() -> None:
    dice = random.Random(7)
    answers: list[list[Any]] = noisy(dice, [dice.gauss(0, 2) for _ in range(20)], 3)
    for repeat, row in ((0, 4), (2, 4), (1, 9), (0, 15), (1, 15), (2, 15)):
        answers[repeat][row] = None
    found = measured(answers)
    metric = found.metrics["f1"]
    known = [[value for value in repeat if value is not None] for repeat in answers]
    assert metric.value == pytest.approx(fmean([value for repeat in known for value in repeat]))
    assert metric.repeat_sd == pytest.approx(stdev(map(fmean, known)))
    rows = [[v for r in answers if (v := r[row]) is not None] for row in range(20)]
    drawn = [fmean([v for row in draw for v in rows[row]]) for draw in metrics.draws(20)]
    assert found.draws["f1"] == pytest.approx(drawn)
    assert metric.ci95 == pytest.approx(metrics.interval(drawn, 19))
    alone = [fmean(row) if row else None for row in rows]
    assert alone[15] is None
    assert found.alone["f1"] == pytest.approx(alone)
    assert metric.note == ""


@pytest.mark.parametrize("repeats", [2, 5])
def test_the_same_answers_again_say_nothing_new(repeats: int) -> None:
    """Taken for so many rows, they would make the interval narrower."""
    dice = random.Random(3)
    for rows, statistic in (
        ([dice.random() for _ in range(30)], fmean),
        ([dice.choice([(1, 2, 2), (0, 1, 3), (3, 3, 3)]) for _ in range(30)], f1),
        ([dice.choice([0, 1]) for _ in range(30)], sum),
    ):
        once, again = measured([rows], statistic), measured([rows] * repeats, statistic)
        assert again.metrics["f1"].value == pytest.approx(once.metrics["f1"].value)
        assert again.metrics["f1"].ci95 == pytest.approx(once.metrics["f1"].ci95)
        assert again.alone["f1"] == pytest.approx(once.alone["f1"])
        assert (once.metrics["f1"].repeat_sd, again.metrics["f1"].repeat_sd) == (None, 0)


def test_the_spread_is_that_of_the_model_and_not_of_the_rows() -> None:
    dice = random.Random(1)
    rows = [dice.gauss(0, 10) for _ in range(400)]
    spread = measured(noisy(dice, rows, 30)).metrics["f1"].repeat_sd
    assert spread == pytest.approx(1 / 20, rel=0.3)


def test_the_interval_holds_the_true_value_about_as_often_as_it_says() -> None:
    dice = random.Random(11)
    held = []
    for _ in range(200):
        ci95 = measured(noisy(dice, [dice.gauss(0, 1) for _ in range(20)], 3)).metrics["f1"].ci95
        assert ci95 is not None
        held.append(ci95[0] <= 0 <= ci95[1])
    assert 0.91 <= fmean(held) <= 0.98


def test_a_repeat_without_a_value_is_told() -> None:
    answers: list[Rows] = [[1.0, 2.0, 4.0], [2.0, None, None], [None] * 3]
    metric = measured(answers, stdev).metrics["f1"]
    assert metric.value == pytest.approx(stdev([1, 2, 4]))
    assert (metric.repeat_sd, metric.note.split("; ")[-1]) == (None, "no value in 2 of 3 repeats")


def test_an_aggregation_that_asks_a_model_is_not_run_once_a_repeat() -> None:
    asked: list[Any] = []
    again = over(4, lambda chosen: asked.append(chosen) or {"f1": 0.5})
    metric = measure(again, range(4), 2, "the aggregation asks a model", 2).metrics["f1"]
    assert metric.note == (
        "no interval: the aggregation asks a model; taken over all repeats together"
    )
    assert (metric.value, metric.repeat_sd, len(asked)) == (0.5, None, 1)


# --- comparisons ---------------------------------------------------------------------------------


def beside(new: Sequence[Rows], old: Sequence[Rows]) -> Comparison:
    (found,) = compare(evidence(new), evidence(old, "default"))
    return found


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_same_model_beside_itself_is_rarely_better_or_worse(repeats: int) -> None:
    """An A/A check: one in 20 is what an interval of 95 % says."""
    dice = random.Random(5)
    verdicts = []
    for _ in range(200):
        rows = [dice.gauss(0, 3) for _ in range(25)]
        verdicts.append(beside(noisy(dice, rows, repeats), noisy(dice, rows, repeats)).verdict)
    assert set(verdicts) <= {"better", "worse", "inconclusive"}
    assert len([one for one in verdicts if one != "inconclusive"]) <= 16


def test_the_same_answers_are_no_difference() -> None:
    answers = noisy(random.Random(2), [0.0] * 12, 4)
    found = beside(answers, answers)
    assert (found.verdict, found.difference, found.ties) == ("no difference", 0, 12)


def test_more_repeats_tell_more() -> None:
    dice = random.Random(4)
    rows = [dice.gauss(0, 3) for _ in range(40)]
    better = [row + 0.5 for row in rows]
    once = beside(noisy(dice, better, 1), noisy(dice, rows, 1))
    often = beside(noisy(dice, better, 20), noisy(dice, rows, 20))
    assert once.ci95 and often.ci95
    assert often.ci95[1] - often.ci95[0] < (once.ci95[1] - once.ci95[0]) / 3
    assert often.verdict == "better"
    assert often.wins is not None and often.losses is not None
    assert often.wins + often.losses == 40


# --- as a user runs it ---------------------------------------------------------------------------


def said(row: int, repeat: int) -> str:
    """What the model says: even rows always right, of the others the odd repeats."""
    return f"right {row}." if row % 2 == 0 or repeat % 2 else f"wrong {row}.{repeat}"


class Noisy(UseCase):
    """A use case whose flow asks a model that answers otherwise each time."""

    def __init__(self, place: Path, model: StandIn) -> None:
        super().__init__(place)
        self.model = model
        self.variables = {"AOAI_API_BASE": model.url, "AOAI_API_KEY": KEY, "LLM": "live"}
        self.ask_a_model(concurrency=1)
        self.rows({"text": f"word {n}.", "truth": f"right {n}."} for n in range(ROWS))

    def asked(self, repeats: int, task: str = "experiment", **variables: str) -> tuple[Json, int]:
        """Run a task that succeeds; its summary, and how many questions it asked."""
        self.configure(repeats=repeats)
        before = self.model.requests
        outcome = self.run(task, **self.variables | variables)
        assert outcome.code == 0, outcome.text
        assert outcome.summary is not None
        return outcome.summary, self.model.requests - before

    @property
    def answers(self) -> dict[int, str]:
        """The answer by number, of the rows of the standard flow that are on disk."""
        found = self.finished("default-words-????????????")
        return {row["row"]: row["outputs"]["answer"] for row in found if row["outputs"]}

    @property
    def lines(self) -> Path:
        (file,) = self.folder.glob("runs/default-words-????????????/rows.jsonl")
        return file


@pytest.fixture
def model() -> Iterator[StandIn]:
    answers = [{"when": [f"word {n}."], "answer": [said(n, k) for k in range(6)]} for n in range(8)]
    with StandIn(answers=answers) as model:
        yield model


@pytest.fixture
def noisy_case(tmp_path: Path, model: StandIn) -> Noisy:
    return Noisy(tmp_path, model)


def test_each_row_is_answered_several_times(noisy_case: Noisy) -> None:
    summary, asked = noisy_case.asked(REPEATS)
    assert asked == ROWS * REPEATS
    assert noisy_case.answers == {
        repeat * ROWS + row: said(row, repeat) for repeat in range(REPEATS) for row in range(ROWS)
    }
    (run,), (evaluation,), (score,) = summary["runs"], summary["evaluations"], summary["scores"]
    for counted in (run, evaluation, score):
        assert (counted["rows"], counted["repeats"]) == (ROWS * REPEATS, REPEATS)
    means = [fmean(said(n, k).startswith("right") for n in range(ROWS)) for k in range(REPEATS)]
    assert means == [0.5, 1.0, 0.5]
    assert score["value"] == pytest.approx(fmean(means))
    assert score["repeat_sd"] == pytest.approx(stdev(means))
    rows = [[said(n, k).startswith("right") for k in range(REPEATS)] for n in range(ROWS)]
    drawn = [fmean(fmean(rows[row]) for row in draw) for draw in metrics.draws(ROWS)]
    assert score["ci95"] == pytest.approx(metrics.interval(drawn, ROWS))


def test_the_report_says_which_repeat(noisy_case: Noisy) -> None:
    noisy_case.model.fail({"status": 400, "when": "word 3.", "times": 1})
    noisy_case.configure(repeats=2)
    outcome = noisy_case.run(**noisy_case.variables)
    assert outcome.code == 2, outcome.text
    assert "8 \u00d7 2 repeats (1 failed)" in outcome.out
    assert "repeat sd 0." in outcome.out
    assert "15 of 16 answers" in outcome.out
    assert "(data/words.jsonl: line 4, repeat 0)" in outcome.out
    reports = noisy_case.folder / "reports"
    with (reports / "outputs.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(int(line["row"]), int(line["repeat"])) for line in lines] == [
        (row, repeat) for repeat in range(2) for row in range(ROWS)
    ]
    with (reports / "metrics.csv").open(encoding="utf-8", newline="") as file:
        (metric,) = csv.DictReader(file)
    assert metric["repeats"] == "2"
    assert float(metric["repeat_sd"]) > 0
    assert "row 3, repeat 0:" in (reports / "summary.md").read_text(encoding="utf-8")
    page = (reports / "index.html").read_text(encoding="utf-8")
    assert "<b>Row 3, repeat 0</b>" in page
    assert "8 \u00d7 2 repeats" in page


def test_nothing_of_repeats_is_shown_where_there_are_none(noisy_case: Noisy) -> None:
    noisy_case.asked(1)
    for path in ("reports/summary.md", "reports/outputs.csv", "reports/metrics.csv"):
        assert "repeat" not in (noisy_case.folder / path).read_text(encoding="utf-8")


def test_more_repeats_ask_for_the_new_ones_alone_and_fewer_for_none(noisy_case: Noisy) -> None:
    one, asked = noisy_case.asked(1)
    assert asked == ROWS
    kept = noisy_case.lines.read_bytes()
    three, asked = noisy_case.asked(3)
    assert asked == 2 * ROWS
    assert three["llm"]["cached"] == ROWS
    assert noisy_case.lines.read_bytes().startswith(kept)
    more = noisy_case.lines.read_bytes()
    again, asked = noisy_case.asked(1)
    assert asked == 0
    assert noisy_case.lines.read_bytes() == kept
    for key in ("runs", "evaluations", "scores"):
        assert again[key] == one[key]
    again, asked = noisy_case.asked(2)
    assert (asked, again["runs"][0]["rows"]) == (0, 2 * ROWS)
    again, asked = noisy_case.asked(3)
    assert asked == 0
    assert again["scores"] == three["scores"]
    assert noisy_case.lines.read_bytes() == more
    assert not [*noisy_case.folder.glob("runs/*/aside.jsonl")]
    _, asked = noisy_case.asked(3, FRESH="1")
    assert asked == 3 * ROWS


def test_a_kill_while_repeats_are_put_aside_loses_no_answer(noisy_case: Noisy) -> None:
    three, _ = noisy_case.asked(3)
    every = noisy_case.lines.read_bytes()
    aside = noisy_case.lines.with_name("aside.jsonl")
    shutil.copy(noisy_case.lines, aside)  # as far as `put_aside` may have come
    again, asked = noisy_case.asked(3)
    assert (asked, again["scores"]) == (0, three["scores"])
    shutil.copy(noisy_case.lines, aside)
    noisy_case.lines.write_bytes(b"".join(every.splitlines(keepends=True)[:ROWS]))
    again, asked = noisy_case.asked(3)
    assert (asked, again["scores"]) == (0, three["scores"])
    assert noisy_case.lines.read_bytes() == every


def test_stored_repeats_are_scored_again_without_a_model(noisy_case: Noisy) -> None:
    three, _ = noisy_case.asked(3)
    again, asked = noisy_case.asked(1, "evaluate")  # what ran counts, not what would run now
    assert asked == 0
    assert again["scores"] == three["scores"]
    evaluator = noisy_case.folder / "flows/evaluation/flow.py"
    evaluator.write_text(evaluator.read_text() + "\n\n# changed\n")
    again, asked = noisy_case.asked(3, "evaluate")
    assert asked == 0
    assert again["scores"] == three["scores"]


@pytest.mark.parametrize("mode", ["live", "record"])
def test_a_killed_run_goes_on_in_the_repeat_where_it_was(mode: str, noisy_case: Noisy) -> None:
    noisy_case.configure(repeats=REPEATS)
    noisy_case.model.fail({"hang": 0.1})
    child = noisy_case.start("experiment", **noisy_case.variables | {"LLM": mode})
    wait_until(lambda: len(noisy_case.answers) > ROWS + 2 or child.poll() is not None)
    assert child.poll() is None, noisy_case.end(child).text
    child.kill()
    child.communicate()
    kept = len(noisy_case.answers)
    noisy_case.model.fail()
    resumed, asked = noisy_case.asked(REPEATS, LLM=mode)
    assert ROWS < kept < ROWS * REPEATS
    assert asked == ROWS * REPEATS - kept
    assert resumed["runs"][0]["failed"] == 0
    numbers = [json.loads(line)["row"] for line in noisy_case.lines.read_text().splitlines()]
    assert numbers == list(range(ROWS * REPEATS))


def recorded(use: UseCase) -> list[Json]:
    file = use.folder / "recordings" / "recorded.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("flow", ["python", "dag"])
def test_what_was_recorded_of_each_repeat_is_replayed(flow: str, noisy_case: Noisy) -> None:
    if flow == "dag":  # prompt flow's connections carry the repeat, not the environment
        shutil.rmtree(noisy_case.folder / "flows/standard")
        noisy_case.write("flows/standard/flow.dag.yaml", DAG)
        noisy_case.write("flows/standard/plain.jinja2", "user:\n{{text}}\n")
        noisy_case.write("flows/standard/brief.jinja2", "user:\nBriefly: {{text}}\n")
        noisy_case.configure(variants="default", connections=[AOAI | {"api_type": "azure"}])
    first, asked = noisy_case.asked(1, "record")
    assert (asked, {line["repeat"] for line in recorded(noisy_case)}) == (ROWS, {0})
    three, asked = noisy_case.asked(3, "record")
    assert asked == 2 * ROWS
    assert len(recorded(noisy_case)) == 3 * ROWS
    answers = {(line["repeat"], json.dumps(line["request"])) for line in recorded(noisy_case)}
    assert len(answers) == 3 * ROWS
    replayed, asked = noisy_case.asked(3, LLM="replay")
    assert asked == 0
    values = [(one["value"], one["ci95"], one["repeat_sd"]) for one in replayed["scores"]]
    assert values == [(one["value"], one["ci95"], one["repeat_sd"]) for one in three["scores"]]
    once, _ = noisy_case.asked(1, LLM="replay")
    assert once["scores"][0]["value"] == first["scores"][0]["value"] == 0.5


def test_a_repeat_that_was_not_recorded_is_not_made_up(noisy_case: Noisy) -> None:
    noisy_case.asked(2, "record")
    noisy_case.configure(repeats=3)
    outcome = noisy_case.run(LLM="replay")
    assert outcome.code == 2, outcome.text
    assert outcome.summary is not None
    assert outcome.summary["runs"][0]["failed"] == ROWS
    assert outcome.summary["scores"][0]["scored"] == 2 * ROWS
    assert outcome.summary["scores"][0]["note"] == "no value in 1 of 3 repeats"
    assert "No recording of this request for repeat 2: recordings/recorded.jsonl:" in outcome.out
    assert "answers repeat 1. `make record` with `repeats: 3` or more asks for it." in outcome.out


def test_variants_are_compared_by_the_means_of_their_rows(noisy_case: Noisy) -> None:
    flow = noisy_case.folder / "flows/standard/flow.py"
    text = flow.read_text().replace("def run(text)", "def run(text, tries)")
    flow.write_text(text + "\n\nanswer = run\n\n\n" + BEST)
    noisy_case.configure(
        parameters={"tries": [1, 2]}, prices={"standin-small": {"prompt": 1, "completion": 1}}
    )
    summary, asked = noisy_case.asked(2)
    assert asked == ROWS * 2 * 3
    found = {one["metric"]: one for one in summary["comparison"]}
    match, cost = found["match"], found["cost (USD)"]
    assert match["difference"] == pytest.approx(0.25)
    assert (match["wins"], match["losses"], match["ties"]) == (4, 0, 4)
    assert match["flipped"] == [1, 3, 5, 7]
    assert match["verdict"] == "inconclusive"
    assert "4 rows better, 0 worse, 4 the same." in match["sentence"]
    assert (cost["wins"], cost["losses"], cost["verdict"]) == (0, ROWS, "worse")
    costs = [run["cost_usd"] for run in summary["runs"]]
    assert cost["difference"] == pytest.approx(costs[1] - costs[0])
    assert found["failed rows"]["verdict"] == "no difference"
    assert found["latency p50 (s)"]["ci95"] is not None


def test_a_version_beside_itself_is_no_difference(noisy_case: Noisy) -> None:
    noisy_case.write(".gitignore", "runs/\nreports/\n")
    git(noisy_case, "init", "--quiet")
    commit(noisy_case)
    assert noisy_case.blocks.get("repeats", 1) == 1
    for asks in (REPEATS * ROWS, 0):  # the base is answered as often as the files of now
        summary, asked = noisy_case.asked(REPEATS, "compare", BASE="HEAD")
        assert asked == asks
        (run,) = summary["base"]["runs"]
        assert (run["rows"], run["repeats"]) == (REPEATS * ROWS, REPEATS)
        assert len(summary["comparison"]) >= 3
        assert {one["verdict"] for one in summary["comparison"]} == {"no difference"}
        assert not summary["base"]["not_comparable"]


def test_an_older_run_is_scored_with_its_repeats(noisy_case: Noisy) -> None:
    three, _ = noisy_case.asked(3)
    again, asked = noisy_case.asked(
        1, "evaluate", RUNS=str(Path(three["runs"][0]["outputs"]).parent)
    )
    assert (asked, again["scores"]) == (0, three["scores"])


BEST = """
def run(text, tries):
    found = [answer(text, tries)["answer"] for _ in range(tries)]
    return {"answer": min(found)}
"""


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [0, 51, "3", True, 1.5, [2]])
def test_repeats_is_a_whole_number_from_1_to_50(repeats: Any, noisy_case: Noisy) -> None:
    noisy_case.configure(repeats=repeats)
    noisy_case.run("validate").refused("experiment.yaml: repeats: ")


def test_the_plan_counts_repeats(noisy_case: Noisy) -> None:
    noisy_case.configure(repeats=5)
    assert "default over words: 8 rows \u00d7 5 repeats" in noisy_case.run("validate").out


@pytest.mark.parametrize("target", ["azure", "azure-pipeline"])
def test_runs_in_azure_are_not_repeated(target: str, noisy_case: Noisy) -> None:
    noisy_case.configure(repeats=2)
    noisy_case.run(TARGET=target).refused(
        f"experiment.yaml: repeats: 2 with TARGET={target}", "Set `repeats: 1`"
    )
