"""`make compare BASE=…`: another commit's flow beside the files as they are, over the same rows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standin import StandIn
from usecase import UPPER, Outcome, UseCase

Json = dict[str, Any]
MANY = [f"word{number}" for number in range(30)]
SOME_WRONG = """
def run(text):
    return {"answer": text if text.endswith(("1", "3", "5")) else text.upper()}
"""
KIND = """
def run(answer, truth):
    return {"match": float(answer.lower() == truth.lower())}
"""


def git(use: UseCase, *command: str) -> str:
    """Git in the use case's repository, as somebody without settings of their own."""
    own = ("-c", "user.name=Someone", "-c", "user.email=someone@example.com")
    done = subprocess.run(
        ["git", *own, *command], cwd=use.folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(use: UseCase) -> str:
    """Commit everything; the start of the hash."""
    git(use, "add", "--all")
    git(use, "commit", "--quiet", "--message", "x")
    return git(use, "rev-parse", "--short=7", "HEAD")


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    """Thirty words in a repository with one commit on main."""
    use = UseCase(tmp_path)
    use.rows([{"text": word, "truth": word.upper()} for word in MANY])
    use.write(".gitignore", "runs/\nreports/\n.env\n")
    git(use, "init", "--quiet", "--initial-branch=main")
    commit(use)
    return use


@pytest.fixture
def compare(use: UseCase) -> Callable[..., Outcome]:
    """compare(**variables): with main."""
    return lambda **more: use.run("compare", **{"BASE": "main", **more})


def against_base(outcome: Outcome) -> dict[str, Json]:
    """The comparisons with the base by metric."""
    assert outcome.summary, outcome.text
    return {one["metric"]: one for one in outcome.summary["comparison"] if one["base"]}


def test_a_change_for_the_worse(use: UseCase, compare: Callable[..., Outcome]) -> None:
    head = git(use, "rev-parse", "--short=7", "HEAD")
    use.write("flows/standard/flow.py", SOME_WRONG)
    outcome = compare()
    assert outcome.code == 0, outcome.text
    match = against_base(outcome)["match"]
    assert (match["verdict"], match["base"]) == ("worse", f"main ({head})")
    assert (match["wins"], match["losses"], match["ties"]) == (0, 9, 21)
    assert match["candidate_value"] == pytest.approx(0.7) and match["baseline_value"] == 1.0
    assert f"default against main ({head}) on words: match fell by 0.3" in outcome.out
    assert outcome.summary and outcome.summary["base"]["not_comparable"] == []
    page = (use.folder / "reports/index.html").read_text()
    assert f"Compared with main ({head})" in page


def test_a_change_for_the_better(use: UseCase, compare: Callable[..., Outcome]) -> None:
    use.write("flows/standard/flow.py", SOME_WRONG)
    commit(use)
    use.write("flows/standard/flow.py", UPPER)
    match = against_base(compare())["match"]
    assert (match["verdict"], match["wins"], match["losses"]) == ("better", 9, 0)


def test_nothing_changed(use: UseCase, compare: Callable[..., Outcome]) -> None:
    outcome = compare(BASE="HEAD")
    assert {one["verdict"] for one in against_base(outcome).values()} == {"no difference"}
    assert len(list(use.folder.glob("runs/default-words-*/rows.jsonl"))) == 2, "run and evaluation"


def test_it_costs_what_changed(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    use.ask_a_model()
    use.write(".gitignore", "runs/\nreports/\n.env\n")
    git(use, "init", "--quiet", "--initial-branch=main")
    commit(use)
    with StandIn() as model:
        use.write(".env", f"AOAI_API_BASE={model.url}\nAOAI_API_KEY=a-key-of-the-stand-in\n")
        assert use.run().code == 0
        asked = model.requests
        outcome = use.run("compare", BASE="main")
        assert outcome.code == 0, outcome.text
        assert model.requests == asked, "both versions are in the store"
    assert outcome.summary and outcome.summary["llm"]["mode"] == "live"


def test_the_gate_still_judges_a_stored_comparison(
    use: UseCase, compare: Callable[..., Outcome]
) -> None:
    use.write("flows/standard/flow.py", SOME_WRONG)
    before = against_base(compare())
    assert use.run("gate").code == 0
    assert against_base(Outcome(0, "", "", use.summary)) == before


# --- what cannot be compared


def test_other_rows(use: UseCase, compare: Callable[..., Outcome]) -> None:
    use.rows([{"text": word, "truth": word.upper()} for word in MANY[:-1]])
    outcome = compare()
    assert outcome.code == 0 and against_base(outcome) == {}, outcome.text
    reason = "dataset 'words': data/words.jsonl differs (29 rows, before 30)."
    assert f"not comparable: {reason}" in outcome.out
    assert outcome.summary and reason in outcome.summary["base"]["not_comparable"]
    assert reason.replace("'", "&#39;") in (use.folder / "reports/index.html").read_text()


def test_another_evaluator(use: UseCase, compare: Callable[..., Outcome]) -> None:
    use.write("flows/evaluation/flow.py", KIND)
    outcome = compare()
    reason = "evaluator 'evaluation': flows/evaluation differs (flow.py)."
    assert f"not comparable: {reason}" in outcome.out
    assert "match" not in against_base(outcome)
    assert "failed rows" in against_base(outcome), "the runs can be compared"


def test_other_mappings(use: UseCase, compare: Callable[..., Outcome]) -> None:
    mappings = {"answer": "${run.outputs.answer}", "truth": "${data.text}"}
    use.blocks["evaluators"][0]["datasets"][0]["mappings"] = mappings
    use.configure()
    assert "its mappings for 'words' differ" in compare().out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"datasets": [], "evaluators": []}, "main: experiment.yaml: datasets: none"),
        ({"flow": "flows/gone"}, "main: experiment.yaml: flow: 'flows/gone' is not there"),
        ({"datasets": "x"}, "main: experiment.yaml: datasets: "),
    ],
)
def test_a_base_that_does_not_run(use: UseCase, change: Json, reason: str) -> None:
    good = (use.folder / "experiment.yaml").read_text()
    use.write("experiment.yaml", json.dumps(use.blocks | change))
    commit(use)
    use.write("experiment.yaml", good)
    outcome = use.run("compare", BASE="main")
    assert outcome.code == 0 and f"not comparable: {reason}" in outcome.out, outcome.text


