"""`make approve` asks a person, or takes the platform's word; `make deploy` wants exactly that."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_deploy
import test_webapp
from forks import Forks
from llmops import summary
from llmops.verdict import approval
from loopback_azure import LoopbackAzure
from usecase import UseCase

Json = dict[str, Any]
PROD = {"approval": "required"}
GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_ACTOR": "ada",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "octo/flows",
    "GITHUB_RUN_ID": "77",
    "APPROVED_BY": "production",
}
DEVOPS = {
    "TF_BUILD": "True",
    "BUILD_REQUESTEDFOR": "Ada Byron",
    "SYSTEM_COLLECTIONURI": "https://dev.azure.com/octo/",
    "SYSTEM_TEAMPROJECT": "flows",
    "BUILD_BUILDID": "9",
    "APPROVED_BY": "prod",
}


def prepare(use: UseCase) -> UseCase:
    """Prod wants an approval, and its experiment has run."""
    use.write("experiment.prod.yaml", json.dumps(PROD))
    outcome = use.run(ENV="prod")
    assert outcome.code == 0, outcome.text
    return use


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    return prepare(UseCase(tmp_path))


def typed(use: UseCase, answer: str, **variables: str) -> tuple[int, str]:
    """`make approve ENV=prod` on a terminal where somebody types this; exit code and screen."""
    master, terminal = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "scripts.approve"],
        cwd=use.folder,
        env=use.clean(ENV="prod", **variables),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    said, asked, end = b"", False, time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            more = os.read(master, 4096)
        except OSError:  # the other side is closed
            break
        said += more
        if not asked and b"name: " in said:
            os.write(master, answer.encode())
            asked = True
    os.close(master)
    return child.wait(timeout=10), said.decode().replace("\r\n", "\n")


def noted(use: UseCase) -> Json | None:
    path = use.folder / approval.APPROVAL
    return json.loads(path.read_text()) if path.exists() else None


def run_of(use: UseCase) -> str:
    return approval.run_of(summary.load(use.folder / summary.SUMMARY))


def git(use: UseCase, *command: str) -> str:
    who = ("-c", "user.name=Ada Byron", "-c", "user.email=ada@example.org")
    done = subprocess.run(
        ("git", *who, *command), cwd=use.folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


# --- on a terminal -------------------------------------------------------------------------------


def test_a_person_sees_the_run_and_types_its_name(use: UseCase) -> None:
    use.write(".gitignore", "runs/\nreports/\n")
    git(use, "init", "-q")
    git(use, "add", ".")
    git(use, "commit", "-q", "-m", "one")
    git(use, "config", "user.name", "Ada Byron")
    git(use, "config", "user.email", "ada@example.org")
    use.write("flows/standard/flow.py", "def run(text):\n    return {'answer': text.upper()}\n")
    use.configure(gate={"checks": [{"evaluator": "evaluation", "metric": "match", "min": 0.9}]})
    assert use.run(ENV="prod").code == 0

    code, screen = typed(use, "words\n", BASE="HEAD", NOTE="seen with Grace")
    assert code == 0, screen
    head = git(use, "rev-parse", "--short=7", "HEAD")
    for part in (
        f"experiment: words, ENV prod, run {run_of(use)[:12]}",
        "1.00 [1.00, 1.00]",
        "pass          default on words: evaluation.match ≥ 0.9: 1, 95 % interval 1 to 1",
        "gate: pass",
        f"changes since HEAD ({head}):",
        "flows/standard/flow.py",
        "To approve this run for 'prod', type the experiment's name: ",
        "approved by Ada Byron <ada@example.org> (terminal): reports/approval.json",
    ):
        assert part in screen, screen
    found = noted(use)
    assert found and found.pop("when").startswith("20")
    assert found == {
        "experiment": "words",
        "env": "prod",
        "run": run_of(use),
        "who": "Ada Byron <ada@example.org>",
        "how": "terminal",
        "note": "seen with Grace",
    }
    code, screen = typed(use, "words\n", BASE="nowhere")
    assert code == 1 and "BASE: 'nowhere' is no commit" in screen, screen


@pytest.mark.parametrize("answer", ["yes\n", "\n", "\x04"], ids=["yes", "nothing", "end"])
def test_any_other_answer_is_no(use: UseCase, answer: str) -> None:
    code, screen = typed(use, answer)
    assert code == 1 and "Not approved: the answer was not 'words'." in screen, screen
    assert "changes: no earlier version is known; BASE=<git ref>" in screen
    assert noted(use) is None and "Traceback" not in screen


# --- without a terminal --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"APPROVED_BY": "production"},
        {**GITHUB, "APPROVED_BY": ""},
        {**DEVOPS, "APPROVED_BY": " "},
        {**GITHUB, "GITHUB_ACTIONS": "false"},
    ],
    ids=["nothing", "no platform", "github", "devops", "not there"],
)
def test_without_a_terminal_it_is_refused(use: UseCase, variables: dict[str, str]) -> None:
    use.run("approve", ENV="prod", **variables).refused(
        "this is no terminal", "make approve ENV=prod", "APPROVED_BY"
    )
    assert noted(use) is None


@pytest.mark.parametrize(
    ("variables", "who", "how", "note"),
    [
        (GITHUB, "ada", "github environment production",
         "https://github.com/octo/flows/actions/runs/77"),
        ({**GITHUB, "NOTE": "ticket 7"}, "ada", "github environment production", "ticket 7"),
        (DEVOPS, "Ada Byron", "azure pipelines environment prod",
         "https://dev.azure.com/octo/flows/_build/results?buildId=9"),
        ({"TF_BUILD": "True", "APPROVED_BY": "prod"}, "unknown",
         "azure pipelines environment prod", ""),
    ],
    ids=["github", "note", "devops", "bare"],
)  # fmt: skip
def test_the_platform_has_asked(
    use: UseCase, variables: dict[str, str], who: str, how: str, note: str
) -> None:
    outcome = use.run("approve", ENV="prod", **variables)
    assert outcome.code == 0 and "gate: off" in outcome.out, outcome.text
    found = noted(use)
    assert found and (found["who"], found["how"], found["note"]) == (who, how, note)
    assert found["run"] == run_of(use)


def test_what_cannot_or_need_not_be_approved(use: UseCase) -> None:
    use.run("approve", **GITHUB).refused("ENV: 'dev'", "'prod'", "make experiment ENV=dev")
    use.write("experiment.prod.yaml", json.dumps({"approval": "yes"}))
    use.run("approve", ENV="prod").refused("approval: expected 'none' or 'required', found")
    use.write("experiment.prod.yaml", "limits:\n")
    outcome = use.run("approve", ENV="prod")
    assert outcome.code == 0 and "'prod' needs no approval" in outcome.out, outcome.text
    assert noted(use) is None
    (use.folder / summary.SUMMARY).unlink()
    use.run("approve", ENV="prod").refused("Run `make experiment` first")


# --- which run it is -----------------------------------------------------------------------------


def test_the_same_run_has_the_same_hash_and_a_changed_one_another(use: UseCase) -> None:
    known = [run_of(use)]
    for task in ("experiment", "evaluate", "gate"):
        assert use.run(task, ENV="prod").code == 0
        assert run_of(use) == known[0], task

    def changed(**variables: str) -> None:
        assert use.run(**{"ENV": "prod"} | variables).code in (0, 2)
        assert run_of(use) not in known
        known.append(run_of(use))

    use.configure(gate={"checks": [{"evaluator": "evaluation", "metric": "match", "min": 0.5}]})
    changed()
    use.write("flows/standard/flow.py", "def run(text):\n    return {'answer': text}\n")
    changed()
    use.rows([{"text": "ant", "truth": "ant"}, {"text": "bee", "truth": "BEE"}])
    changed()
    changed(ENV="dev")


# --- deploy --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as azure:
        yield azure
        assert azure.refused == []


forks = test_deploy.forks


@pytest.fixture
def case(azure: LoopbackAzure, forks: Forks, tmp_path: Path) -> test_deploy.Case:
    """An endpoint in prod, whose experiment has run and whose flow is registered."""
    azure.change(operation_s=0.1, cores=1000, propagation_s=0)
    case = test_deploy.Case(tmp_path, azure, forks)
    case.set(ENV_NAME="prod")
    case.write("experiment.prod.yaml", json.dumps(PROD))
    ran_and_registered(case)
    azure.forget()
    return case


def ran_and_registered(case: test_deploy.Case) -> None:
    assert case.run(ENV="prod").code == 0
    case.task("register", ENV="prod").must(0)


def test_deploy_wants_a_yes_to_the_run_that_is_registered(case: test_deploy.Case) -> None:
    def deploy(code: int, *parts: str, **variables: str) -> None:
        case.task("deploy", ENV="prod", **variables).must(code, *parts)

    registered = json.loads((case.folder / "reports" / "registration.json").read_text())
    assert registered["run"] == run_of(case)
    missing = "reports/approval.json: not found, but experiment.prod.yaml: approval: required"
    deploy(1, missing, "Run `make approve ENV=prod`")
    deploy(0, "`make deploy` would be refused", missing, "absent", PLAN="1")
    case.task("approve", ENV="prod").must(1, "this is no terminal")
    case.task("approve", ENV="prod", **GITHUB).must(0, "approved by ada")
    assert case.changes() == [] and case.state is None

    # Another run, registered after the yes.
    case.write("flows/standard/flow.py", "def run(text):\n    return {'answer': 'new ' + text}\n")
    ran_and_registered(case)
    deploy(1, "ada approved run", "it changed since", run_of(case)[:12], "make approve ENV=prod")
    deploy(0, "would be refused", "it changed since", PLAN="1")
    assert case.state is None

    case.task("approve", ENV="prod", **GITHUB).must(0)
    deploy(0, "blue 100%")
    assert case.traffic == {"blue": 100}
    (case.folder / approval.APPROVAL).unlink()
    case.set(ENV_NAME="prod", PRIOR_DEPLOYMENT_NAME="blue", CURRENT_DEPLOYMENT_NAME="green")
    case.task("rollback", ENV="prod").must(0, "Nothing to do")  # it needs no yes


def test_a_yes_before_registration_and_one_that_cannot_be_read(case: test_deploy.Case) -> None:
    case.write("flows/standard/flow.py", "def run(text):\n    return {'answer': 'new ' + text}\n")
    assert case.run(ENV="prod").code == 0
    case.task("approve", ENV="prod", **GITHUB).must(0)
    case.task("deploy", ENV="prod").must(1, "Run `make register ENV=prod` to register what was")
    other = json.loads((case.folder / approval.APPROVAL).read_text())
    case.write(str(approval.APPROVAL), json.dumps({**other, "env": "dev"}))
    case.task("deploy", ENV="prod").must(1, "says nothing of 'words' in 'prod'")
    case.write(str(approval.APPROVAL), json.dumps(other))
    case.set(ENV_NAME="prod")  # a manifest as an earlier version wrote it
    case.task("deploy", ENV="prod").must(1, "does not say which run words:1 is", "make register")
    case.write(str(approval.APPROVAL), "{")
    case.task("deploy", ENV="prod").must(1, "not of this version", "make approve")
    assert case.state is None


def test_a_web_app_wants_it_too(azure: LoopbackAzure, forks: Forks, tmp_path: Path) -> None:
    azure.forget()
    case = test_webapp.Case(tmp_path, azure, forks, "web-approval")
    case.configure(approval="required")
    case.must(1, "not found, but experiment.yaml: approval: required", "make approve ENV=dev")
    assert azure.log == []
