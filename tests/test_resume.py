"""Nothing finished is lost and nothing is done twice: stops, kills, repeats, what a change costs.

The flow asks the stand-in once a row, so its count of requests says what ran.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standin import StandIn
from usecase import AOAI, ASK, ASK_PLAINLY, Outcome, UseCase, wait_until

Json = dict[str, Any]

SECRET = "sk-0123456789-never-written"
ROWS = 8

DAG = """
inputs:
  text: {type: string}
outputs:
  answer: {type: string, reference: "${ask.output}"}
nodes:
- name: ask
  use_variants: true
node_variants:
  ask:
    default_variant_id: plain
    variants:
      plain:
        node: &node
          type: llm
          source: {type: code, path: plain.jinja2}
          inputs: {deployment_name: standin-small, temperature: 0, text: "${inputs.text}"}
          provider: AzureOpenAI
          connection: aoai
          api: chat
          module: promptflow.tools.aoai
      brief:
        node:
          type: llm
          source: {type: code, path: brief.jinja2}
          inputs: {deployment_name: standin-small, temperature: 0, text: "${inputs.text}"}
          provider: AzureOpenAI
          connection: aoai
          api: chat
          module: promptflow.tools.aoai
"""


class Asking(UseCase):
    """A use case whose flow asks a stand-in, and what is known about that."""

    def __init__(self, place: Path, model: StandIn) -> None:
        super().__init__(place)
        self.model = model
        self.variables = {"AOAI_API_BASE": model.url, "AOAI_API_KEY": SECRET, "LLM": "live"}
        self.ask_a_model(concurrency=2)
        self.rows({"text": f"word {n}", "truth": f"echo: word {n}"} for n in range(ROWS))

    def begin(self, **variables: str) -> subprocess.Popen[str]:
        """Start an experiment and wait until some rows are on disk; the last two take long."""
        self.model.fail(*({"hang": 3, "when": f"word {n}"} for n in (ROWS - 2, ROWS - 1)))
        child = self.start("experiment", **self.variables | variables)
        wait_until(lambda: len(self.answers) >= 3 or child.poll() is not None)
        assert child.poll() is None, self.end(child).text
        return child

    def again(self, task: str = "experiment", **variables: str) -> tuple[Outcome, int]:
        """Run a task to its end; also how many questions it asked."""
        self.model.fail()
        before = self.model.requests
        outcome = self.run(task, **self.variables | variables)
        return outcome, self.model.requests - before

    @property
    def answers(self) -> dict[int, str]:
        """The answer by row, of the rows that are on disk."""
        rows = self.finished("default-words-????????????")
        return {row["row"]: row["outputs"]["answer"] for row in rows if row["outputs"]}

    @property
    def lines(self) -> Path:
        """The file of the standard flow's rows."""
        (file,) = self.folder.glob("runs/default-words-????????????/rows.jsonl")
        return file


@pytest.fixture(scope="module")
def slow() -> Iterator[StandIn]:
    """A model that can be interrupted."""
    with StandIn(delay=0.1) as model:
        yield model


@pytest.fixture(scope="module")
def quick() -> Iterator[StandIn]:
    with StandIn() as model:
        yield model


@pytest.fixture
def stoppable(tmp_path: Path, slow: StandIn) -> Asking:
    return Asking(tmp_path, slow)


@pytest.fixture
def asking(tmp_path: Path, quick: StandIn) -> Asking:
    return Asking(tmp_path, quick)


def children(pid: int) -> dict[int, str]:
    """The processes below one, and what they were called with."""
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.sub(r".*\) \w ", "", (folder / "stat").read_text()).split()[0])
            if parent == pid or parent in found:
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def worker_of(child: subprocess.Popen[str], use: UseCase) -> int:
    """The process that runs the standard flow."""
    for pid, command in children(child.pid).items():
        folder = Path(f"/proc/{pid}/cwd").readlink().name
        if "llmops.running.worker" in command and folder == "standard":
            return pid
    raise AssertionError(f"no worker among {children(child.pid)}")


# ---- Stops


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_goes_on_where_it_stopped(number: int, code: int, stoppable: Asking) -> None:
    child = stoppable.begin()
    stopped = stoppable.end(child, number)
    kept = stoppable.answers

    assert stopped.code == code
    assert "Traceback" not in stopped.text
    assert "finished rows are kept" in stopped.err
    assert stopped.summary is None
    assert not stoppable.leftovers()
    assert 3 <= len(kept) < ROWS

    resumed, asked = stoppable.again()
    assert resumed.code == 0, resumed.text
    assert asked == ROWS - len(kept)
    assert resumed.summary is not None
    assert resumed.summary["llm"] | {"note": ""} == {
        "mode": "live",
        "calls": asked,
        "cached": len(kept),
        "note": "",
    }
    whole = stoppable.answers

    fresh, asked = stoppable.again(FRESH="1")
    assert asked == ROWS
    assert fresh.summary is not None
    assert fresh.summary["scores"] == resumed.summary["scores"]
    assert stoppable.answers == whole


