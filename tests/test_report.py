"""The report: files, numbers and, in a real browser, the page."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llmops import report, summary
from llmops.errors import UserError
from llmops.report import inert
from llmops.runs import Row, Run
from llmops.summary import (
    Base,
    Check,
    Comparison,
    Evaluation,
    Gate,
    Latency,
    Llm,
    RunSummary,
    Score,
    Summary,
    Tokens,
)

FILES = ["index.html", "metrics.csv", "outputs.csv", "summary.json", "summary.md"]
HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=2">'


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Experiment:
    """Builds a summary with its runs on disk, a cell at a time."""

    def __init__(self) -> None:
        self.runs: list[RunSummary] = []
        self.evaluations: list[Evaluation] = []
        self.scores: list[Score] = []

    def run(self, variant: str, rows: list[Row], dataset: str = "news", **more: Any) -> None:
        facts = {
            "parameters": {},
            "tokens": Tokens(prompt=10, completion=2, total=12),
            "latency_s": Latency(p50=0.5, p95=0.9),
        }
        self.runs.append(
            RunSummary(
                variant=variant,
                dataset=dataset,
                rows=len(rows),
                failed=sum(row.failed for row in rows),
                outputs=store(rows),
                **(facts | more),
            )
        )

    def evaluate(
        self, variant: str, rows: list[Row], dataset: str = "news", evaluator: str = "match"
    ) -> None:
        self.evaluations.append(
            Evaluation(
                variant=variant,
                dataset=dataset,
                evaluator=evaluator,
                rows=len(rows),
                failed=sum(row.failed for row in rows),
                outputs=store(rows),
            )
        )

    def score(self, variant: str, value: float | None, dataset: str = "news", **more: Any) -> None:
        facts = {"evaluator": "match", "metric": "f1", "scored": 30, "rows": 30}
        self.scores.append(Score(variant=variant, dataset=dataset, value=value, **(facts | more)))

    def summary(self, **more: Any) -> Summary:
        facts = {
            "experiment": "named_entities",
            "env": "dev",
            "llm": Llm(mode="replay", calls=6, note="Written by hand for this example."),
            "started_at": "2026-11-20T09:03:12+00:00",
            "seconds": 6.4,
            "runs": tuple(self.runs),
            "evaluations": tuple(self.evaluations),
            "scores": tuple(self.scores),
        }
        made = Summary(**(facts | more))
        summary.save(made)
        return made


NUMBER = itertools.count()


def store(rows: list[Row]) -> str:
    run = Run(Path("runs") / str(next(NUMBER)))
    for row in rows:
        run.append(row)
    run.close()
    return str(run.path)


def row(number: int, text: str = "Ada met Grace.", answer: Any = "Ada", **more: Any) -> Row:
    facts = {"latency_s": 0.25, "usage": {"model": [1, 30, 4]}}
    return Row(number, {"text": text}, {"entities": answer}, **(facts | more))


def failure(number: int, message: str = "no answer within 60 s") -> Row:
    return Row(number, {"text": "Ada met Grace."}, None, {"type": "Timeout", "message": message})


def scored(number: int, f1: float, truth: str = "Ada, Grace") -> Row:
    return Row(number, {"ground_truth": truth}, {"f1": f1, "reason": f"f1 is {f1}"})


def two_variants() -> Experiment:
    """Three rows; `terse` fails in row 1 and is better else; rows 0 and 2 differ."""
    made = Experiment()
    made.run("default", [row(0, answer="Ada"), row(1, answer="Ada, Bob"), row(2, answer="Grace")])
    made.run("terse", [row(0, answer="Ada, Grace"), failure(1), row(2, answer="Ada, Grace")])
    made.evaluate("default", [scored(0, 0.5), scored(1, 0.25), scored(2, 0.75)])
    made.evaluate("terse", [scored(0, 1.0), scored(2, 1.0)])
    made.score("default", 0.5, ci95=(0.3, 0.7), scored=3, rows=3)
    made.score("terse", 1.0, ci95=(0.8, 1.0), scored=2, rows=3)
    return made


def read(path: str) -> list[dict[str, str]]:
    with (Path("reports") / path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def text_of(path: str) -> str:
    return (Path("reports") / path).read_text(encoding="utf-8")


def check(verdict: str, value: float, name: str = "match.f1 ≥ 0.8", **more: Any) -> Check:
    facts = {"variant": "default", "dataset": "news", "limit": 0.8, "message": "30 of 30 rows"}
    facts |= {"evaluator": "match", "metric": "f1", "bound": "min"}
    return Check(check=name, verdict=verdict, value=value, **(facts | more))


# --- files -------------------------------------------------------------------------------------


def test_the_report_and_each_variant_have_the_same_files() -> None:
    made = two_variants().summary()
    assert report.write(made) == Path("reports/index.html")
    for folder in ("reports", "reports/default", "reports/terse"):
        assert sorted(p.name for p in Path(folder).iterdir() if p.is_file()) == FILES
    own = summary.load(Path("reports/terse/summary.json"))
    assert {one.variant for one in (*own.runs, *own.evaluations, *own.scores)} == {"terse"}
    assert {line["variant"] for line in read("terse/outputs.csv")} == {"terse"}


def test_the_same_summary_gives_the_same_bytes() -> None:
    made = two_variants().summary()
    report.write(made)
    first = {path: path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()}
    report.write(made)
    assert {p: p.read_bytes() for p in Path("reports").rglob("*") if p.is_file()} == first


def test_only_folders_of_gone_variants_are_removed() -> None:
    report.write(two_variants().summary())
    Path("reports/notes").mkdir()
    Path("reports/notes/mine.txt").write_text("keep")
    alone = Experiment()
    alone.run("default", [row(0)])
    report.write(alone.summary())
    assert sorted(p.name for p in Path("reports").iterdir() if p.is_dir()) == ["default", "notes"]


def test_variants_with_names_alike_keep_their_own_folders() -> None:
    made = Experiment()
    for variant in ("default [t=0.7]", "default [t=-0.7]", "index.html"):
        made.run(variant, [row(0, answer=variant)])
    report.write(made.summary())
    folders = [path for path in Path("reports").iterdir() if path.is_dir()]
    assert len(folders) == 3
    outputs = {read(f"{path.name}/outputs.csv")[0]["outputs.entities"] for path in folders}
    assert outputs == {"default [t=0.7]", "default [t=-0.7]", "index.html"}


def test_a_folder_that_cannot_be_written_is_told_to_the_user(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"taken.*cannot be written"):
        report.write(two_variants().summary(), tmp_path / "taken")


def test_an_experiment_in_which_nothing_ran_has_a_report() -> None:
    report.write(Experiment().summary())
    assert "Nothing ran" in text_of("summary.md")


def test_importing_the_report_loads_no_drawing_library() -> None:
    code = "import sys, llmops.report; print({'pygal', 'jinja2', 'tabulate'} & set(sys.modules))"
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


def test_rows_are_not_held_in_memory() -> None:
    run = Run(Path("runs/large"))
    for number in range(20_000):
        run.append(row(number, text=f"{number} " + "a few words more " * 250))
    run.close()
    assert run.path.stat().st_size > 80_000_000
    made = Experiment()
    made.run("default", [])
    cell = made.runs[0].model_copy(update={"rows": 20_000, "outputs": str(run.path)})
    made.runs = [cell]
    made.summary()
    code = (
        "from llmops import report, summary; report.write(summary.load());"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 150_000, "kB"
    assert "Showing 4,000 of 20,000 rows" in text_of("index.html")
    assert len(read("outputs.csv")) == 20_000


# --- order and numbers ---------------------------------------------------------------------------


def order(made: Summary) -> list[str]:
    return [line.split()[0] for line in report.table(made).splitlines()[2:]]


def test_the_best_variant_comes_first() -> None:
    made = Experiment()
    for variant, value in (("none", None), ("low", 0.2), ("high", 0.9), ("middle", 0.5)):
        made.run(variant, [row(0)])
        made.score(variant, value)
    assert order(made.summary()) == ["high", "middle", "low", "none"]


@pytest.mark.parametrize(
    ("checks", "first"),
    [
        ([check("fail", 0.9, bound="max")], "low"),
        ([check("fail", 0.9, bound="max"), check("pass", 0.9, limit=0.1)], "default"),
        ([check("pass", 0.9)], "default"),
        ([check("fail", 0.9, limit=1.0, bound="coverage")], "default"),
    ],
    ids=["only a maximum", "maximum and minimum", "minimum", "coverage"],
)
def test_lower_is_better_where_the_gate_sets_only_a_maximum(
    checks: list[Check], first: str
) -> None:
    made = Experiment()
    for variant, value in (("default", 0.9), ("low", 0.2)):
        made.run(variant, [row(0)])
        made.score(variant, value)
    assert order(made.summary(gate=Gate(verdict="fail", checks=tuple(checks))))[0] == first


def test_each_dataset_has_its_own_order() -> None:
    made = Experiment()
    values = {("a", "news"): 0.1, ("b", "news"): 0.9, ("a", "mail"): 0.8, ("b", "mail"): 0.2}
    for (variant, dataset), value in values.items():
        made.run(variant, [row(0)], dataset)
        made.score(variant, value, dataset)
    lines = [line.split()[:2] for line in report.table(made.summary()).splitlines()[2:]]
    assert lines == [["b", "news"], ["a", "news"], ["a", "mail"], ["b", "mail"]]


def test_the_table_tells_intervals_failures_and_missing_scores() -> None:
    made = two_variants()
    made.runs[0] = made.runs[0].model_copy(update={"cost_usd": 0.0123})
    head, _, best, other = report.table(made.summary()).splitlines()
    assert head.split() == ["variant", "dataset", "rows", "f1", "tokens", "p50", "cost"]
    assert best.startswith("terse")
    assert "3 (1 failed)" in best
    assert "1.00 [0.80, 1.00] (2 of 3 rows)" in best
    assert "0.50 [0.30, 0.70]" in other
    assert "rows)" not in other
    assert "$0.0123" in other
    assert "0.50 s" in other


def test_metrics_csv_has_the_numbers_in_full() -> None:
    made = Experiment()
    made.run("default", [row(0)], parameters={"node.temperature": 0.7})
    made.score("default", 1 / 3, ci95=(0.1, 0.5), scored=2, rows=3)
    made.score("default", None, metric="kappa", scored=0, rows=3, note="not a number")
    report.write(made.summary())
    one, two = read("metrics.csv")
    assert json.loads(one.pop("parameters")) == {"node.temperature": 0.7}
    assert one == {
        "variant": "default",
        "dataset": "news",
        "evaluator": "match",
        "metric": "f1",
        "value": repr(1 / 3),
        "ci_low": "0.1",
        "ci_high": "0.5",
        "scored": "2",
        "rows": "3",
    }
    assert (two["value"], two["ci_low"], two["scored"]) == ("", "", "0")


# --- comparisons ---------------------------------------------------------------------------------


def against(candidate: str = "terse", metric: str = "f1", **more: Any) -> Comparison:
    facts = {
        "dataset": "news",
        "evaluator": "match",
        "baseline": "default",
        "baseline_value": 0.5,
        "candidate_value": 1.0,
        "difference": 0.5,
        "ci95": (0.25, 0.75),
        "wins": 2,
        "losses": 0,
        "ties": 0,
        "flipped": (0, 2),
        "verdict": "better",
        "sentence": f"{metric} rose by 0.5 (95 % interval 0.25 to 0.75): better.",
    }
    return Comparison(candidate=candidate, metric=metric, **(facts | more))


def test_comparisons_are_in_every_form_of_the_report() -> None:
    cost = against(evaluator="", metric="cost (USD)", verdict="worse", sentence="cost rose: worse.")
    made = two_variants().summary(comparison=(against(), cost))
    report.write(made)
    line = "- ✅ f1 rose by 0.5 (95 % interval 0.25 to 0.75): better."
    top, details = text_of("summary.md").split("<details>", 1)
    assert "**Compared with `default`**" in top
    assert line in top
    assert "cost rose: worse." not in top
    assert "- ✅ `terse` · `news`: f1 rose" in details
    assert "- ❌ `terse` · `news`: cost rose: worse." in details
    assert "of 20 comparisons in which nothing differs, about one" in details
    assert report.compared(made) == [
        "terse against default on news: f1 rose by 0.5 (95 % interval 0.25 to 0.75): better."
    ]
    assert summary.load(Path("reports/terse/summary.json")).comparison == (against(), cost)
    assert summary.load(Path("reports/default/summary.json")).comparison == ()
    assert "Changed: 0, 2" in text_of("terse/index.html")


def test_what_was_compared_decides_which_variant_is_best() -> None:
    made = two_variants().summary(comparison=(against(lower_is_better=True),))
    assert order(made) == ["default", "terse"]


def test_many_comparisons_stay_within_forty_lines() -> None:
    made = two_variants()
    for number in range(12):
        made.run(f"v{number}", [failure(n) for n in range(3)])
    checks = tuple(check("fail", 0.1, variant=f"v{n}") for n in range(12))
    many = tuple(against(f"v{n}", verdict="inconclusive") for n in range(12))
    many = (*many, against("terse", verdict="worse", sentence="f1 fell: worse."))
    found = made.summary(comparison=many, gate=Gate(verdict="fail", checks=checks))
    report.write(found)
    lines = text_of("summary.md").splitlines()
    assert next(i for i, line in enumerate(lines) if "<details>" in line) <= 40
    at = next(i for i, line in enumerate(lines) if "Compared with" in line)
    assert lines[at + 2].endswith("f1 fell: worse."), "the worst comes first"
    assert "- … 10 more below" in lines
    assert len(report.compared(found)) == 11
    assert report.compared(found)[-1] == "… 3 more comparisons, see the report"


# --- rows ----------------------------------------------------------------------------------------


def test_outputs_csv_joins_inputs_outputs_scores_and_errors() -> None:
    made = two_variants()
    made.evaluate("default", [Row(1, {}, None, {"type": "ValueError", "message": "no list"})],
                  evaluator="format")  # fmt: skip
    report.write(made.summary())
    lines = {(line["variant"], line["row"]): line for line in read("outputs.csv")}
    assert len(lines) == 6
    good = lines["terse", "0"]
    assert (good["status"], good["inputs.text"]) == ("completed", "Ada met Grace.")
    assert (good["outputs.entities"], good["match.f1"]) == ("Ada, Grace", "1.0")
    assert (good["latency_s"], good["prompt_tokens"], good["completion_tokens"]) == (
        "0.25",
        "30",
        "4",
    )
    failed = lines["terse", "1"]
    assert (failed["status"], failed["match.f1"]) == ("failed", "")
    assert failed["error"] == "Timeout: no answer within 60 s"
    unscored = lines["default", "1"]
    assert (unscored["status"], unscored["match.f1"]) == ("unscored", "0.25")
    assert unscored["error"] == "format: ValueError: no list"
    assert lines["default", "0"]["status"] == "unscored", "the evaluator has no such row"


def test_a_log_that_an_evaluator_scores_alone_is_reported() -> None:
    made = Experiment()
    made.evaluate("logged", [scored(0, 1.0), failure(1)], "production")
    made.score("logged", 1.0, "production", scored=1, rows=2)
    report.write(made.summary())
    good, failed = read("outputs.csv")
    assert (good["inputs.ground_truth"], good["match.f1"]) == ("Ada, Grace", "1.0")
    assert (failed["status"], failed["match.f1"]) == ("failed", "")
    assert "2 (1 failed)" in report.table(made.summary())


def test_the_columns_are_those_of_all_rows() -> None:
    made = Experiment()
    made.run(
        "default", [Row(0, {"a": 1}, {"x": [1, {"y": None}]}), Row(1, {"b": True}, {"z": "é"})]
    )
    report.write(made.summary())
    one, two = read("outputs.csv")
    assert [name for name in one if "." in name] == [
        "inputs.a",
        "inputs.b",
        "outputs.x",
        "outputs.z",
    ]
    assert json.loads(one["outputs.x"]) == [1, {"y": None}]
    assert (two["inputs.a"], two["inputs.b"], two["outputs.z"]) == ("", "true", "é")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+1 (555) 0100", "'+1 (555) 0100"),
        ("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0"),
        ("\t=1+1", "'\t=1+1"),
        ("-5", "-5"),
        ("+3.2e-4", "+3.2e-4"),
        (-5, "-5"),
        (-0.5, "-0.5"),
        ("a=1", "a=1"),
    ],
)
def test_a_spreadsheet_never_runs_a_cell(value: Any, cell: str) -> None:
    made = Experiment()
    made.run("default", [row(0, answer=value)])
    report.write(made.summary())
    assert read("outputs.csv")[0]["outputs.entities"] == cell


@given(texts=st.lists(st.text(), min_size=1, max_size=4))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_survives_the_csv(texts: list[str]) -> None:
    made = Experiment()
    made.run("default", [row(i, text=text, answer=text) for i, text in enumerate(texts)])
    report.write(made.summary())
    lines = read("outputs.csv")
    assert len(lines) == len(texts)
    for line, text in zip(lines, texts, strict=True):
        for cell in (line["inputs.text"], line["outputs.entities"]):
            assert cell == text or (cell == f"'{text}" and text[0] in "=+-@\t\r")


# --- Markdown ------------------------------------------------------------------------------------


def test_markdown_gives_the_verdict_first_and_stays_short() -> None:
    made = Experiment()
    checks = []
    for number in range(20):
        variant = f"node.variant_{number}"
        made.run(variant, [failure(i) for i in range(3)])
        made.score(variant, number / 20)
        checks.append(check("fail", number / 20, variant=variant))
    report.write(made.summary(gate=Gate(verdict="fail", checks=tuple(checks))))
    lines = text_of("summary.md").splitlines()
    assert "Gate failed" in lines[0]
    assert next(i for i, line in enumerate(lines) if "<details>" in line) <= 40
    assert "Rows with an error** (60, the first 10)" in "\n".join(lines)
    assert "node.variant_0 " in "\n".join(lines), "all variants are in the details"


def test_data_is_inert_in_markdown() -> None:
    made = Experiment()
    made.run("a|b`c", [failure(0, f"{HOSTILE}\n# big @team [x](http://x) **b** | `code` #12")])
    made.score("a|b`c", 0.5)
    report.write(made.summary())
    text = text_of("summary.md")
    assert "<script" not in text
    assert "<img" not in text
    assert "@team" not in text
    assert not re.search(r"[^\\]\]\(", text)
    assert "\n# big" not in text
    assert "| a\\|b\\`c |" in text


BASE = Base(ref="main", commit="abc1234")


def since(verdict: str, metric: str = "f1", variant: str = "default", **more: Any) -> Comparison:
    """A comparison with the base version."""
    facts = {"baseline": variant, "base": "main (abc1234)", "verdict": verdict}
    return against(variant, metric, sentence=f"{metric}: {verdict}.", **(facts | more))


def first_lines(made: Summary) -> list[str]:
    report.write(made)
    return [line for line in text_of("summary.md").splitlines() if line][:5]


def test_the_first_lines_say_what_a_reviewer_must_know() -> None:
    found = (
        since("no difference", "recall"),
        since("inconclusive", "kappa"),
        since("worse"),
        since("better", "precision"),
        since("worse", "speed_score"),
        against("terse", verdict="better"),
    )
    checks = (check("fail", 0.5), check("pass", 0.9), check("pass", 0.9))
    made = two_variants().summary(
        comparison=found, base=BASE, gate=Gate(verdict="fail", checks=checks)
    )
    assert first_lines(made) == [
        "## ❌ Gate failed: named_entities",
        "**Do not merge it like this: 1 of 3 checks fails.**",
        "- **Against `main (abc1234)`**, `default` on `news`: ❌ **worse**: f1, speed_score · "
        "✅ **better**: precision · ❔ **cannot tell**: kappa · ⚪ **no difference**: recall",
        "- ❌ **1 of 6 rows failed.** No metric counts them.",
        "- **Replayed, not live.** 6 calls answered from recordings/, no model was asked. "
        "Written by hand for this example.",
    ]
    details = text_of("summary.md").split("<details>", 1)[1]
    assert details.index("**Compared with `main (abc1234)`**") < details.index("`default`**")


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (["better", "no difference"], "All 2 checks hold, and no metric got worse."),
        (["better", "worse"], "All 2 checks hold, but m1 got worse: look before you merge."),
        (
            ["better", "inconclusive"],
            "All 2 checks hold, but of m1 the data cannot tell whether it changed.",
        ),
        ([], "All 2 checks hold."),
    ],
)
def test_what_the_gate_lets_through_is_told(verdicts: list[str], words: str) -> None:
    made = Experiment()
    made.run("default", [row(0)])
    found = tuple(since(verdict, f"m{number}") for number, verdict in enumerate(verdicts))
    gate = Gate(verdict="pass", checks=(check("pass", 0.9), check("pass", 1.0)))
    lines = first_lines(made.summary(comparison=found, base=BASE, gate=gate))
    assert lines[1] == f"**{words}**"
    assert ("nothing was compared" in lines[2]) == (not verdicts)


def test_what_cannot_be_compared_with_the_base_says_why() -> None:
    base = BASE.model_copy(update={"not_comparable": ("The data of news differ.", "So do [x](y).")})
    gate = Gate(verdict="pass", checks=(check("pass", 0.9),))
    made = Experiment()
    made.run("default", [row(0)])
    lines = first_lines(made.summary(base=base, gate=gate))
    assert lines[1:3] == [
        "**The check holds, but there is no comparison with the base.**",
        "- **Against `main (abc1234)`**: not comparable. The data of news differ. So do [x\\](y).",
    ]


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (Gate(), "Decide yourself: experiment.yaml sets no gate."),
        (Gate(verdict="inconclusive"), "Decide yourself: too little was scored to judge."),
    ],
)
def test_without_a_verdict_a_person_decides(gate: Gate, words: str) -> None:
    assert words in first_lines(two_variants().summary(gate=gate))[1]


def test_many_long_names_stay_short() -> None:
    made = Experiment()
    names = [f"default [{'node.temperature=0.5, ' * 20}seed={number}]" for number in range(30)]
    for name in names:
        made.run(name, [failure(0), row(1)])
        for metric in range(12):
            made.score(name, 0.5, metric=f"metric_{metric}")
    found = tuple(since("worse", f"metric_{n}", name) for name in names for n in range(12))
    checks = tuple(check("fail", 0.1, variant=name) for name in names)
    base = BASE.model_copy(update={"not_comparable": ("Of one dataset the rows differ.",)})
    gate = Gate(verdict="fail", checks=checks)
    report.write(made.summary(comparison=found, base=base, gate=gate))
    lines = text_of("summary.md").splitlines()
    top = lines[: next(i for i, line in enumerate(lines) if "<details>" in line)]
    assert len(top) <= 40
    assert sum(map(len, top)) < 8000
    assert "seed=0]`" in "\n".join(top), "the end tells one name from another"
    assert "not comparable. Of one dataset" in "\n".join(top[:8])
    assert "- … and 28 more below" in top
    assert "metric_5 and 6 more" in "\n".join(top)
    assert "metric_7" not in "\n".join(top)


@pytest.mark.parametrize(
    "hostile",
    [
        "@ada/team",
        "#12",
        "ada/cases#12",
        "GH-12",
        "https://evil.example",
        "www.evil.example",
        "eve@evil.example",
        ":tada:",
        "$x$",
        "[a](b)",
        "![a](b)",
        "<b>",
        "&lt;",
        "**b**",
        "~~b~~",
        "`b`",
        "pay \u202elatot",
        "two\nlines\r\n# three",
        "\x00\x1b[31mred",
    ],
)
def test_text_that_a_host_would_act_upon_is_inert(hostile: str) -> None:
    made = inert.text(f"before {hostile} after", 1000)
    assert hostile not in made
    assert not re.search(r"[\x00-\x1f\u202e]", made)
    plain = re.sub(r"</?span>|\u2060", "", made)
    for mark in "[]()!#":
        assert plain.count(mark) == hostile.count(mark), "nothing is lost"


# --- the page as a file --------------------------------------------------------------------------

WORDS = random.Random(7).sample(
    [a + b + c for a in ("in", "re", "con", "de", "per", "sub", "al", "ver") for b in
     ("ta", "mi", "lo", "se", "du", "ra", "ne", "ti", "go") for c in
     ("n", "s", "ment", "tion", "ly", "r", "d", "ble", "l", "st")], 700)  # fmt: skip


def sentence(dice: random.Random, length: int) -> str:
    return " ".join(dice.choices(WORDS, k=length)).capitalize() + "."


def large(rows: int, length: int) -> Summary:
    dice = random.Random(1)
    texts = [sentence(dice, length) for _ in range(rows)]
    made = Experiment()
    for number in range(4):
        variant = f"node.variant_{number}"
        made.run(variant, [row(i, text, sentence(dice, 25)) for i, text in enumerate(texts)])
        made.evaluate(variant, [scored(i, dice.random(), sentence(dice, 25)) for i in range(rows)])
        made.score(variant, number / 4, ci95=(0.0, 1.0), scored=rows, rows=rows)
    return made.summary()


def test_four_variants_of_a_thousand_rows_fit_into_two_megabytes() -> None:
    page = report.write(large(1000, 80))
    assert page.stat().st_size <= 2_000_000
    assert "All 4,000 rows are here" in page.read_text()
    assert "longer than 2,000 characters" in page.read_text()


def test_long_texts_are_cut_so_that_the_page_stays_small() -> None:
    page = report.write(large(400, 1500))
    assert page.stat().st_size <= 2_000_000
    length = re.search(r"longer than ([\d,]+) characters is cut here", page.read_text())
    assert length is not None
    assert int(length[1].replace(",", "")) <= 2000
    assert len(read("outputs.csv")[0]["inputs.text"]) > 5000


@pytest.mark.parametrize(
    ("mode", "words"),
    [("live", "Live."), ("replay", "Replayed, not live."), ("record", "Live, and recorded.")],
)
def test_every_page_says_where_the_answers_came_from(mode: Any, words: str) -> None:
    report.write(two_variants().summary(llm=Llm(mode=mode, calls=1, cached=2, note="A note.")))
    for folder in ("", "default/", "terse/"):
        for name in ("index.html", "summary.md"):
            assert words in text_of(folder + name)
            assert "A note." in text_of(folder + name)


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    report.write(two_variants().summary())
    page = text_of("index.html")
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "<?xml" not in page
    assert not re.search(r"\b(src|srcset|action)=|@import|url\(", page)
    assert page.count("<script") == 2


def test_data_cannot_leave_its_place_in_the_page() -> None:
    made = Experiment()
    made.run(HOSTILE, [row(0, HOSTILE, HOSTILE), failure(1, HOSTILE)], HOSTILE)
    made.score(HOSTILE, 0.5, HOSTILE, metric=HOSTILE, note=HOSTILE)
    checks = (check("fail", 0.5, HOSTILE, variant=HOSTILE, dataset=HOSTILE, message=HOSTILE),)
    pairs = (against(HOSTILE, HOSTILE, dataset=HOSTILE, baseline=HOSTILE, sentence=HOSTILE),)
    gate = Gate(verdict="fail", checks=checks)
    report.write(made.summary(experiment=HOSTILE, gate=gate, comparison=pairs))
    for path in Path("reports").rglob("index.html"):
        page = path.read_text()
        assert page.count("<script") == 2
        assert "<img" not in page


def test_the_gate_of_a_variant_has_its_own_checks() -> None:
    checks = (check("pass", 0.9), check("fail", 0.5, variant="terse"))
    report.write(two_variants().summary(gate=Gate(verdict="fail", checks=checks)))
    assert summary.load(Path("reports/default/summary.json")).gate.verdict == "pass"
    assert summary.load(Path("reports/terse/summary.json")).gate.verdict == "fail"
    assert "1 of 2 checks hold" in text_of("index.html")


# --- the page in a browser -----------------------------------------------------------------------


class Opened:
    """A page of the report with what the browser said and asked for while it was open."""

    def __init__(self, browser: Any, path: str = "index.html", **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.uri = (Path("reports") / path).resolve().as_uri()
        self.page.goto(self.uri)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *failed: object) -> None:
        self.context.close()
        if failed[0] is None:
            assert self.said == []
            assert self.asked == [self.uri]


def column(page: Any, title: str) -> list[str]:
    page.wait_for_selector("tr.row")
    return [
        text.strip() for text in page.locator(f'#rows td[data-title="{title}"]').all_inner_texts()
    ]


def numbers(page: Any) -> list[int]:
    page.wait_for_selector("tr.row")
    return [int(text.split()[-1]) for text in page.locator("button.open").all_inner_texts()]


def test_the_page_opens_from_disk_without_a_request_or_an_error(browser: Any) -> None:
    report.write(two_variants().summary())
    with Opened(browser) as page:
        assert column(page, "Variant")[0] == "terse", "the failed row is on top"
        assert column(page, "Status")[0] == "Failed"
        assert numbers(page) == [1, 0, 0, 1, 2, 2]
        listed = " ".join(page.locator("#failed li").inner_text().split())
        assert listed == "Row 1 terse Timeout: no answer within 60 s"
        assert page.locator("#metrics svg circle").count() == 2
        assert page.locator("#variants tbody th").all_inner_texts()[0].startswith("terse")
    with Opened(browser, "terse/index.html") as page:
        assert numbers(page) == [1, 0, 2]
        assert page.locator("#differences").count() == 0
        assert page.get_by_role("link", name="All variants").is_visible()


def test_a_report_without_failures_has_no_failed_rows(browser: Any) -> None:
    made = Experiment()
    made.run("default", [row(0)])
    report.write(made.summary())
    with Opened(browser) as page:
        assert numbers(page) == [0]
        assert page.locator("#failed").count() == 0


def test_filters_and_search_find_rows(browser: Any) -> None:
    report.write(two_variants().summary())
    with Opened(browser) as page:
        page.get_by_label("Variant", exact=True).select_option("default")
        assert set(column(page, "Variant")) == {"default"}
        page.get_by_label("Search").fill("BOB")
        assert numbers(page) == [1]
        page.get_by_label("Search").fill("nothing like it")
        assert page.get_by_text("No row matches.").is_visible()
        page.get_by_role("button", name="Clear").click()
        assert len(numbers(page)) == 6
        page.get_by_label("Status", exact=True).select_option("completed")
        assert len(numbers(page)) == 5
        page.get_by_role("button", name="Show them among the rows").click()
        assert column(page, "Status") == ["Failed"]


def test_columns_sort_both_ways_with_missing_values_last(browser: Any) -> None:
    report.write(two_variants().summary())
    with Opened(browser) as page:
        header = page.locator("#rows").get_by_role("columnheader", name="f1")
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == "ascending"
        assert column(page, "f1") == ["0.25", "0.5", "0.75", "1", "1", ""]
        assert page.evaluate("document.activeElement.innerText") == "f1", "the focus stays"
        page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == "descending"
        assert column(page, "f1") == ["1", "1", "0.75", "0.5", "0.25", ""]
        assert page.locator("th[aria-sort]").count() == 1


def test_many_rows_come_in_pages(browser: Any) -> None:
    made = Experiment()
    made.run("default", [row(number) for number in range(120)])
    report.write(made.summary())
    with Opened(browser) as page:
        assert numbers(page) == list(range(50))
        page.get_by_role("button", name="Next").click()
        page.get_by_role("button", name="Next").click()
        assert numbers(page) == list(range(100, 120))
        assert page.get_by_role("button", name="Next").is_disabled()
        assert page.get_by_text("101–120 of 120 rows").is_visible()  # noqa: RUF001


def test_each_repeat_of_a_row_is_a_line_of_its_own(browser: Any) -> None:
    made = Experiment()
    for variant, answers in (("default", "ABCD"), ("terse", "ABXY")):
        rows = [row(number, answer=answer) for number, answer in enumerate(answers)]
        made.run(variant, rows, repeats=2)
    made.score("default", 0.5, scored=4, rows=4, repeats=2, repeat_sd=0.25)
    report.write(made.summary(comparison=(against(flipped=(0, 1)),)))
    with Opened(browser) as page:
        assert numbers(page) == [0, 0, 0, 0, 1, 1, 1, 1]
        assert column(page, "Repeat") == ["0", "0", "1", "1"] * 2
        assert column(page, "Outputs") == ["A", "A", "C", "X", "B", "B", "D", "Y"]
        assert "repeat sd 0.25" in page.locator("#variants").inner_text()
        cards = page.locator("#differences").get_by_role("article")
        labels = [card.get_attribute("aria-label") for card in cards.all()]
        assert labels == ["Row 0, repeat 1", "Row 1, repeat 1"]
        page.locator("#compared").get_by_role("link", name="Show 2 that changed").click()
        assert page.get_by_text("2 of 2 rows that changed.").is_visible()


def test_differences_stand_side_by_side(browser: Any) -> None:
    report.write(two_variants().summary())
    with Opened(browser) as page:
        section = page.locator("#differences")
        assert section.get_by_text("3 of 3 rows differ.").is_visible()
        first = section.get_by_role("article").first
        assert first.get_attribute("aria-label") == "Row 0"
        assert first.locator(".side.a .text").first.inner_text() == "Ada, Grace"
        assert first.locator(".side.a mark").first.inner_text() == ", Grace"
        assert first.locator(".side.b .text").first.inner_text() == "Ada"
        section.get_by_label("A", exact=True).select_option("default")
        section.get_by_label("B", exact=True).select_option("terse")
        assert first.locator(".side.b mark").first.inner_text() == ", Grace"
        section.get_by_label("B", exact=True).select_option("default")
        assert section.get_by_role("article").count() == 0


def test_a_comparison_leads_to_the_rows_that_changed(browser: Any) -> None:
    found = (against(flipped=(2,)), against(evaluator="", metric="failed rows", ci95=None))
    report.write(two_variants().summary(comparison=found))
    with Opened(browser) as page:
        page.wait_for_selector("tr.row")
        section = page.locator("#compared")
        assert section.locator("h2").inner_text() == "Compared with default"
        assert section.get_by_text("f1 rose by 0.5 (95 % interval 0.25 to 0.75)").is_visible()
        assert section.get_by_text("2 better, 0 worse, 0 the same").first.is_visible()
        bar = section.locator("svg").first
        assert bar.get_attribute("aria-label") == "Difference +0.50 [+0.25, +0.75]"
        ends = [part.bounding_box() for part in bar.locator(".zero, .ci, .dot").all()]
        zero, line, dot = ((box["x"] + box["width"] / 2) for box in ends)
        assert zero < line == pytest.approx(dot, abs=1), "all of the interval is right of 0"
        assert [one.is_visible() for one in section.locator(".says").all()] == [True, False]
        section.get_by_text("Cost and failed rows").click()
        assert [one.is_visible() for one in section.locator(".says").all()] == [True, True]
        section.get_by_role("link").first.click()
        differences = page.locator("#differences")
        assert differences.get_by_label("A", exact=True).input_value() == "default"
        assert differences.get_by_label("B", exact=True).input_value() == "terse"
        assert differences.get_by_text("1 of 1 rows that changed.").is_visible()
        assert differences.get_by_role("article").first.get_attribute("aria-label") == "Row 2"
        differences.get_by_role("button", name="Show all that differ").click()
        assert differences.get_by_role("article").count() == 3


def tab_to(page: Any, selector: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    pytest.fail(f"Tab does not reach {selector}")


def test_a_row_opens_by_keyboard_alone(browser: Any) -> None:
    text = "first line\n    indented\n\nlast line"
    made = Experiment()
    made.run("default", [row(0, "short"), row(1, text)])
    made.evaluate("default", [scored(0, 0.5), scored(1, 1.0, "the expected answer")])
    report.write(made.summary())
    with Opened(browser) as page:
        page.wait_for_selector("tr.row")
        tab_to(page, "input[type=search]")
        page.keyboard.type("indented")
        tab_to(page, "button.open")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid", "the focus can be seen"
        page.keyboard.press("Enter")
        detail = page.locator("tr.detail:visible")
        assert page.locator("button.open").get_attribute("aria-expanded") == "true"
        assert text in detail.inner_text()
        assert "the expected answer" in detail.inner_text()
        page.keyboard.press("Space")
        assert detail.count() == 0


@pytest.mark.parametrize("path", ["index.html", "terse/index.html"])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, path: str) -> None:
    made = two_variants()
    long = "node_with_a_long_name.variant_1+another_node.variant_2 [node_with_a_long_name.temp=0.7]"
    made.run(long, [row(0, "w" * 400, ["x" * 80]), failure(1, "e" * 300)])
    made.score(long, 0.25, metric="a_metric_with_quite_a_long_name", note="no interval: one row")
    checks = tuple(check("fail", 0.25, variant=name) for name in ("terse", long))
    pairs = (against(), against(long, "a_metric_with_quite_a_long_name", flipped=tuple(range(50))))
    report.write(made.summary(gate=Gate(verdict="fail", checks=checks), comparison=pairs))
    with Opened(browser, path, viewport={"width": 360, "height": 740}) as page:
        page.wait_for_selector("tr.row")
        page.locator("button.open").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.get_by_label("Sort by").select_option(label="Latency")
        assert page.get_by_role("button", name="Ascending").is_enabled()
        page.locator("button.open").first.click()
        assert page.locator("tr.detail:visible").count() == 1
        page.locator("button.open").first.click()
        assert page.locator("tr.detail:visible").count() == 0, "a closed row is closed here too"


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_the_page_follows_the_colour_scheme(browser: Any, scheme: str, dark: bool) -> None:
    report.write(two_variants().summary())
    with Opened(browser, color_scheme=scheme) as page:
        page.wait_for_selector("tr.row")
        for element, property_, is_dark in (
            ("body", "backgroundColor", dark),
            ("body", "color", not dark),
            ("#search, input", "backgroundColor", dark),
            ("figure .name", "fill", not dark),
        ):
            script = f"getComputedStyle(document.querySelector('{element}')).{property_}"
            levels = [int(level) for level in re.findall(r"\d+", page.evaluate(script))[:3]]
            assert (sum(levels) < 3 * 128) == is_dark, f"{element} {property_} {levels}"


def test_hostile_data_is_shown_as_text(browser: Any) -> None:
    made = Experiment()
    made.run("default", [row(0, HOSTILE, HOSTILE), failure(1, HOSTILE)])
    made.run(HOSTILE, [row(0, HOSTILE, "other"), row(1, HOSTILE)])
    made.score("default", 0.5)
    made.score(HOSTILE, 0.4)
    report.write(made.summary(experiment=HOSTILE))
    with Opened(browser) as page:
        page.wait_for_selector("tr.row")
        for button in page.locator("button.open").all():
            button.click()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0
        assert HOSTILE in page.locator("tr.detail:visible").first.inner_text()


def test_without_javascript_the_page_still_tells_the_result(browser: Any) -> None:
    report.write(two_variants().summary())
    with Opened(browser, java_script_enabled=False) as page:
        assert page.locator("noscript p").bounding_box()["height"] > 10
        assert page.locator("#variants tbody tr").count() == 2
