"""`make onboard`, the whole way: shown first, nothing replaced without a yes, and then it runs."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HOUSE, Bake, Run
from usecase import Json, Outcome, UseCase

DAG = """
inputs:
  text: {type: string}
  times: {type: int, default: 2}
outputs:
  answer: {type: string, reference: "${repeat.output}"}
nodes:
  - name: repeat
    type: python
    source: {type: code, path: repeat.py}
    inputs: {text: "${inputs.text}", times: "${inputs.times}"}
"""
REPEAT = """
from promptflow.core import tool


@tool
def repeat(text: str, times: int) -> str:
  return " ".join([text]*times)   # not as this repo formats
"""
GRADE = """
inputs:
  prediction: {type: string}
  ground_truth: {type: string}
outputs:
  score: {type: double, reference: "${grade.output}"}
nodes:
  - name: grade
    type: python
    source: {type: code, path: grade.py}
    inputs: {prediction: "${inputs.prediction}", ground_truth: "${inputs.ground_truth}"}
"""
GRADE_CODE = """
from promptflow.core import tool


@tool
def grade(prediction: str, ground_truth: str) -> float:
    return float(prediction == ground_truth)
"""
PYPROJECT = "[dependency-groups]\nflow = []\n\n[tool.ruff]\nextend-exclude = []\n"
ROWS = [{"text": word, "truth": f"{word} {word}"} for word in ("ant", "bee", "cat")]


@pytest.fixture
def repo(tmp_path: Path) -> UseCase:
    """A repo without an experiment."""
    use = UseCase(tmp_path)
    shutil.rmtree(use.folder)
    use.folder.mkdir()
    prepare(use)
    return use


def prepare(use: UseCase) -> None:
    """What every generated repo has."""
    use.write("pyproject.toml", PYPROJECT)
    shutil.copytree(HOUSE / "requirements", use.folder / "requirements")


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    """A flow of somebody else, with rows beside it."""
    return written(tmp_path / "theirs" / "say-twice", {"flow.dag.yaml": DAG, "repeat.py": REPEAT})


@pytest.fixture
def grader(tmp_path: Path) -> Path:
    """An evaluation flow of somebody else."""
    files = {"flow.dag.yaml": GRADE, "grade.py": GRADE_CODE}
    return written(tmp_path / "theirs" / "grade", files, rows=False)


def written(folder: Path, files: dict[str, str], rows: bool = True) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    if rows:
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def state(folder: Path) -> dict[str, str]:
    """Every file with its content."""
    files = (
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def answered(repo: UseCase, lines: str, **variables: str) -> Outcome:
    """The task with these lines piped in."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.onboard"],
        **{"cwd": repo.folder, "env": repo.clean(**variables), "input": lines, "timeout": 60},
        **{"capture_output": True, "text": True, "check": False},
    )
    return Outcome(done.returncode, done.stdout, done.stderr, None)


def on_a_terminal(repo: UseCase, lines: str, **variables: str) -> str:
    """What a person sees who types these lines."""
    terminal, other = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "scripts.onboard"],
        **{"cwd": repo.folder, "env": repo.clean(**variables)},
        **{"stdin": other, "stdout": other, "stderr": other},
    )
    os.close(other)
    os.write(terminal, lines.encode())
    seen = b""
    try:
        while part := os.read(terminal, 65536):
            seen += part
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(terminal)
    assert child.wait(timeout=60) == 0, seen.decode()
    return seen.decode()


# --- into a repo -------------------------------------------------------------------------------