def test_a_second_stop_does_not_leave_processes_behind(stoppable: Asking) -> None:
    child = stoppable.begin()
    below = children(child.pid)
    child.send_signal(signal.SIGINT)
    stopped = stoppable.end(child, signal.SIGINT)

    assert stopped.code == 130
    assert "Traceback" not in stopped.text
    assert below
    wait_until(lambda: not any(map(alive, below)))


@pytest.mark.parametrize("task", ["validate", "try"])
def test_the_short_tasks_stop_as_cleanly(task: str, stoppable: Asking) -> None:
    slow = "import time\ntime.sleep(30)\n" + ASK
    stoppable.write("flows/standard/flow.py", slow)
    child = stoppable.start(task, **stoppable.variables)
    wait_until(lambda: "llmops.running.worker" in str(children(child.pid)))
    stopped = stoppable.end(child, signal.SIGTERM)

    assert stopped.code == 143
    assert "Traceback" not in stopped.text


# ---- Kills


def test_a_killed_run_leaves_no_process_and_is_resumed(stoppable: Asking) -> None:
    child = stoppable.begin(LLM="record")
    below = children(child.pid)
    assert "llmops.running.worker" in str(below)
    assert "llmops.recordings" in str(below)
    child.kill()
    child.communicate()
    wait_until(lambda: not any(map(alive, below)))
    kept = stoppable.answers
    with stoppable.lines.open("a") as file:
        file.write('{"row": 7, "inputs": {"te')  # as a kill may cut it

    resumed, asked = stoppable.again(LLM="record")
    assert resumed.code == 0, resumed.text
    assert asked == ROWS - len(kept)
    rows = [json.loads(line)["row"] for line in stoppable.lines.read_text().splitlines()]
    assert rows == list(range(ROWS))


def test_a_run_killed_after_its_last_row_is_put_in_order(asking: Asking) -> None:
    asking.again()
    ordered = asking.lines.read_text()
    lines = ordered.splitlines(keepends=True)
    asking.lines.write_text("".join(reversed(lines)) + '{"row": 1')

    done, asked = asking.again()
    assert (done.code, asked) == (0, 0)
    assert asking.lines.read_text() == ordered


def test_a_killed_flow_process_costs_its_rows_and_no_others(stoppable: Asking) -> None:
    child = stoppable.begin()
    os.kill(worker_of(child, stoppable), signal.SIGKILL)
    ended = stoppable.end(child)

    assert ended.code == 2, ended.text
    assert "Traceback" not in ended.text
    assert ended.summary is not None
    (run,) = ended.summary["runs"]
    assert run["rows"] == ROWS
    assert 1 <= run["failed"] <= 2  # those that were under way
    assert "the flow's process ended" in ended.out

    again, asked = stoppable.again()
    assert (again.code, asked) == (0, run["failed"])


# ---- What is unchanged is not run again, and what changed is


def test_nothing_changed_costs_no_call(asking: Asking) -> None:
    first, asked = asking.again()
    assert (first.code, asked) == (0, ROWS)

    second, asked = asking.again()
    assert (second.code, asked) == (0, 0)
    assert second.summary is not None and first.summary is not None
    assert second.summary["llm"]["cached"] == ROWS
    assert second.summary["scores"] == first.summary["scores"]
    assert second.summary["runs"] == first.summary["runs"]


def change_the_code(use: Asking) -> None:
    use.write(
        "flows/standard/flow.py", ASK_PLAINLY.replace('"content": text', '"content": text + "!"')
    )


def change_a_helper(use: Asking) -> None:
    use.write("flows/standard/helper.py", "NOTHING = None\n")


def change_the_mapping(use: Asking) -> None:
    (dataset,) = use.blocks["datasets"]
    use.configure(datasets=[dataset | {"mappings": {"text": "${data.truth}"}}])


def change_the_data(use: Asking) -> None:
    use.rows({"text": f"other {n}", "truth": f"echo: other {n}"} for n in range(ROWS))


def change_a_parameter(use: Asking) -> None:
    use.configure(parameters={"text": ["the same for all"]})


def change_the_connection(use: Asking) -> None:
    use.configure(connections=[AOAI | {"api_version": "2024-06-01"}])


