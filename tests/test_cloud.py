"""TARGET=azure: experiment and evaluate as cloud runs of the emulated prompt flow service.

The scripts and prompt flow's Azure client are the real ones; the emulator runs the flows.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llmops
import pytest
import test_compare
from forks import Forks
from llmops.recordings import Server
from loopback_azure import LoopbackAzure
from test_judge import BAD, labelled
from test_register import variables
from usecase import Outcome, UseCase, example, wait_until

pytestmark = pytest.mark.slow

EXAMPLE = Path(llmops.__file__).parents[1] / "examples" / "named_entity_recognition"
SDKS = ["azure.ai.ml", "azure.identity", "azure.ai.ml.entities", "promptflow.azure"]
Json = dict[str, Any]
Run = Callable[..., Outcome]

HALF = """
def run(text):
    if text in ("bee", "dog"):
        raise ValueError("not in the dictionary")
    return {"answer": text.upper()}
"""
AGGREGATED = """
def run(answer, truth):
    return {"match": float(answer == truth)}


def aggregate(rows):
    return {"accuracy": sum(row["match"] for row in rows) / len(rows)}
"""
UPPER_TOOL = """
from promptflow.core import tool


@tool
def upper(text: str) -> str:
    return text.upper()
"""
UPPER_DAG: Json = {
    "inputs": {"text": {"type": "string"}},
    "outputs": {"answer": {"type": "string", "reference": "${upper.output}"}},
    "nodes": [
        {
            "name": "upper",
            "type": "python",
            "source": {"type": "code", "path": "upper.py"},
            "inputs": {"text": "${inputs.text}"},
        }
    ],
}
LOUD = """
def run(text, mark: str = "!"):
    return {"answer": text.upper() + mark}
"""
LOUD_CLASS = """
class Loud:
    def __init__(self, mark):
        self.mark = mark

    def __call__(self, text: str) -> str:
        return {"answer": text.upper() + self.mark}
"""


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    server = Server("replay", EXAMPLE / "recordings")
    server.start()
    aoai = {"name": "aoai", "type": "AzureOpenAIConnection"}
    with LoopbackAzure(
        connections=[aoai | {"api_base": server.url("aoai"), "api_key": "replayed"}]
    ) as azure:
        yield azure
        assert azure.refused == []
    server.stop()


@pytest.fixture(autouse=True)
def clean(azure: LoopbackAzure) -> Iterator[None]:
    azure.forget()
    yield
    azure.forget()
    azure.change(run_s=[0.05, 0.05, 0.05], run_fails="", run_hangs=False)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks(SDKS) as forks:
        yield forks


@pytest.fixture
def use(tmp_path: Path, request: pytest.FixtureRequest) -> UseCase:
    """Six words through a flow without a model; an experiment of each test's own name."""
    use = UseCase(tmp_path)
    use.configure(name=f"words_{abs(hash(request.node.name)) % 10**8}")
    return use


@pytest.fixture
def go(use: UseCase, azure: LoopbackAzure, forks: Forks) -> Run:
    """go(task="experiment", **variables): a task with TARGET=azure to its end."""

    def go(task: str = "experiment", /, **more: str) -> Outcome:
        return forks.run(task, use, variables(azure, **{"TARGET": "azure", **more}))

    return go


def as_dag(use: UseCase) -> None:
    """Let the words go through a DAG."""
    use.write("flows/standard/flow.dag.yaml", json.dumps(UPPER_DAG))
    use.write("flows/standard/upper.py", UPPER_TOOL)
    (use.folder / "flows/standard/flow.py").unlink()


def submitted(azure: LoopbackAzure, use: UseCase) -> list[Json]:
    """The cloud runs of a use case."""
    name = use.blocks["name"]
    return [run for run in azure.flow_runs if run["name"].startswith(f"{name}-")]


# --- the same experiment, elsewhere


