"""A flow gives here what prompt flow gives: rows, which of them fail, and metrics, bit for bit.

Each kind of flow is run by prompt flow itself (`flows/pf_run.py`, the same as `pf run create`) and by
`scripts/experiment.py`, against the same stand-in model. What differs by design:

- Prompt flow ends a run at once when a mapping finds nothing in one row, here that row fails.
- Prompt flow aggregates no row at all to a metric of nothing; here there is no metric.
- An evaluator without an aggregation of its own has no metrics there; here it has the mean of each
  numeric output.
- An aggregation that raises leaves a run without metrics there; here it is an error.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llmops
import pytest
from llmops.runs import read_rows
from standin import StandIn, texts_of, usage

HERE = Path(__file__).parent
LIBRARY = Path(llmops.__file__).parents[1]
DATA = "flows/data.jsonl"
CONNECTION = {"name": "aoai", "connection_type": "AzureOpenAIConnection"}
Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A flow over the rows of data.jsonl; with `aggregates` it runs as an evaluator of a log."""

    name: str
    flow: str
    mappings: Json = field(default_factory=dict)
    variant: str = ""
    aggregates: bool = False
    batch_method: str = "fork"


CASES = {
    case.name: case
    for case in (
        Case("default", "triage"),
        Case("llm-variant", "triage", {"text": "${data.text}", "tone": "wärmer"}, "reply.warm"),
        Case("code-variant", "triage", {"text": "${data.truth}"}, "judge.worried"),
        Case("function", "words", {"text": "${data.text}", "sign": "·"}),
        Case("class", "words_class", aggregates=True),
        Case("model-class", "model_class", {"text": "${data.text}"}, aggregates=True),
        Case("prompty", "prompty_named/haiku.prompty", batch_method="spawn"),
        Case("prompty-environment", "prompty_env/title.prompty"),
        Case("async-tools", "async_tools", {"text": "${data.text}", "level": "${data.level}"}),
        Case("async-class", "async_function", {"text": "${data.text}"}, aggregates=True),
    )
}
GRADES: Json = {
    "urgency": "${run.outputs.urgency}",
    "truth": "${run.inputs.truth}",  # a column of the run's data that the run itself does not take
    "weight": 0.75,
}


@dataclass
class Result:
    """Outputs of completed rows by number, and metrics by name."""

    outputs: dict[int, Json]
    metrics: dict[str, float]


@dataclass
class Done:
    """What `scripts.experiment` left behind."""

    code: int
    printed: str
    folder: Path

    @property
    def summary(self) -> Json:
        """reports/summary.json."""
        text = (self.folder / "reports/summary.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    def result(self, kind: str = "runs", at: int = 0) -> Result:
        """One of the runs or evaluations, with the scores of its own."""
        run = self.summary[kind][at]
        rows = read_rows(self.folder / run["outputs"])
        outputs = {row.row: row.outputs or {} for row in rows if not row.failed}
        assert len(outputs) + run["failed"] <= run["rows"]
        own = [s for s in self.summary["scores"] if s["evaluator"] == run.get("evaluator")]
        return Result(outputs, {s["metric"]: s["value"] for s in own})


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    """The model that both ask."""
    with StandIn() as standin:
        yield standin


def environment(model: StandIn, home: Path) -> dict[str, str]:
    """The least that a task needs, with an empty home folder."""
    home.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "AOAI_API_KEY": "a-key",
        "AOAI_API_BASE": model.url,
    }


def experiment(model: StandIn, folder: Path, blocks: Json, **variables: str) -> Done:
    """Run `scripts.experiment` in a folder that holds the fixture flows and these blocks."""
    folder.mkdir(exist_ok=True)
    if not (folder / "flows").exists():
        shutil.copytree(HERE / "flows", folder / "flows")
    document = {"name": "parity", "connections": [CONNECTION], **blocks}
    (folder / "experiment.yaml").write_text(json.dumps(document), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.experiment"],
        cwd=folder,
        env={
            **environment(model, folder / "home"),
            "PYTHONPATH": str(LIBRARY),
            "LLM": "live",
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 2), done.stdout
    return Done(done.returncode, done.stdout, folder)


def standard(flow: str, mappings: Json, **blocks: Any) -> Json:
    """The blocks of an experiment with one dataset."""
    data = {"name": "rows", "source": DATA, "mappings": mappings}
    return {"flow": f"flows/{flow}", "datasets": [data], **blocks}


def blocks_of(case: Case) -> Json:
    """The case as an experiment."""
    if not case.aggregates:
        return standard(case.flow, case.mappings, variants=[case.variant or "default"])
    data = {"name": "log", "source": DATA, "mappings": case.mappings}
    own = {"name": case.name, "flow": f"flows/{case.flow}", "datasets": [data]}
    return {"evaluators": [own]}


# ---- Prompt flow's own results


def job(case: Case, folder: Path) -> Json:
    """The case as `pf run create` takes it."""
    node, _, variant = case.variant.rpartition(".")
    return {
        "name": case.name,
        "flow": str(folder / "flows" / case.flow),
        "data": str(folder / DATA),
        "column_mapping": case.mappings or None,
        "batch_method": case.batch_method,
        **({"variant": f"${{{node}.{variant}}}"} if variant else {}),
    }


@pytest.fixture(scope="module")
def theirs(model: StandIn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Every case as prompt flow runs it."""
    folder = tmp_path_factory.mktemp("promptflow")
    shutil.copytree(HERE / "flows", folder / "flows")
    first = job(CASES["default"], folder)
    grade = job(Case("grade", "grade", GRADES), folder) | {"run": first["name"]}
    others = [job(case, folder) for case in CASES.values() if case.name != "default"]
    return run_jobs(model, folder, [first, grade, others[0]], others[1:5], others[5:])


def run_jobs(model: StandIn, folder: Path, *chains: list[Json]) -> dict[str, Result]:
    """Let prompt flow run each chain of jobs, side by side, for it waits most of the time."""
    results = folder / "results"
    results.mkdir()
    variables = {
        **environment(model, folder / "home"),
        "PYTHONPATH": str(folder / "flows"),
        "PYTHON_KEYRING_BACKEND": "one_key.OneKey",
        "PF_WORKER_COUNT": "2",
        "HTTPS_PROXY": "http://127.0.0.1:9",  # whatever it wants of the network, it gets no answer
    }
    children = []
    for number, jobs in enumerate(chains):
        file = folder / f"jobs{number}.json"
        file.write_text(json.dumps(jobs), encoding="utf-8")
        command = [sys.executable, folder / "flows/pf_run.py", file, results]
        env = {**variables, "PF_HOME_DIRECTORY": str(folder / f"store{number}")}
        pipe = subprocess.PIPE
        children.append(subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe))
    for child in children:
        _, said = child.communicate(timeout=150)
        assert child.returncode == 0, said[-3000:].decode()
    return {path.stem: read_result(path) for path in results.iterdir()}


def read_result(path: Path) -> Result:
    """One file of pf_run.py."""
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["status"] == "Completed"
    outputs = {int(line): outputs for line, outputs in result["outputs"].items()}
    return Result(outputs, result["metrics"])


# ---- The comparison


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_flow_gives_what_prompt_flow_gives(
    case: Case, model: StandIn, theirs: dict[str, Result], tmp_path: Path
) -> None:
    done = experiment(model, tmp_path / "ours", blocks_of(case))
    ours = done.result("evaluations" if case.aggregates else "runs")
    assert ours.outputs == theirs[case.name].outputs
    assert ours.metrics == theirs[case.name].metrics
    assert done.code == (0 if len(ours.outputs) == 16 else 2), done.printed