def test_a_base_without_the_use_case(use: UseCase) -> None:
    git(use, "checkout", "--quiet", "--orphan", "empty")
    git(use, "rm", "-r", "--quiet", "--cached", ".")
    git(use, "commit", "--quiet", "--allow-empty", "--message", "nothing")
    outcome = use.run("compare", BASE="empty")
    assert outcome.code == 0, outcome.text
    assert "not comparable: empty: experiment.yaml: not found" in outcome.out


def test_a_use_case_below_the_root_of_its_repository(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    top = tmp_path / "use case"
    inner = use.folder = top / "cases" / "words"
    inner.mkdir(parents=True)
    for name in ("flows", "data", "experiment.yaml"):
        (top / name).rename(inner / name)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=top, check=True)
    commit(use)
    assert against_base(use.run("compare", BASE="main"))["match"]["verdict"] == "no difference"


@pytest.mark.parametrize(
    ("base", "parts"),
    [
        ("", ["BASE: unset", "make compare BASE=main"]),
        ("mian", ["BASE: 'mian' names no commit", "fetch-depth: 0"]),
        ("--output=x", ["BASE: '--output=x' names no commit"]),
    ],
)
def test_a_base_that_is_none(use: UseCase, base: str, parts: list[str]) -> None:
    use.run("compare", BASE=base).refused(*parts)


def test_no_repository(tmp_path: Path) -> None:
    UseCase(tmp_path).run("compare", BASE="main").refused("this folder is in no git repository")