CHANGES = {
    "code": change_the_code,
    "helper file": change_a_helper,
    "mapping": change_the_mapping,
    "data": change_the_data,
    "parameter": change_a_parameter,
    "connection": change_the_connection,
}


def test_each_change_runs_the_rows_again(asking: Asking) -> None:
    asking.write("flows/standard/flow.py", ASK_PLAINLY)
    assert asking.again()[1] == ROWS
    for name, change in CHANGES.items():
        change(asking)
        outcome, asked = asking.again()
        assert outcome.code == 0, outcome.text
        assert asked == ROWS, name


def change_the_gate(use: Asking) -> None:
    check = {"evaluator": "evaluation", "metric": "match", "min": 0}
    use.configure(gate={"checks": [check]})


def change_the_limits(use: Asking) -> None:
    use.configure(limits=use.blocks["limits"] | {"concurrency": 3, "timeout_s": 30})


def change_the_names(use: Asking) -> None:
    use.configure(name="other", prices={"standin-small": {"prompt": 1, "completion": 1}})


def change_the_key(use: Asking) -> None:
    use.variables["AOAI_API_KEY"] = "sk-another"


def change_the_line_ends(use: Asking) -> None:
    use.write("flows/standard/flow.py", ASK_PLAINLY.replace("\n", "\r\n"))
    rows = (use.folder / "data/words.jsonl").read_bytes()
    use.write("data/words.jsonl", b"\xef\xbb\xbf" + rows.replace(b"\n", b"\r\n") + b"\r\n")


def change_the_evaluator(use: Asking) -> None:
    use.write("flows/evaluation/flow.py", "def run(answer, truth):\n    return {'match': 1.0}\n")


FREE = (
    change_the_gate,
    change_the_limits,
    change_the_names,
    change_the_key,
    change_the_line_ends,
    change_the_evaluator,
)


def test_what_decides_no_answer_runs_no_row_again(asking: Asking) -> None:
    asking.write("flows/standard/flow.py", ASK_PLAINLY)
    assert asking.again()[1] == ROWS
    for change in FREE:
        change(asking)
        outcome, asked = asking.again()
        assert outcome.code == 0, outcome.text
        assert asked == 0, change.__name__


def test_other_recordings_are_other_answers(asking: Asking) -> None:
    assert asking.again("record")[1] == ROWS
    assert asking.again(LLM="replay")[1] == 0
    recorded = asking.folder / "recordings" / "recorded.jsonl"
    recorded.write_text(recorded.read_text().replace('"echo: word 3"', '"edited"'))
    outcome, asked = asking.again(LLM="replay")
    assert (outcome.code, asked) == (0, 0)
    answers = {row["outputs"]["answer"] for row in asking.finished() if "answer" in row["outputs"]}
    assert "edited" in answers


def test_a_replay_for_another_model_is_another_run(asking: Asking) -> None:
    assert asking.again("record")[1] == ROWS
    for variables, kept in (({}, 0), ({}, ROWS), ({"AOAI_MODEL": "another"}, 0)):
        outcome, asked = asking.again(LLM="replay", **variables)
        assert asked == 0 and outcome.summary is not None, outcome.text
        assert outcome.summary["llm"]["cached"] == kept, variables


def test_recordings_that_are_gone_are_recorded_again(asking: Asking) -> None:
    assert asking.again("record")[1] == ROWS
    assert asking.again("record")[1] == 0
    (asking.folder / "recordings" / "recorded.jsonl").unlink()
    assert asking.again("record")[1] == ROWS


def test_a_changed_prompt_runs_its_variant_alone(asking: Asking) -> None:
    (asking.folder / "flows/standard/flow.py").unlink()
    asking.write("flows/standard/flow.dag.yaml", DAG)
    asking.write("flows/standard/plain.jinja2", "# user:\n{{text}}\n")
    asking.write("flows/standard/brief.jinja2", "# user:\nBriefly: {{text}}\n")
    assert asking.again()[1] == 2 * ROWS

    asking.write("flows/standard/brief.jinja2", "# user:\nVery briefly: {{text}}\n")
    assert asking.again()[1] == ROWS
    assert asking.again(VARIANTS="default")[1] == 0
    evaluated, asked = asking.again("evaluate", VARIANTS="ask.brief")
    evaluated.refused("VARIANTS", "the last experiment did not run 'ask.brief'")

    asking.write("flows/standard/flow.dag.yaml", DAG.replace("temperature: 0", "temperature: 1", 1))
    outcome, asked = asking.again()
    assert (outcome.code, asked) == (0, ROWS)
    assert outcome.summary is not None
    assert [run["variant"] for run in outcome.summary["runs"]] == ["default", "ask.brief"]


