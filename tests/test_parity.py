"""A flow gives here what prompt flow gives: rows, which of them fail, and metrics, bit for bit.

Each kind of flow is run by prompt flow itself (`flows/pf_run.py`, the same as `pf run create`) and
by `scripts/experiment.py`, against the same stand-in model. What differs by design:

- A mapping that finds nothing in one row, or a value that has not its input's type, ends the whole
  run there; here that row fails.
- Of no completed rows prompt flow takes metrics all the same; here there are none.
- An evaluator without an aggregation of its own has no metrics there; here it has the mean of each
  numeric output.
- An aggregation that raises leaves a run without metrics there; here it is an error.
- An evaluation flow's `__aggregate__` that returns no dict leaves the metrics that it has logged.
- A prompty that says its inputs by a sample alone is asked with the row's data; prompt flow asks
  the sample itself in each row.
- What a row gives to the aggregation passes through a file here, so that a run can go on where it
  stopped: it arrives as JSON has it (a tuple as a list), only a dataclass is made anew.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llmops
import pytest
from llmops.runs import Row, read_rows
from standin import StandIn, texts_of, usage

pytestmark = pytest.mark.slow

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
        Case("includes", "includes", aggregates=True),
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
        assert self.code in (0, 2), self.printed
        text = (self.folder / "reports/summary.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    def result(self, kind: str = "runs", at: int = 0) -> Result:
        """One of the runs or evaluations, with the scores of its own."""
        run = self.summary[kind][at]
        outputs = {row.row: row.outputs or {} for row in self.rows(kind, at) if not row.failed}
        own = [s for s in self.summary["scores"] if s["evaluator"] == run.get("evaluator")]
        return Result(outputs, {s["metric"]: s["value"] for s in own})

    def rows(self, kind: str = "runs", at: int = 0) -> list[Row]:
        """The rows of one of the runs or evaluations."""
        return list(read_rows(self.folder / self.summary[kind][at]["outputs"]))


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


def start(model: StandIn, folder: Path, blocks: Json, **variables: str) -> subprocess.Popen[str]:
    """Start `scripts.experiment` in a folder with the fixture flows and these blocks."""
    shutil.copytree(HERE / "flows", folder / "flows")
    (folder / "tmp").mkdir()
    document = {"name": "parity", "connections": [CONNECTION], **blocks}
    (folder / "experiment.yaml").write_text(json.dumps(document), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.experiment"],
        cwd=folder,
        env={
            **environment(model, folder / "home"),
            "PYTHONPATH": str(LIBRARY),
            "TMPDIR": str(folder / "tmp"),
            "LLM": "live",
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def experiment(model: StandIn, folder: Path, blocks: Json, **variables: str) -> Done:
    """Run `scripts.experiment` to its end, with an empty home folder that stays empty."""
    child = start(model, folder, blocks, **variables)
    printed, _ = child.communicate(timeout=120)
    assert list((folder / "home").iterdir()) == []
    return Done(child.returncode, printed, folder)


def standard(flow: str, mappings: Json, **blocks: Any) -> Json:
    """The blocks of an experiment with one dataset."""
    data = {"name": "rows", "source": DATA, "mappings": mappings}
    return {"flow": f"flows/{flow}", "datasets": [data], **blocks}


def scoring(flow: str, mappings: Json, **blocks: Any) -> Json:
    """The blocks of an experiment that has nothing but an evaluator of data.jsonl."""
    data = {"name": "log", "source": DATA, "mappings": mappings}
    name = flow.replace("/", "-")
    return {"evaluators": [{"name": name, "flow": f"flows/{flow}", "datasets": [data]}], **blocks}


def blocks_of(case: Case) -> Json:
    """The case as an experiment."""
    if case.aggregates:
        return scoring(case.flow, case.mappings)
    return standard(case.flow, case.mappings, variants=[case.variant or "default"])


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
    return run_jobs(model, folder, [first, grade, *others[:2]], others[2:6], others[6:])


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
    done = experiment(model, tmp_path, blocks_of(case))
    ours = done.result("evaluations" if case.aggregates else "runs")
    assert ours.outputs == theirs[case.name].outputs
    assert ours.metrics == theirs[case.name].metrics
    assert done.code == (0 if len(ours.outputs) == 16 else 2)


def test_an_evaluation_gives_what_prompt_flow_gives(
    model: StandIn, theirs: dict[str, Result], tmp_path: Path
) -> None:
    data = {"name": "truth", "reference": "rows", "source": DATA, "mappings": GRADES}
    evaluator = {"name": "grade", "flow": "flows/grade", "datasets": [data]}
    done = experiment(model, tmp_path, standard("triage", {}, evaluators=[evaluator]))
    runs = {run["variant"]: at for at, run in enumerate(done.summary["runs"])}
    assert set(runs) == {"default", "judge.worried", "reply.warm"}
    graded = done.result("evaluations", runs["default"])
    scores = [s for s in done.summary["scores"] if s["variant"] == "default"]
    assert done.result("runs", runs["default"]) == theirs["default"]
    assert graded.outputs == theirs["grade"].outputs
    assert {s["metric"]: s["value"] for s in scores} == theirs["grade"].metrics
    # Each of the two flows has a helper.py; neither has got the other one's.
    assert {row["by"] for row in done.result().outputs.values()} == {"triage"}
    assert {row["by"] for row in graded.outputs.values()} == {"grade"}


@pytest.mark.parametrize("function", ["run", "later"])
def test_a_callable_gives_its_plain_results(
    function: str, model: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HERE / "flows/callables"))
    plain = importlib.import_module("flow")
    lines = (HERE / "flows/data.jsonl").read_text(encoding="utf-8").splitlines()
    expected = {}
    for number, line in enumerate(map(json.loads, lines)):
        with contextlib.suppress(ValueError):
            expected[number] = plain.run(line["text"], line["id"], "öd")
    monkeypatch.delitem(sys.modules, "flow")
    mappings = {"level": "${data.id}", "mood": "öd"}
    done = experiment(model, tmp_path, scoring(f"callables/flow.py:{function}", mappings))
    assert done.result("evaluations").outputs == expected
    assert done.result("evaluations").metrics == plain.aggregate(list(expected.values()))


def test_metrics_where_prompt_flow_has_none(model: StandIn, tmp_path: Path) -> None:
    mapped = {"text": "${data.text}", "level": 7}
    done = experiment(model, tmp_path, scoring("async_tools", mapped))
    lengths = [row["length"] for row in done.result("evaluations").outputs.values()]
    assert done.result("evaluations").metrics == {"length": sum(lengths) / len(lengths)}


def test_an_aggregation_that_fails_is_an_error(model: StandIn, tmp_path: Path) -> None:
    done = experiment(model, tmp_path, scoring("broken", {}))
    assert done.code == 1
    assert "its aggregation failed: ArithmeticError: cannot add up 16 rows" in done.printed
    assert "Traceback" not in done.printed


# ---- Calls to models


@pytest.mark.parametrize("flow", ["triage", "prompty_named/haiku.prompty", "model_class"])
def test_tokens_are_those_that_the_model_counted(flow: str, model: StandIn, tmp_path: Path) -> None:
    done = experiment(model, tmp_path, standard(flow, {}, variants="default"), CONCURRENCY="1")
    rows = done.rows()
    asked = model.last["body"]
    text = "\n".join(texts_of(asked))
    counted = usage(text, f"echo: {texts_of(asked)[-1]}")
    expected = [1, counted["prompt_tokens"], counted["completion_tokens"]]
    assert rows[-1].usage == {asked["model"]: expected}
    total = [sum(row.usage[asked["model"]][at] for row in rows if row.usage) for at in (1, 2)]
    tokens = done.summary["runs"][0]["tokens"]
    assert tokens == {"prompt": total[0], "completion": total[1], "total": sum(total)}


def test_tokens_of_every_way_to_call(model: StandIn, tmp_path: Path) -> None:
    ways = ("chat", "streamed", "chat_async", "streamed_async", "embedding", "parsed", "twice")
    before = model.requests
    data = tmp_path / "ways.jsonl"
    data.write_text("".join(json.dumps({"way": way}) + "\n" for way in ways), encoding="utf-8")
    datasets = [{"name": "ways", "source": "ways.jsonl"}]
    done = experiment(model, tmp_path, {"flow": "flows/tokens", "datasets": datasets})
    for way, row in zip(ways, done.rows(), strict=True):
        assert row.error is None, (way, row.error)
        told = row.outputs or {}
        calls = 2 if way == "twice" else 1
        assert row.usage == {"m": [calls, told["prompt"], told["completion"]]}, way
        assert told["prompt"] > 0
    assert done.summary["llm"]["calls"] == model.requests - before == 8


@pytest.mark.parametrize("flow", ["triage", "prompty_named/haiku.prompty"])
def test_a_flow_written_for_azure_asks_an_openai_endpoint(
    flow: str, model: StandIn, tmp_path: Path
) -> None:
    connection = {"name": "aoai", "connection_type": "OpenAIConnection", "model": "llama"}
    address = {"AOAI_BASE_URL": f"{model.url}/v1", "AOAI_API_BASE": ""}
    blocks = standard(flow, {}, variants="default", connections=[connection])
    done = experiment(model, tmp_path, blocks, **address)
    assert len(done.result().outputs) >= 15
    assert model.last["path"] == "/v1/chat/completions"
    assert model.last["body"]["model"] == "llama"
    assert {name for row in done.rows() for name in row.usage} == {"llama"}


def test_an_aggregation_that_asks_a_model_asks_it_once(model: StandIn, tmp_path: Path) -> None:
    before = model.requests
    done = experiment(model, tmp_path, scoring("asks", {}))
    (score,) = done.summary["scores"]
    assert score["value"] > 0
    assert (score["ci95"], score["note"]) == (None, "no interval: the aggregation asks a model")
    assert model.requests - before == 1


# ---- What is left behind


def test_a_key_in_an_error_stays_secret(model: StandIn, tmp_path: Path) -> None:
    key = "a-key-that-nobody-may-see"
    done = experiment(model, tmp_path, scoring("leaky", {}), AOAI_API_KEY=key)
    row = done.rows("evaluations")[0]
    assert row.error == {"type": "PermissionError", "message": "the key *** is not the right one"}
    assert key not in done.printed
    for folder in ("runs", "reports"):
        found = [path for path in (tmp_path / folder).rglob("*") if path.is_file()]
        assert found
        assert not [path for path in found if key.encode() in path.read_bytes()]


def test_nothing_is_left_behind(model: StandIn, tmp_path: Path) -> None:
    done = experiment(model, tmp_path, scoring("stubborn", {}))
    assert done.result("evaluations").metrics["length"] > 0
    assert list((tmp_path / "tmp").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {
        *("experiment.yaml", "flows", "home", "reports", "runs", "tmp")
    }
    assert running_in(tmp_path) == []


def test_a_worker_whose_parent_is_killed_ends(model: StandIn, tmp_path: Path) -> None:
    blocks = scoring("stubborn", {"text": "${data.text}", "wait": 0.2}, limits={"concurrency": 1})
    child = start(model, tmp_path, blocks)
    wait_for(lambda: any((tmp_path / "runs").glob("*/rows.jsonl")))
    assert len(running_in(tmp_path)) >= 3  # the task, its worker, and what the flow has started
    child.kill()
    child.communicate()
    wait_for(lambda: running_in(tmp_path) == [])


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so, at most half a minute."""
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def running_in(folder: Path) -> list[str]:
    """The processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found
