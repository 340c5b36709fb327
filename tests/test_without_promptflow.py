"""The whole lifecycle of a repo whose flows are plain Python, where prompt flow is not installed.

Its tasks run by the Python of a venv that holds the locks that such a repo needs, and no other.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import test_compare
from loopback_azure import LoopbackAzure
from standin import StandIn
from usecase import AOAI, ASK, LIBRARY, Json, Outcome, UseCase, wait_until

pytestmark = pytest.mark.slow

UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv") or "uv"
GRADED = """
def run(answer, truth):
    return {"match": float(truth.lower() in answer.lower()), "_length": len(answer)}


def aggregate(rows):
    longest = max(row["_length"] for row in rows)
    return {"accuracy": sum(row["match"] for row in rows) / len(rows), "longest": longest}
"""
# A word of the package's in a comment makes no flow of it.
COMMENTED = '"""This was a promptflow DAG once."""\n' + ASK
TESTED = '"""Not a promptflow flow."""\n\n\ndef run(answer):\n    return {"words": len(answer)}\n'


class Plain(UseCase):
    """A use case whose tasks run by another Python."""

    def __init__(self, place: Path, python: Path, **variables: str) -> None:
        super().__init__(place)
        self.python, self.variables = str(python), variables

    def start(self, task: str, /, **variables: str) -> subprocess.Popen[str]:
        """See UseCase."""
        return subprocess.Popen(
            [self.python, "-m", f"scripts.{task}"],
            cwd=self.folder,
            env=self.clean(**{**self.variables, **variables}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def must(self, task: str, /, *parts: str, **variables: str) -> Outcome:
        """Run a task that succeeds and says all these."""
        outcome = self.run(task, **variables)
        assert outcome.code == 0 and "Traceback" not in outcome.text, outcome.text
        for part in parts:
            assert part in outcome.text, f"{part!r} is not in: {outcome.text}"
        return outcome


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a venv with the locks `local` and `azure`."""
    place = tmp_path_factory.mktemp("plain") / "venv"
    subprocess.run([UV, "venv", "--quiet", f"--python={sys.executable}", place], check=True)
    locks = [f"--requirement={LIBRARY / 'requirements' / name}.txt" for name in ("local", "azure")]
    how = ("--quiet", "--require-hashes", "--no-deps", f"--python={place}")
    subprocess.run([UV, "pip", "install", *how, *locks], check=True)
    return place / "bin" / "python"


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as azure:
        yield azure
        assert azure.refused == []


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn() as standin:
        yield standin


@pytest.fixture
def use(python: Path, azure: LoopbackAzure, standin: StandIn, tmp_path: Path) -> Iterator[Plain]:
    """Six words that a model repeats, in a repo with what a deployment needs."""
    own = azure.settings
    use = Plain(
        *(tmp_path, python),
        **azure.environment,
        **{"SUBSCRIPTION_ID": own.subscription, "RESOURCE_GROUP_NAME": own.group},
        **{"WORKSPACE_NAME": own.workspace, "AOAI_API_BASE": standin.url, "AOAI_API_KEY": "k" * 20},
    )
    use.write("flows/standard/flow.py", COMMENTED)
    use.write("flows/evaluation/flow.py", GRADED)
    use.write("flows/watching/flow.py", TESTED)
    use.configure(
        connections=[AOAI],
        gate={"checks": [{"evaluator": "evaluation", "metric": "accuracy", "min": 0.5}]},
    )
    use.write("experiment.postprod.yaml", json.dumps(overlay("data/log.jsonl")))
    use.rows([{"answer": "ANT"}, {"answer": "BEE"}], "data/log.jsonl")
    use.write("sample-request.json", '{"text": "hello"}')
    use.write("pyproject.toml", '[project]\nname = "words"\n')
    entry = {
        **{"ENV_NAME": "dev", "ENDPOINT_NAME": "words-plain", "CURRENT_DEPLOYMENT_NAME": "blue"},
        **{"CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION": 100, "DATA_COLLECTION": 100},
        **{"DEPLOYMENT_VM_SIZE": "Standard_DS3_v2", "DEPLOYMENT_INSTANCE_COUNT": 1},
    }
    use.write("configs/deployment_config.json", json.dumps({"azure_managed_endpoint": [entry]}))
    for name in ("requirements", "environment"):
        shutil.copytree(LIBRARY / name, use.folder / name)
    file = use.folder / "environment/Dockerfile"
    tag = re.compile("<<cookiecutter[.]python_version>>")
    file.write_text(tag.sub("3.11", file.read_text()).replace("<<cookiecutter.project>>", "words"))
    use.write(".gitignore", "runs/\nreports/\n")
    yield use
    use.run("deploy", KIND="local", DOWN="1")


def overlay(source: str) -> Json:
    """What scores a log alone."""
    mapped = {"name": "log", "source": source, "mappings": {"answer": "${data.answer}"}}
    watching = {"name": "watching", "flow": "flows/watching", "datasets": [mapped]}
    return {"datasets": [], "evaluators": [watching], "gate": None}