def test_the_example_scores_as_it_does_here(
    azure: LoopbackAzure, tmp_path: Path, forks: Forks
) -> None:
    use = example(tmp_path)
    here = use.run()
    there = use.run("experiment", **variables(azure, TARGET="azure", GITHUB_RUN_ID="77"))
    assert (here.code, there.code) == (0, 0), there.text
    assert here.summary and there.summary
    assert there.summary["target"] == "azure" and there.summary["llm"]["mode"] == "live"
    assert there.summary["scores"] == here.summary["scores"], "intervals too"
    known = ("variant", "dataset", "rows", "failed", "tokens", "cost_usd")
    for ours, theirs in zip(here.summary["runs"], there.summary["runs"], strict=True):
        assert {key: ours[key] for key in known} == {key: theirs[key] for key in known}
    runs = [run for run in azure.flow_runs if run["name"].startswith("named_entity")]
    assert len(runs) == 4
    tags = runs[1]["request"]["tags"]
    assert tags["variant"] == "NER_LLM.variant_1" and tags["build"] == "77"
    assert tags["experiment"] == "named_entity_recognition" and tags["dataset"] == "ner_training"
    assert runs[0]["request"]["batchDataInput"] == {"dataUri": "azureml:ner_training:1"}
    azure.forget()
    again = forks.run("experiment", use, variables(azure, TARGET="azure"))
    assert again.code == 0 and azure.log == [], "nothing changed, so Azure is not asked"
    prompt = use.folder / "flows/standard/ner_rules.jinja2"
    prompt.write_text(prompt.read_text() + "\n")
    forks.run("experiment", use, variables(azure, TARGET="azure"))
    names = [run["name"] for run in azure.flow_runs if run["name"].startswith("named_entity")]
    assert len(names) == 6 and all("variant_1" in name for name in names[4:])


def test_a_python_flow_with_an_aggregation_of_its_own(use: UseCase, go: Run) -> None:
    use.write("flows/evaluation/flow.py", AGGREGATED)
    outcome = go()
    assert outcome.code == 0 and outcome.summary, outcome.text
    (score,) = outcome.summary["scores"]
    assert (score["metric"], score["value"], score["scored"]) == ("accuracy", 1.0, 6)
    assert score["ci95"] == [1.0, 1.0]