# ---- The stages after the run


def test_two_tasks_at_once_do_not_mix(stoppable: Asking) -> None:
    first = stoppable.begin()
    second = stoppable.run("experiment", **stoppable.variables)
    second.refused("runs", "another task is running", "Wait")

    assert stoppable.end(first).code == 0


def test_evaluate_asks_no_model(asking: Asking) -> None:
    first, _ = asking.again()
    asking.write("flows/evaluation/flow.py", "def run(answer, truth):\n    return {'size': 7}\n")
    second, asked = asking.again("evaluate")

    assert (second.code, asked) == (0, 0)
    assert second.summary is not None and first.summary is not None
    assert [score["metric"] for score in first.summary["scores"]] == ["match"]
    assert [(s["metric"], s["value"]) for s in second.summary["scores"]] == [("size", 7.0)]
    assert second.summary["runs"] == first.summary["runs"]


def test_evaluate_scores_an_old_run(asking: Asking) -> None:
    first, _ = asking.again()
    assert first.summary is not None
    folder = str(Path(first.summary["runs"][0]["outputs"]).parent)
    asking.write("data/words.jsonl", (asking.folder / "data/words.jsonl").read_bytes() + b"\n")
    asking.write("flows/standard/flow.py", "def run(text):\n    return {'answer': ''}\n")
    second, _ = asking.again()
    assert second.summary is not None
    assert second.summary["runs"][0]["outputs"] != first.summary["runs"][0]["outputs"]

    third, asked = asking.again("evaluate", RUNS=folder)
    assert (third.code, asked) == (0, 0), third.text
    assert third.summary is not None
    assert third.summary["scores"] == first.summary["scores"]
    asking.run("evaluate", RUNS="runs/gone").refused("RUNS: 'runs/gone' holds no run", folder)


def test_evaluate_needs_the_same_data_and_environment(asking: Asking) -> None:
    asking.run("evaluate").refused("reports/summary.json", "make experiment")
    asking.again()
    asking.write("experiment.pr.yaml", "gate:\n")
    asking.run("evaluate", ENV="pr", **asking.variables).refused("ENV", "'pr'", "'dev'")
    asking.rows([{"text": "one more", "truth": ""}] * (ROWS + 1))
    asking.run("evaluate", **asking.variables).refused("words", f"{ROWS} rows", "make experiment")


def test_gate_judges_the_last_scores_by_the_limit_of_now(asking: Asking) -> None:
    check = {"evaluator": "evaluation", "metric": "match", "min": 0.5}
    asking.configure(gate={"checks": [check]})
    first, _ = asking.again()
    assert first.summary is not None
    assert first.summary["gate"]["verdict"] == "pass"

    asking.configure(gate={"checks": [check | {"min": 1.5}]})
    judged, asked = asking.again("gate")
    assert (judged.code, asked) == (2, 0)
    assert "evaluation.match ≥ 1.5" in judged.out
    assert judged.summary is not None
    assert judged.summary["gate"]["verdict"] == "fail"
    assert judged.summary["scores"] == first.summary["scores"]

    asking.configure(gate={"checks": [check | {"metric": "mathc"}]})
    asking.run("gate").refused("metric 'mathc'", "expected one of match")


def test_the_report_can_be_written_again(asking: Asking) -> None:
    asking.again()
    reports = asking.folder / "reports"
    written = {path: path.read_bytes() for path in reports.rglob("*") if path.is_file()}
    (reports / "index.html").unlink()

    again, asked = asking.again("report")
    assert (again.code, asked) == (0, 0)
    assert {path: path.read_bytes() for path in reports.rglob("*") if path.is_file()} == written


# ---- Secrets


def test_a_secret_is_in_no_file_no_output_and_no_command(stoppable: Asking) -> None:
    token = "token-987654321-never-written"
    search = {"name": "search", "connection_type": "CustomConnection"}
    search |= {"configs": {"place": "shelf"}, "secrets": {"token": "${token}"}}
    stoppable.configure(connections=[AOAI, search])
    child = stoppable.begin(LLM="record", SEARCH_TOKEN=token)
    commands = str(children(child.pid))
    outcome = stoppable.end(child)

    assert outcome.code == 0, outcome.text
    assert "llmops.recordings" in commands
    written = {path: path.read_bytes() for path in stoppable.files()}
    assert any("recorded.jsonl" in path.name for path in written)
    for secret in (SECRET, token):
        assert secret not in commands
        assert secret not in outcome.text
        assert not [path for path, content in written.items() if secret.encode() in content]