def test_prompt_flow_is_not_there(python: Path) -> None:
    tried = subprocess.run([python, "-c", "import promptflow"], capture_output=True, check=False)
    assert b"No module named 'promptflow'" in tried.stderr
    checked = subprocess.run(
        [UV, "pip", "check", f"--python={python}"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_from_the_first_row_to_the_verdict(use: Plain) -> None:
    use.must("validate")
    use.must("doctor")
    use.must("try", "ANT", INPUTS='text="ANT"')
    outcome = use.must("experiment", "gate: pass")
    assert outcome.summary
    scores = {one["metric"]: one["value"] for one in outcome.summary["scores"]}
    assert scores == {"accuracy": 1.0, "longest": scores["longest"]}
    kept = [row for row in use.finished("evaluation*") if row["aggregation"]] or [
        row for row in use.finished() if "match" in row["outputs"]
    ]
    assert len(kept) == 6 and all(set(row["outputs"]) == {"match"} for row in kept)
    assert all(set(row["aggregation"]) == {"_length"} for row in kept)
    use.must("evaluate")
    use.must("report")
    use.must("gate", "gate: pass")
    test_compare.git(use, "init", "--quiet", "--initial-branch=main")
    test_compare.commit(use)
    use.write("flows/standard/flow.py", COMMENTED.replace('"content": text', '"content": text * 2'))
    compared = use.must("compare", BASE="main")
    assert compared.summary and compared.summary["base"]["ref"] == "main"


def test_an_endpoint_in_azure(use: Plain) -> None:
    use.must("experiment")
    use.must("register", "manifest: reports/registration.json")
    use.must("deploy", "blue")
    use.must("check_endpoint", "200")
    use.must("monitor", ENV="postprod")


def test_an_endpoint_here(use: Plain) -> None:
    use.must("deploy", "blue", KIND="local", PORT="0")
    state = json.loads((use.folder / "runs/endpoints/words-plain/state.json").read_text())
    url = f"http://127.0.0.1:{state['port']}/score"
    with httpx.Client(trust_env=False) as client:
        answers = [client.post(url, json={"text": f"word {n}"}, timeout=30) for n in range(3)]
    assert all(answer.status_code == 200 for answer in answers), answers[0].text
    assert "word 2" in answers[2].json()["answer"]
    use.must("check_endpoint", KIND="local")
    use.must("monitor", ENV="postprod", KIND="local")
    path = use.folder / "configs/deployment_config.json"
    document = json.loads(path.read_text())
    document["azure_managed_endpoint"][0] |= {
        **{"CURRENT_DEPLOYMENT_NAME": "green", "CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION": 50},
        **{"PRIOR_DEPLOYMENT_NAME": "blue", "PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION": 50},
    }
    path.write_text(json.dumps(document))
    use.must("deploy", "green", KIND="local")
    use.must("rollback", "blue", KIND="local")
    use.must("deploy", KIND="local", DOWN="1")


def test_it_is_served_and_becomes_an_image(use: Plain) -> None:
    child = use.start("serve", PORT="0", WORKERS="1")
    try:
        assert child.stdout
        found = re.search(r"http://127\.0\.0\.1:\d+", "".join(map(str, _until(child, "http://"))))
        assert found
        with httpx.Client(base_url=found[0], trust_env=False, timeout=60) as client:
            wait_until(lambda: client.get("/ready").status_code == 200, 60)
            answer = client.post("/score", json={"text": "hello"})
        assert answer.status_code == 200 and "hello" in answer.json()["answer"], answer.text
    finally:
        child.terminate()
        child.communicate(timeout=30)
    use.must("image", "checked", CONTEXT_ONLY="1")
    (context,) = (path for path in (use.folder / "runs/image").iterdir() if path.is_dir())
    locks = {path.name: path.read_text() for path in context.glob("*requirements.txt")}
    assert set(locks) == {"requirements.txt", "flow-requirements.txt"}
    assert "promptflow" not in "".join(re.findall(r"^\S+", "\n".join(locks.values()), re.M))


def _until(child: subprocess.Popen[str], word: str) -> Iterator[str]:
    assert child.stdout
    for line in child.stdout:
        yield line
        if word in line:
            return


def test_what_does_not_work_says_what_does(use: Plain) -> None:
    for target in ("azure", "azure-pipeline"):
        use.run("experiment", TARGET=target).refused(
            f"TARGET: '{target}'", "retires on 2027-04-20", "Leave out TARGET"
        )
    (use.folder / "flows/standard/flow.py").unlink()
    node = {"name": "n", "type": "python", "source": {"type": "code", "path": "n.py"}}
    dag: Json = {
        "inputs": {"text": {"type": "string"}},
        "outputs": {"answer": {"type": "string", "reference": "${n.output}"}},
        "nodes": [{**node, "inputs": {"text": "${inputs.text}"}}],
    }
    use.write("flows/standard/flow.dag.yaml", json.dumps(dag))
    code = (
        "from promptflow.core import tool\n\n\n@tool\ndef n(text: str) -> str:\n    return text\n"
    )
    use.write("flows/standard/n.py", code)
    use.run("experiment").refused("promptflow is not installed", "`promptflow`", "make eject FLOW=")