def test_the_arguments_of_a_class_go_along(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    use.write("flows/standard/flow.py", LOUD_CLASS)
    use.write("flows/standard/flow.flex.yaml", "entry: flow:Loud\n")
    use.configure(init={"mark": "?"})
    outcome = go()
    assert outcome.code == 0 and outcome.summary, outcome.text
    (run, _) = submitted(azure, use)
    assert run["request"]["initKWargs"] == {"mark": "?"}
    answers = {
        row["outputs"]["answer"]
        for row in use.finished("default-words-*")
        if "answer" in row["outputs"]
    }
    assert "ANT?" in answers
    use.configure(init={"mark": "${env:MARK}"})
    go().refused("init.mark: ", "stands for a variable of this machine")


def test_a_grid_over_an_input_of_the_flow(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    use.write("flows/standard/flow.py", LOUD)
    use.configure(parameters={"mark": ["", "!"]})
    outcome = go()
    assert outcome.code == 0 and outcome.summary, outcome.text
    assert [score["value"] for score in outcome.summary["scores"]] == [1.0, 0.0]
    mapped = [run["request"]["inputsMapping"] for run in submitted(azure, use)]
    assert [given.get("mark") for given in mapped[:2]] == ["", "!"]


def test_where_it_runs(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    use.configure(azure={"instance_type": "Standard_DS3_v2"}, limits={"concurrency": 7})
    assert go(VARIANTS="default").code == 0
    request = submitted(azure, use)[0]["request"]
    assert (request["runtimeName"], request["vmSize"]) == ("automatic", "Standard_DS3_v2")
    assert request["environmentVariables"]["PF_WORKER_COUNT"] == "7"
    use.configure(runtime="my-runtime")
    assert go(FRESH="1").code == 0
    assert submitted(azure, use)[-1]["request"]["runtimeName"] == "my-runtime"


def test_it_can_be_registered(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    assert go().code == 0
    data = [identity for identity in azure.state if "/data/words/" in identity]
    outcome = go("register")
    assert outcome.code == 0, outcome.text
    assert [identity for identity in azure.state if "/data/words/" in identity] == data


# --- evaluate


def test_evaluate_scores_the_run_that_is_there(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    assert go().code == 0
    use.write("flows/evaluation/flow.py", AGGREGATED)
    outcome = go("evaluate")
    assert outcome.code == 0 and outcome.summary, outcome.text
    assert [score["metric"] for score in outcome.summary["scores"]] == ["accuracy"]
    base, _, scored = submitted(azure, use)
    assert scored["request"]["variantRunId"] == base["name"]


def test_compare_runs_both_versions_there(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    use.rows([{"text": f"word{n}", "truth": f"WORD{n}"} for n in range(12)])
    use.write(".gitignore", "runs/\nreports/\n")
    test_compare.git(use, "init", "--quiet", "--initial-branch=main")
    test_compare.commit(use)
    use.write("flows/standard/flow.py", LOUD)
    outcome = go("compare", BASE="main")
    assert outcome.code == 0, outcome.text
    match = test_compare.against_base(outcome)["match"]
    assert (match["verdict"], match["losses"]) == ("worse", 12)
    data = [run["request"]["batchDataInput"]["dataUri"] for run in submitted(azure, use)]
    assert len(data) == 4 and len(set(data)) == 1


# --- rows that fail, and runs that fail


def test_rows_that_fail_fail_the_stage(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    use.write("flows/standard/flow.py", HALF)
    outcome = go()
    assert outcome.code == 2 and outcome.summary, outcome.text
    assert (
        "2 rows failed" in outcome.text
        and "not in the dictionary (data/words.jsonl: line 2)" in outcome.text
    )
    assert outcome.summary["runs"][0]["failed"] == 2
    assert outcome.summary["scores"][0]["scored"] == 4
    assert go().code == 2
    base, _, again, _ = submitted(azure, use)
    assert again["name"] == f"{base['name']}-2", "another run tries once more"


def test_a_run_that_does_not_start(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    azure.change(run_fails="The session could not be created: no quota.")
    go().refused("No row completed", "no quota")
    azure.change(run_fails="")
    assert go().code == 0, "the next task starts another run"


def test_a_run_that_takes_too_long_is_cancelled(
    azure: LoopbackAzure, use: UseCase, go: Run
) -> None:
    azure.change(run_hangs=True)
    use.configure(azure={"timeout_s": 1})
    go().refused("did not end within 1 s", "azure.timeout_s", "cancelled", "https://ml.azure.com/")
    wait_until(lambda: submitted(azure, use)[0]["status"] == "Canceled")


# --- interruptions: no run is started twice


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_under_way_is_found_again(
    azure: LoopbackAzure, use: UseCase, forks: Forks, go: Run, number: signal.Signals
) -> None:
    azure.change(run_s=[0.05, 0.05, 3.0])
    task = forks.start("experiment", use, variables(azure, TARGET="azure"))
    wait_until(lambda: "Running" in task.text, 60)
    outcome = task.end(number)
    assert outcome.code == 128 + number
    if number != signal.SIGKILL:
        assert "The runs go on in Azure" in outcome.text
    azure.change(run_s=[0.05, 0.05, 0.05])
    again = go()
    assert again.code == 0 and "under way already" in again.text, again.text
    assert len(submitted(azure, use)) == 2, "the run and its evaluation"


def test_the_answer_to_a_submission_is_lost(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    azure.drop(path="BulkRuns/submit", after=True)
    assert go().code == 0
    assert len(submitted(azure, use)) == 2


def test_another_machine_finds_what_has_ended(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    first = go()
    shutil.rmtree(use.folder / "runs")
    second = go()
    assert first.summary and second.summary
    assert second.code == 0 and second.summary["scores"] == first.summary["scores"]
    assert len(submitted(azure, use)) == 2
    assert go(FRESH="1").code == 0
    assert len(submitted(azure, use)) == 4


# --- faults


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "path": "rundata", "retry_after": 0.1, "times": 2},
        {"status": 500, "path": "rundata", "skip": 2},
        {"status": 0, "path": "rundata", "skip": 1, "times": 2},
        {"status": 429, "path": "childRuns", "retry_after": 0.1},
        {"status": 503, "path": "lastvalues"},
        {"status": 500, "path": "BulkRuns/submit"},
    ],
    ids=str,
)
def test_a_fault_that_passes(azure: LoopbackAzure, use: UseCase, go: Run, fault: Json) -> None:
    azure.fail(**fault)
    outcome = go()
    assert outcome.code == 0, outcome.text
    assert len(submitted(azure, use)) == 2
    assert fault["status"] in Counter(call["status"] for call in azure.log), "it did strike"


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ({"LLM": "replay"}, ["LLM: 'replay' with TARGET=azure"]),
        ({"WORKSPACE_NAME": ""}, ["WORKSPACE_NAME: unset"]),
        ({"WORKSPACE_NAME": "absent"}, ["absent: not found"]),
        ({"AZURE_CLIENT_SECRET": "wrong"}, ["sign-in to Azure was refused"]),
        ({"TARGET": "moon"}, ["TARGET: 'moon'", "local, azure, azure-pipeline"]),
    ],
)
def test_what_is_refused(
    azure: LoopbackAzure, use: UseCase, forks: Forks, more: Json, parts: list[str]
) -> None:
    given = variables(azure) | {"TARGET": "azure"} | more
    forks.run("experiment", use, given).refused(*parts)
    assert submitted(azure, use) == []


def test_a_role_that_is_missing(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    azure.fail(403, path="BulkRuns/submit", times=9)
    go().refused("AzureML Data Scientist")


def test_a_name_that_no_asset_can_have(use: UseCase, go: Run) -> None:
    use.blocks["datasets"][0]["name"] = "my words"
    use.blocks["evaluators"][0]["datasets"][0]["name"] = "my words"
    use.configure()
    go().refused("'my words' cannot be an asset of Azure ML")


def test_a_connection_that_the_workspace_lacks(
    azure: LoopbackAzure, tmp_path: Path, forks: Forks
) -> None:
    use = example(tmp_path)
    dag = use.folder / "flows/standard/flow.dag.yaml"
    dag.write_text(dag.read_text().replace("connection: aoai", "connection: other"))
    file = use.folder / "experiment.yaml"
    file.write_text(file.read_text().replace("name: aoai", "name: other"))
    start = time.monotonic()
    outcome = forks.run("experiment", use, variables(azure, TARGET="azure"))
    outcome.refused("No row completed", "Connection 'other' is not in the workspace")
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("target", ["azure", "azure-pipeline"])
def test_labelled_rows_are_judged_here(
    azure: LoopbackAzure, use: UseCase, go: Run, target: str
) -> None:
    check = {"evaluator": "judge", "metric": "grounded", "min": 4}
    use.configure(gate={"checks": [check]})
    labelled(use, BAD)
    as_dag(use)
    outcome = go(TARGET=target)
    assert outcome.code == 0 and outcome.summary, outcome.text
    assert "the judge disagrees with people: kappa 0.29, wanted 0.60" in outcome.out
    assert "gate: inconclusive" in outcome.out
    assert "Labelled rows are judged here (live)." in outcome.summary["llm"]["note"]
    assert not [run for run in azure.flow_runs if "labels" in run["name"]]
    azure.forget()
    assert go(TARGET=target).code == 0 and azure.log == [], "nor a second time"


# --- TARGET=azure-pipeline: rows spread over machines


@pytest.fixture
def dag(use: UseCase) -> UseCase:
    """The words through a DAG, the one kind that a parallel component runs."""
    as_dag(use)
    return use


def test_a_pipeline_spreads_the_rows(azure: LoopbackAzure, dag: UseCase, go: Run) -> None:
    dag.configure(azure={"instance_count": 3, "mini_batch_size": 2}, limits={"retries": 1})
    outcome = go(TARGET="azure-pipeline")
    assert outcome.code == 0 and outcome.summary, outcome.text
    assert outcome.summary["target"] == "azure-pipeline"
    (score,) = outcome.summary["scores"]
    assert (score["value"], score["scored"]) == (1.0, 6)
    (job,) = jobs(azure, dag)
    (step,) = job["properties"]["jobs"].values()
    assert step["resources"]["instance_count"] == 3
    assert (step["mini_batch_size"], step["retry_settings"]["max_retries"]) == (2, 1)
    azure.forget()
    assert go(TARGET="azure-pipeline").code == 0 and azure.log == []


def test_rows_that_fail_in_a_pipeline(azure: LoopbackAzure, dag: UseCase, go: Run) -> None:
    dag.write(
        "flows/standard/upper.py", UPPER_TOOL.replace("return", "assert text != 'bee'; return")
    )
    outcome = go(TARGET="azure-pipeline")
    assert outcome.code == 2 and outcome.summary, outcome.text
    assert outcome.summary["runs"][0]["failed"] == 1
    assert "Azure has no answer for this row (data/words.jsonl: line 2)" in outcome.text
    assert outcome.summary["scores"][0]["scored"] == 5


def test_a_flow_that_is_no_component(azure: LoopbackAzure, use: UseCase, go: Run) -> None:
    go(TARGET="azure-pipeline").refused("flow.dag.yaml only", "Leave out TARGET")
    assert jobs(azure, use) == []


def jobs(azure: LoopbackAzure, use: UseCase) -> list[Json]:
    """The pipeline jobs of a use case."""
    name = f"/jobs/{use.blocks['name']}-"
    return [resource for identity, resource in azure.state.items() if name in identity]
