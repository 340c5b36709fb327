"""What goes wrong outside the code: files, flows, endpoints, disks and variables.

Each ends with one message that says where and what to do, without a traceback, and leaves nothing
half written. Rows that fail are counted and shown; the others are not lost.
"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from standin import StandIn
from usecase import AOAI, WORDS, Outcome, UseCase

Json = dict[str, Any]

KEY = "sk-0123456789-secret"


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    return UseCase(tmp_path)


def refused(use: UseCase, outcome: Outcome, *parts: str) -> None:
    """One message with these parts, and no trace of a run."""
    outcome.refused(*parts)
    assert outcome.summary is None
    assert not list(use.folder.glob("reports/*"))
    assert not use.leftovers()


# ---- Data

ROW = b'{"text": "ant", "truth": "ANT"}\n'

DATA = {
    "empty dataset": (b"", "data/words.jsonl: has no rows"),
    "dataset of empty lines": (b"\n \n\xef\xbb\xbf\r\n", "data/words.jsonl: has no rows"),
    "a line that is not JSON": (
        ROW * 2 + b'{"text": "bee",\n' + ROW,
        "data/words.jsonl: line 3: not JSON (Expecting property name",
    ),
    "text instead of JSON": (b"text,truth\n", "data/words.jsonl: line 1: not JSON"),
    "a line that is not an object": (ROW + b"[1]\n", "line 2: a list, expected a JSON object"),
    "not UTF-8": (ROW + '{"text": "ä"}\n'.encode("latin-1"), "line 2: not UTF-8"),
    "UTF-16": (ROW.decode().encode("utf-16"), "line 1: not UTF-8"),
    "nested beyond measure": (ROW + b"[" * 100_000 + b"\n", "line 2: not JSON"),
    "a number beyond measure": (ROW + b'{"text": ' + b"9" * 5000 + b"}\n", "line 2: not JSON"),
    "a column missing in row 900": (
        ROW * 899 + b'{"truth": "ANT"}\n' + ROW,
        "datasets[words].mappings.text: '${data.text}': data/words.jsonl: line 900 has no such",
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_data(case: str, use: UseCase) -> None:
    content, message = DATA[case]
    use.write("data/words.jsonl", content)
    refused(use, use.run(), message)
    assert not (use.folder / "runs").exists()


def test_a_table_in_csv(use: UseCase) -> None:
    (dataset,) = use.blocks["datasets"]
    use.configure(datasets=[dataset | {"source": "data/my words.csv"}])
    use.write("data/my words.csv", "text,truth\nant,ANT\n")
    outcome = use.run()
    refused(use, outcome, "data/my words.csv: line 1: not JSON", "Put one object a line, as `")
    subprocess.run(outcome.err.split("`")[1], shell=True, cwd=use.folder, check=True)
    made = (use.folder / "data/my words.jsonl").read_text()
    assert json.loads(made) == {"text": "ant", "truth": "ANT"}


def test_missing_dataset(use: UseCase) -> None:
    (use.folder / "data/words.jsonl").rename(use.folder / "data/other.jsonl")
    refused(
        use,
        use.run(),
        "experiment.yaml: datasets[words].source: 'data/words.jsonl' is not there",
        "(files: data/other.jsonl)",
    )


def test_duplicate_names(use: UseCase) -> None:
    use.configure(datasets=use.blocks["datasets"] * 2)
    refused(use, use.run(), "experiment.yaml: datasets: name 'words' is used 2 times")


def test_a_bom_and_crlf_are_accepted(use: UseCase) -> None:
    rows = b"\xef\xbb\xbf" + ROW.replace(b"\n", b"\r\n") * 3 + b"\r\n"
    use.write("data/words.jsonl", rows + ROW.strip())
    outcome = use.run()

    assert outcome.code == 0, outcome.text
    assert [row["inputs"]["text"] for row in use.finished("default-words-????????????")] == [
        "ant"
    ] * 4


# ---- Flows that cannot be run at all

FLOWS = {
    "no flow in the folder": (
        {"flows/standard/notes.txt": "nothing"},
        ("experiment.yaml: flow: 'flows/standard' holds no flow", "flow.dag.yaml", "flow.py"),
    ),
    "no such function": (
        {"flows/standard/flow.py": "def go(text):\n    return {}\n"},
        ("flows/standard/flow.py: no function 'run' (found go)",),
    ),
    "not Python": (
        {"flows/standard/flow.py": "def run(text):\n    return {\n"},
        ("flows/standard/flow.py: line 2: not Python: '{' was never closed",),
    ),
    "does not import": (
        {"flows/standard/flow.py": "import not_there\ndef run(text):\n    return {}\n"},
        ("flows/standard/flow.py: cannot be loaded", "No module named 'not_there'", "runs/logs/"),
    ),
    "raises on import": (
        {"flows/standard/flow.py": "1 / 0\ndef run(text):\n    return {}\n"},
        ("flows/standard/flow.py: cannot be loaded: ZeroDivisionError",),
    ),
    "exits on import": (
        {"flows/standard/flow.py": "import os\nos._exit(3)\ndef run(text):\n    return {}\n"},
        ("flows/standard/flow.py: cannot be loaded", "exit code 3"),
    ),
    "DAG that is not YAML": (
        {"flows/standard/flow.dag.yaml": "inputs: [\n"},
        ("flows/standard/flow.dag.yaml: line 2: not valid YAML",),
    ),
    "DAG without nodes": (
        {"flows/standard/flow.dag.yaml": "inputs: {}\n"},
        ("flows/standard/flow.dag.yaml: nodes: none",),
    ),
    "DAG with a node without a name": (
        {"flows/standard/flow.dag.yaml": "nodes:\n- type: llm\n"},
        ("flows/standard/flow.dag.yaml: nodes[0].name: missing",),
    ),
    "DAG without the variants it uses": (
        {"flows/standard/flow.dag.yaml": "nodes:\n- {name: a, use_variants: true}\n"},
        ("flows/standard/flow.dag.yaml: node_variants.a.variants: none",),
    ),
    "DAG with an unknown default": (
        {
            "flows/standard/flow.dag.yaml": "nodes:\n- {name: a, use_variants: true}\n"
            "node_variants: {a: {default_variant_id: y, variants: {x: {node: {type: llm}}}}}\n"
        },
        ("node_variants.a.default_variant_id: 'y' (expected one of x)",),
    ),
    "DAG with an unknown connection": (
        {
            "flows/standard/flow.dag.yaml": "inputs: {text: {type: string}}\n"
            "nodes:\n- {name: a, type: llm, connection: oaia, inputs: {}}\n"
        },
        ("node 'a' uses the connection 'oaia', which experiment.yaml does not name",),
    ),
    "flex flow without its module": (
        {"flows/standard/flow.flex.yaml": "entry: gone:run\n"},
        ("flows/standard/flow.flex.yaml: ", "gone.py", "No such file"),
    ),
    "prompty without its block": (
        {"flows/standard/a.prompty": "hello"},
        ("flows/standard/a.prompty: a prompty starts with a block between two lines of ---",),
    ),
}


@pytest.mark.parametrize("case", FLOWS)
def test_a_flow_that_is_none(case: str, use: UseCase) -> None:
    files, parts = FLOWS[case]
    (use.folder / "flows/standard/flow.py").unlink()
    for path, content in files.items():
        use.write(path, content)
    refused(use, use.run(), *parts)


def test_a_variant_that_does_not_exist(use: UseCase) -> None:
    refused(
        use,
        use.run(VARIANTS="default,write.brief"),
        "VARIANTS: 'write.brief' is not a variant of flows/standard",
        "expected one of all, combinations, default",
    )


def test_validate_tells_of_every_flow_that_does_not_import(use: UseCase) -> None:
    use.write("flows/standard/flow.py", "import one\ndef run(text):\n    return {}\n")
    use.write("flows/evaluation/flow.py", "import two\ndef run(answer, truth):\n    return {}\n")
    use.run("validate").refused(
        "flows/standard/flow.py: cannot be loaded: ModuleNotFoundError: No module named 'one'",
        "flows/evaluation/flow.py: cannot be loaded: ModuleNotFoundError: No module named 'two'",
    )


# ---- Flows that fail on some rows

FAULTS = {
    "raises": ("raise ValueError('no such thing')", "ValueError: no such thing"),
    "calls sys.exit": ("sys.exit('no such thing')", "SystemExit: no such thing"),
    "is out of memory": ("[0] * 10**12", "MemoryError"),
    "recurses for ever": ("again(again)", "RecursionError"),
    "raises what cannot be printed": ("raise Unprintable", ""),
    "hangs": ("time.sleep(60)", "Timeout: no answer within 2 s (limits.timeout_s)"),
}

ODD = {
    "5 MB": "'x' * 5_000_000",
    "not a number": "float('nan')",
    "a set": "{1, 2}",
    "a zero byte": "'\\x00'",
    "nothing in it": "None",
}

FAULTY = """
import os
import sys
import time