def test_a_flow_comes_in_unchanged_and_runs(repo: UseCase, flow: Path) -> None:
    before = state(flow)
    brought = repo.run("onboard", FROM=str(flow))
    assert brought.code == 0, brought.text
    assert state(flow) == before, "the source was touched"
    for name in ("flow.dag.yaml", "repeat.py"):
        here = repo.folder / "flows" / "say-twice" / name
        assert here.read_bytes() == (flow / name).read_bytes()
    for line in ("experiment.yaml", "data/say-twice.jsonl", "text <- ${data.text}"):
        assert line in " ".join(brought.out.split()), brought.out
    ran = repo.run()
    assert ran.code == 0, ran.text
    assert ran.summary
    assert [run["rows"] for run in ran.summary["runs"]] == [3]
    outputs = [row["outputs"] for row in repo.finished()]
    assert outputs == [{"answer": row["truth"]} for row in ROWS]


def test_with_its_evaluation_flow(repo: UseCase, flow: Path, grader: Path) -> None:
    brought = repo.run("onboard", FROM=str(flow), EVALUATOR=str(grader))
    assert brought.code == 0, brought.text
    ran = repo.run()
    assert ran.code == 0, ran.text
    assert ran.summary
    (score,) = ran.summary["scores"]
    assert (score["metric"], score["value"], score["scored"]) == ("score", 1.0, 3)


def test_an_evaluation_flow_for_an_experiment_that_is_here(
    repo: UseCase, flow: Path, grader: Path
) -> None:
    assert repo.run("onboard", FROM=str(flow)).code == 0
    path = repo.folder / "experiment.yaml"
    path.write_text(path.read_text().replace("datasets:", "# My rows.\ndatasets:"))
    brought = repo.run("onboard", EVALUATOR=str(grader))
    assert brought.code == 0, brought.text
    assert "# My rows." in path.read_text(), "a comment went"
    ran = repo.run()
    assert ran.summary and [score["value"] for score in ran.summary["scores"]] == [1.0]


def test_a_second_time_changes_nothing(repo: UseCase, flow: Path) -> None:
    repo.run("onboard", FROM=str(flow))
    before = state(repo.folder)
    again = repo.run("onboard", FROM=str(flow))
    assert again.code == 0, again.text
    assert "nothing was changed" in again.out
    assert state(repo.folder) == before


def test_a_plan_writes_nothing(repo: UseCase, flow: Path) -> None:
    before = state(repo.folder)
    planned = repo.run("onboard", FROM=str(flow), PLAN="1")
    assert planned.code == 0, planned.text
    assert "flows/say-twice/repeat.py" in planned.out
    assert state(repo.folder) == before


# --- what is here already ----------------------------------------------------------------------


@pytest.fixture
def used(tmp_path: Path) -> UseCase:
    """A repo with an experiment of its own."""
    use = UseCase(tmp_path)
    prepare(use)
    return use


def test_nothing_is_replaced_without_a_yes(used: UseCase, flow: Path) -> None:
    before = state(used.folder)
    used.run("onboard", FROM=str(flow)).refused("Nothing was written", "experiment.yaml", "YES=1")
    assert state(used.folder) == before
    answered(used, "n\n", FROM=str(flow)).refused("Nothing was written")
    assert state(used.folder) == before


@pytest.mark.parametrize(("lines", "variables"), [("y\n", {}), ("", {"YES": "1"})])
def test_a_yes_replaces(used: UseCase, flow: Path, lines: str, variables: Json) -> None:
    done = answered(used, lines, FROM=str(flow), **variables)
    assert done.code == 0, done.text
    assert "REPLACES" in done.out
    assert "No longer used by experiment.yaml" in done.out
    assert "flows/standard" in done.out
    assert (used.folder / "flows" / "standard" / "flow.py").exists(), "it is the user's to remove"
    assert "say-twice" in (used.folder / "experiment.yaml").read_text()


# --- what only a person knows ------------------------------------------------------------------

UNCLEAR = GRADE.replace("prediction", "colour")


@pytest.fixture
def unclear(tmp_path: Path) -> Path:
    """An evaluation flow whose input nothing here is named like."""
    code = GRADE_CODE.replace("prediction", "colour")
    files = {"flow.dag.yaml": UNCLEAR, "grade.py": code}
    return written(tmp_path / "theirs" / "unclear", files, rows=False)