class Unprintable(Exception):
    def __str__(self):
        return 1 / 0


def again(function):
    return function(function)


def run(text):
    print("buzz" * 100_000)
"""


def faulty(cases: dict[str, str]) -> str:
    """A flow that does as the row says."""
    branches = [f"    if text == {case!r}:\n        {code}\n" for case, code in cases.items()]
    return FAULTY + "".join(branches) + "    return {'answer': text.upper()}\n"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[UseCase, Outcome]:
    """A run in which each fault and each odd answer has its row, and some rows have none."""
    use = UseCase(tmp_path_factory.mktemp("mixed"))
    cases = {case: code for case, (code, _) in FAULTS.items()}
    cases |= {case: f"return {{'answer': {value}}}" for case, value in ODD.items()}
    use.write("flows/standard/flow.py", faulty(cases))
    use.rows({"text": text, "truth": text.upper()} for text in (*cases, *WORDS))
    use.configure(limits={"timeout_s": 2, "retries": 0})
    return use, use.run()


def test_rows_that_fail_are_counted_and_the_others_are_not_lost(
    mixed: tuple[UseCase, Outcome],
) -> None:
    use, outcome = mixed
    rows = len(FAULTS) + len(ODD) + len(WORDS)

    assert outcome.code == 2, outcome.text
    assert "Traceback" not in outcome.text
    assert f"{rows} ({len(FAULTS)} failed)" in outcome.out
    assert outcome.summary is not None
    (run,), (score,) = outcome.summary["runs"], outcome.summary["scores"]
    assert (run["rows"], run["failed"]) == (rows, len(FAULTS))
    assert (score["scored"], score["rows"]) == (rows - len(FAULTS), rows)
    assert score["value"] == pytest.approx(len(WORDS) / (rows - len(FAULTS)))
    assert (use.folder / "reports/index.html").stat().st_size < 2_000_000
    assert not use.leftovers()


@pytest.mark.parametrize("case", FAULTS)
def test_a_row_that_fails_says_why(case: str, mixed: tuple[UseCase, Outcome]) -> None:
    use, _ = mixed
    rows = use.finished("default-words-????????????")
    (row,) = (row for row in rows if row["inputs"]["text"] == case)

    assert row["outputs"] is None
    reason = f"{row['error']['type']}: {row['error']['message']}"
    assert FAULTS[case][1] in reason
    for name in ("index.html", "outputs.csv"):
        assert row["error"]["type"] in (use.folder / "reports" / name).read_text("utf-8")


@pytest.mark.parametrize("case", ODD)
def test_an_odd_answer_is_kept(case: str, mixed: tuple[UseCase, Outcome]) -> None:
    use, _ = mixed
    rows = use.finished("default-words-????????????")
    (row,) = (row for row in rows if row["inputs"]["text"] == case)
    assert row["error"] is None
    assert row["outputs"].keys() == {"answer"}


def test_the_most_frequent_reasons_are_told_with_a_line_of_the_data(use: UseCase) -> None:
    use.write("flows/standard/flow.py", faulty({"bee": "1 / 0", "cat": "1 / 0", "dog": "[][0]"}))
    outcome = use.run()

    assert outcome.code == 2, outcome.text
    zero, index = (line for line in outcome.out.splitlines() if "failed: " in line)
    assert zero == (
        "default / words: 2 rows failed: ZeroDivisionError: division by zero "
        "(data/words.jsonl: line 2)"
    )
    assert index == (
        "default / words: 1 row failed: IndexError: list index out of range "
        "(data/words.jsonl: line 4)"
    )


def test_what_a_flow_prints_is_in_its_log_and_not_in_the_way(
    mixed: tuple[UseCase, Outcome],
) -> None:
    use, outcome = mixed
    assert "buzz" not in outcome.text
    assert "buzzbuzz" in (use.folder / "runs/logs/flows-standard.log").read_text("utf-8")


def fail_on_bee(use: UseCase, code: str) -> Outcome:
    """Run a flow that does this for the second of six rows, two rows at a time."""
    use.write("flows/standard/flow.py", faulty({"bee": code}))
    use.configure(limits={"timeout_s": 2, "retries": 0, "concurrency": 2})
    return use.run()


def test_a_flow_that_kills_its_process_costs_the_rows_under_way(use: UseCase) -> None:
    outcome = fail_on_bee(use, "os.kill(os.getpid(), 9)")

    assert outcome.code == 2, outcome.text
    assert "the flow's process ended" in outcome.out
    assert outcome.summary is not None
    assert 1 <= outcome.summary["runs"][0]["failed"] <= 2


def test_a_flow_that_reads_stdin_gets_nothing_and_disturbs_no_row(use: UseCase) -> None:
    outcome = fail_on_bee(use, "input()")
    assert outcome.code == 2, outcome.text
    assert "1 row failed: EOFError" in outcome.out
    assert "(data/words.jsonl: line 2)" in outcome.out


def test_an_answer_that_json_cannot_hold_is_told_at_once(use: UseCase) -> None:
    answers = ("{('a', 1): 2}", "'\\ud800'", "10**5000", "(lambda x: x.append(x) or x)([])")
    pairs = zip(WORDS, answers, strict=False)
    cases = {word: f"return {{'answer': {answer}}}" for word, answer in pairs}
    use.write("flows/standard/flow.py", faulty(cases))
    use.configure(limits={"timeout_s": 2, "retries": 0})
    outcome = use.run()
    assert outcome.code in (0, 2), outcome.text
    assert "Timeout" not in outcome.text


def test_an_answer_without_measure_fails_its_row_alone(use: UseCase) -> None:
    outcome = fail_on_bee(use, "return {'answer': 'x' * 70_000_000}")
    assert outcome.code == 2, outcome.text
    assert "Traceback" not in outcome.text
    assert outcome.summary is not None
    assert outcome.summary["runs"][0]["failed"] == 1


def test_half_a_surrogate_pair_is_text_like_any_other(use: UseCase) -> None:
    use.write("data/words.jsonl", b'{"text": "a\\ud800", "truth": "A\\ud800"}\n' + ROW)
    outcome = use.run()
    assert outcome.code == 0, outcome.text
    assert outcome.summary is not None
    assert outcome.summary["scores"][0]["value"] == 1


def test_an_evaluator_that_fails_leaves_rows_unscored_and_fails_the_gate(use: UseCase) -> None:
    use.write("flows/evaluation/flow.py", "def run(answer, truth):\n    return {'m': 1 / 0}\n")
    use.configure(gate={"checks": [{"evaluator": "evaluation", "metric": "m", "min": 0}]})
    outcome = use.run()

    assert outcome.code == 2, outcome.text
    assert "default / words / evaluation: 6 rows failed: ZeroDivisionError" in outcome.out
    assert outcome.summary is not None
    assert outcome.summary["gate"]["verdict"] == "fail"
    assert outcome.summary["runs"][0]["failed"] == 0


def test_a_flow_that_fails_on_every_row_has_no_report(use: UseCase) -> None:
    use.write("flows/standard/flow.py", "def run(text):\n    return {'answer': 1 / 0}\n")
    refused(
        use,
        use.run(),
        "No row completed, so there is no report.",
        "default / words: 6 rows failed: ZeroDivisionError: division by zero",
    )


def test_the_report_of_an_earlier_run_is_not_taken_for_one(use: UseCase) -> None:
    assert use.run().code == 0
    use.write("flows/standard/flow.py", "def run(text):\n    return {'answer': 1 / 0}\n")
    use.run().refused("no report: reports/ is still an earlier run's.\ndefault / words: 6 rows")


# ---- Endpoints


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    with StandIn() as model:
        yield model


@pytest.fixture
def asking(use: UseCase, model: StandIn) -> UseCase:
    """A use case whose flow asks the stand-in, which behaves until told otherwise."""
    model.fail()
    use.ask_a_model(timeout_s=10, concurrency=2)
    use.rows({"text": word, "truth": f"echo: {word}"} for word in WORDS)
    return use


def live(use: UseCase, model: StandIn, **variables: str) -> Outcome:
    address = {"AOAI_API_BASE": model.url, "AOAI_API_KEY": KEY, "LLM": "live"}
    outcome = use.run("experiment", **address | variables)
    assert KEY not in outcome.text
    return outcome


ENDPOINTS = {
    "401": ({"status": 401}, "AuthenticationError"),
    "429 for ever": ({"status": 429, "retry_after": 0}, "RateLimitError"),
    "500": ({"status": 500}, "InternalServerError"),
    "hangs up": ({"drop": True}, "APIConnectionError"),
    "answers what is not JSON": ({"body": "<html>Sign in</html>"}, "Error"),
}


@pytest.mark.parametrize("case", ENDPOINTS)
def test_an_endpoint_that_answers_no_row(case: str, asking: UseCase, model: StandIn) -> None:
    fault, name = ENDPOINTS[case]
    model.fail(fault)
    outcome = live(asking, model)

    refused(asking, outcome, "default / words: ", name)
    assert len(outcome.err.splitlines()) <= 2


def test_an_endpoint_that_refuses(asking: UseCase, model: StandIn) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        outcome = live(asking, model, AOAI_API_BASE=address)
    refused(asking, outcome, "connection 'aoai'", "refuses the connection", "AOAI_API_BASE")
    assert not (asking.folder / "runs" / "logs").exists()


def test_an_endpoint_that_times_out(asking: UseCase, model: StandIn) -> None:
    asking.ask_a_model(timeout_s=0.5, concurrency=6)
    model.fail({"hang": 2})
    refused(asking, live(asking, model), "no answer within 0.5 s", "limits.timeout_s")


def test_an_unset_variable(asking: UseCase, model: StandIn) -> None:
    outcome = live(asking, model, AOAI_API_KEY="")
    refused(asking, outcome, "connection 'aoai' lacks AOAI_API_KEY", ".env", "LLM=replay")


def test_a_type_of_connection_that_there_is_not(asking: UseCase, model: StandIn) -> None:
    asking.configure(connections=[AOAI | {"connection_type": "AzureOpenApi"}])
    outcome = live(asking, model)
    refused(asking, outcome, "connections: aoai", "'AzureOpenApi'", "AzureOpenAIConnection")


def test_without_credentials_and_recordings_the_way_to_a_model_is_shown(asking: UseCase) -> None:
    outcome = asking.run()
    assert outcome.code == 2 and outcome.out.startswith("llm: replay."), outcome.text
    for part in ("6 rows have no recording", "AOAI_API_KEY", ".env", "Ollama", "make record"):
        assert part in outcome.out


def test_some_rows_fail_at_the_endpoint(asking: UseCase, model: StandIn) -> None:
    model.fail({"status": 500, "when": "bee"}, {"status": 429, "retry_after": 0, "when": "cat"})
    outcome = live(asking, model)

    assert outcome.code == 2, outcome.text
    assert "6 (2 failed)" in outcome.out
    assert "1 row failed: InternalServerError: " in outcome.out
    assert "1 row failed: RateLimitError: " in outcome.out
    assert outcome.summary is not None
    (run,), (score,) = outcome.summary["runs"], outcome.summary["scores"]
    assert (run["rows"], run["failed"]) == (6, 2)
    assert (score["value"], score["scored"], score["rows"]) == (1, 4, 6)

    model.fail()
    before = model.requests
    again = live(asking, model)
    assert again.code == 0, again.text
    assert model.requests - before == 2


def test_a_429_waits_as_long_as_it_is_told(asking: UseCase, model: StandIn) -> None:
    asking.ask_a_model(retries=1)
    model.fail({"status": 429, "retry_after": 2, "times": 1, "when": "bee"})
    outcome = live(asking, model)

    assert outcome.code == 0, outcome.text
    rows = asking.finished("default-words-????????????")
    assert [row["attempts"] for row in rows] == [1, 2, 1, 1, 1, 1]
    assert outcome.summary is not None
    assert outcome.summary["seconds"] >= 2


def test_recordings_that_cannot_be_read_are_told_with_their_line(asking: UseCase) -> None:
    asking.write("recordings/answers.jsonl", '{"path": "/chat/completions"}\n')
    refused(asking, asking.run(LLM="replay"), "recordings/answers.jsonl:1", "request")


# ---- Disks


def test_a_file_in_the_place_of_reports(use: UseCase) -> None:
    use.write("reports", "a note")
    outcome = use.run()
    outcome.refused("reports/summary.json: cannot be written: reports is a file, not a folder")
    assert not (use.folder / "runs").exists()  # found before anything is spent


def test_a_file_in_the_place_of_runs(use: UseCase) -> None:
    use.write("runs", "a note")
    for task in ("experiment", "try", "validate"):
        outcome = use.run(task)
        refused(use, outcome, "cannot be written: runs is a file, not a folder. Remove it.")


@contextmanager
def unchangeable(folder: Path) -> Iterator[None]:
    """A folder that not even root may write to, or the test is skipped."""
    folder.mkdir()
    folder.chmod(0o500)
    lock = subprocess.run(["chattr", "+i", folder], capture_output=True, check=False)
    try:
        if lock.returncode and _writable(folder):
            pytest.skip("this file system knows no folder that root cannot write to")
        yield
    finally:
        if not lock.returncode:
            subprocess.run(["chattr", "-i", folder], check=True)
        folder.chmod(0o700)


def _writable(folder: Path) -> bool:
    try:
        (folder / "probe").touch()
    except OSError:
        return False
    (folder / "probe").unlink()
    return True


@pytest.mark.parametrize("name", ["reports", "runs"])
def test_a_read_only_folder(name: str, use: UseCase) -> None:
    with unchangeable(use.folder / name):
        outcome = use.run()
    refused(use, outcome, f"{name}/", "cannot be written", "make the folder writable")


@pytest.mark.parametrize(
    ("size", "file"), [(2_000, "rows.jsonl"), (30_000, "index.html")], ids=["runs", "reports"]
)
def test_a_full_disk(size: int, file: str, use: UseCase) -> None:
    """A limit on the size of a file fails as a full disk does: amid a write."""
    use.rows({"text": word * 40, "truth": word.upper() * 40} for word in WORDS)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        # Python would keep the code that it compiles, cut off at the limit.
        child = use.start("experiment", PYTHONDONTWRITEBYTECODE="1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    outcome = use.end(child)

    outcome.refused(f"{file}: cannot be written", "Free some space")
    assert not use.leftovers()
    assert not (use.folder / "reports/index.html").exists()
    again = use.run()
    assert again.code == 0, again.text
    assert [row["row"] for row in use.finished("default-words-????????????")] == list(range(6))


# ---- Variables

VARIABLES = {
    "TARGET": ("TARGET: 'moon' (expected one of local", "moon"),
    "CONCURRENCY": ("CONCURRENCY: 'many' (expected a number from 1 to 256)", "many"),
    "CONCURRENCY of 0": ("CONCURRENCY: '0' (expected a number from 1 to 256)", "0"),
    "CONCURRENCY without measure": ("CONCURRENCY: '257'", "257"),
    "CONCURRENCY in other digits": ("CONCURRENCY: '²'", "²"),
    "LLM": ("LLM: value 'reply' (expected one of live, replay, record)", "reply"),
    "FRESH": ("FRESH: 'perhaps' (expected one of 0, 1, false, true)", "perhaps"),
    "ENV": ("ENV: 'moon' has no file experiment.moon.yaml (expected one of 'dev')", "moon"),
}


@pytest.mark.parametrize("case", VARIABLES)
def test_a_variable_with_a_wrong_value(case: str, use: UseCase) -> None:
    message, value = VARIABLES[case]
    refused(use, use.run(**{case.partition(" ")[0]: value}), message)


def test_an_empty_variable_counts_as_unset(use: UseCase) -> None:
    names = ("ENV", "TARGET", "VARIANTS", "CONCURRENCY", "FRESH", "LLM", "INPUTS")
    assert use.run("try", **dict.fromkeys(names, "")).code == 0


INPUTS = {
    "unknown": ("txt=a", "INPUTS: the flow has no input 'txt' (its inputs: text)"),
    "missing": ("{}", "INPUTS: the flow needs 'text' (its inputs: text)"),
    "not JSON": ('{"text": ', "INPUTS: cannot be read"),
    "not closed": ('text="a', "INPUTS: cannot be read (No closing quotation)"),
    "no name": ("a b", "INPUTS: expected name=value pairs or a JSON object"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_are_none(case: str, use: UseCase) -> None:
    inputs, message = INPUTS[case]
    use.run("try", INPUTS=inputs).refused(message)


@pytest.mark.parametrize(
    "inputs", ['text="two words"', '{"text": "two words"}', "text='two words'"]
)
def test_inputs_in_either_form(inputs: str, use: UseCase) -> None:
    outcome = use.run("try", INPUTS=inputs)
    assert outcome.code == 0, outcome.text
    assert '"TWO WORDS"' in outcome.out


# ---- Stages without the one before


@pytest.mark.parametrize("task", ["report", "gate", "evaluate"])
def test_a_stage_without_an_experiment(task: str, use: UseCase) -> None:
    use.run(task).refused("reports/summary.json: not found. Run `make experiment` first.")


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", b"\xff"])
def test_a_summary_that_is_none(content: str | bytes, use: UseCase) -> None:
    use.write("reports/summary.json", content)
    use.run("gate").refused("reports/summary.json: not a summary of this version")


@pytest.mark.parametrize("task", ["report", "gate", "evaluate"])
def test_a_stage_without_the_rows(task: str, use: UseCase) -> None:
    assert use.run().code == 0
    for file in use.folder.glob("runs/*/rows.jsonl"):
        file.unlink()
    use.run(task).refused("runs/default-words-", "rows.jsonl: not found", "make experiment")


def test_the_previous_report_stands_until_there_is_a_new_one(use: UseCase) -> None:
    first = use.run()
    assert first.summary is not None
    page = (use.folder / "reports/index.html").read_bytes()
    use.write("flows/standard/flow.py", "def run(text):\n    return {'answer': 1 / 0}\n")

    assert use.run().code == 1
    assert use.summary == first.summary
    assert (use.folder / "reports/index.html").read_bytes() == page


# ---- Where a run is begun


def test_a_folder_with_blanks_and_letters_of_any_kind(tmp_path: Path) -> None:
    place = tmp_path / "Größe und Maß 50 %"
    place.mkdir()
    outcome = UseCase(place).run()
    assert outcome.code == 0, outcome.text