def test_what_is_not_decided_is_marked_and_refused(
    repo: UseCase, flow: Path, unclear: Path
) -> None:
    brought = repo.run("onboard", FROM=str(flow), EVALUATOR=str(unclear))
    assert brought.code == 0, brought.text
    assert "to decide" in brought.out
    repo.run("validate").refused("mappings.colour", "not decided yet", "${run.outputs.answer}")


def test_a_person_decides_on_a_terminal(repo: UseCase, flow: Path, unclear: Path) -> None:
    variables = {"FROM": str(flow), "EVALUATOR": str(unclear)}
    seen = on_a_terminal(repo, "${run.outputs.answer}\ny\n", **variables)
    assert "mappings.colour" in seen
    assert repo.run("validate").code == 0
    again = repo.run("onboard", **variables)
    assert "nothing was changed" in again.out, again.text


# --- what is wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        ({}, ("FROM: not set", "make onboard FROM=")),
        ({"FROM": "../nowhere"}, ("FROM", "../nowhere")),
        ({"FROM": "../theirs"}, ("holds no flow", "say-twice")),
        ({"FROM": "../theirs/say-twice", "EVALUATOR": "../no"}, ("EVALUATOR", "../no")),
        ({"FROM": "../theirs/say-twice", "DATA": "../no.csv"}, ("DATA", "../no.csv")),
        ({"FROM": "../theirs/say-twice", "YES": "maybe"}, ("YES", "maybe")),
    ],
)
def test_a_mistake_is_named(
    repo: UseCase, flow: Path, variables: dict[str, str], parts: tuple[str, ...]
) -> None:
    before = state(repo.folder)
    repo.run("onboard", **variables).refused(*parts)
    assert state(repo.folder) == before


# --- a new repo --------------------------------------------------------------------------------


def test_a_new_repo_for_a_flow(
    generate: Bake, run: Run, flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = generate(tmp_path / "new", flow=str(flow), project="my-case")
    record = json.loads((repo / ".template.json").read_text())
    assert record["answers"]["example"] == "none"
    assert str(flow) not in json.dumps(record), "a path of this machine was kept"
    assert not (repo / "flows" / "standard").exists()
    done = run(repo, "make", "validate", "experiment", "test", "lint")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((repo / "reports" / "summary.json").read_text())
    assert summary["experiment"] == "say-twice"
    assert [one["failed"] for one in summary["runs"]] == [0]


def test_a_new_repo_for_no_flow_is_not_made(generate: Bake, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="flow: 'nowhere' is refused"):
        generate(tmp_path / "new", flow="nowhere")
    assert not list((tmp_path / "new").glob("*"))


def test_a_flow_that_does_not_come_in_leaves_nothing_behind(
    generate: Bake,
    flow: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    refusing = tmp_path / "bin" / "make"
    refusing.parent.mkdir()
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{refusing.parent}{os.pathsep}{os.environ['PATH']}")
    around = tmp_path / "around"
    subprocess.run(["git", "init", "--quiet", around], check=True)
    with pytest.raises(Exception, match="Hook script failed"):
        generate(around, flow=str(flow))
    assert [path.name for path in around.iterdir()] == [".git"]
    told = capfd.readouterr()
    assert "was not brought in" in told.err and "Generated" not in told.out


def test_a_repo_without_an_example_waits_for_a_flow(ready: Bake, run: Run, flow: Path) -> None:
    repo = ready(example="none")
    told = run(repo, "make", "validate")
    assert "make onboard FROM=<path>" in told.stderr
    assert run(repo, "make", "test", "lint").returncode == 0
    brought = run(repo, "make", "onboard", FROM=str(flow))
    assert brought.returncode == 0, brought.stdout + brought.stderr
    assert run(repo, "make", "experiment").returncode == 0
