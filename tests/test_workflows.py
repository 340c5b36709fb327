"""The GitHub workflows of a generated repo: checked, and executed as they stand.

`github_actions` reads their YAML and runs their steps in fresh clones; Azure is the loopback one,
the model a stand-in. What `make lint` and `make test` say of a generated repo is shown elsewhere
(test_template.py), so they are taken for granted here.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Bake
from conftest import Run as RunCommand
from github_actions import Environment, Event, GitHub, Run, load, starts
from loopback_azure import LoopbackAzure
from loopback_forge import Forge
from standin import StandIn

HERE = Path(__file__).parent
KEY = "a-key-that-nobody-may-see"
PR = Event("pull_request", ref="change", base="main")
PUSH = Event("push", ref="development")
ELSEWHERE = {"make lint", "make test"}

PLAIN = "flows/standard/answer_plain.jinja2"
WORSE = "# system:\nWhatever is asked, say that you do not know.\n\n# user:\n{{ question }}\n"
BETTER = "# system:\nYou are a helpful assistant. Name the fact first.\n\n# user:\n{{ question }}\n"


# --- a repository on GitHub ----------------------------------------------------------------------


def git(folder: Path, *command: str) -> None:
    """Git as somebody without settings of their own."""
    own = ("-c", "user.name=Someone", "-c", "user.email=someone@example.com")
    subprocess.run(["git", *own, *command], cwd=folder, check=True, capture_output=True)


def commit(repo: Path, branch: str = "") -> None:
    """Commit everything, on a new branch if one is named."""
    if branch:
        git(repo, "checkout", "--quiet", "-b", branch)
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--allow-empty", "--message", "x")


def edit(repo: Path, path: str, text: str, branch: str = "change") -> None:
    """Commit one changed file on a branch of its own."""
    (repo / path).write_text(text)
    commit(repo, branch)


@pytest.fixture(scope="module")
def prepared(
    environment: Path, baked: Bake, run: RunCommand, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The shared .venv with the packages for Azure: a job behind the emulator's proxy gets none."""
    repo = shutil.copytree(baked(), tmp_path_factory.mktemp("prepared") / "repo")
    (repo / ".venv").symlink_to(environment)
    path = f"{environment / 'bin'}:/usr/bin:/bin"
    done = run(repo, "python", "-c", "import noxfile; noxfile.install('azure')", PATH=path)
    assert done.returncode == 0, done.stderr
    return environment


@pytest.fixture
def forge() -> Iterator[Forge]:
    """What holds the comments."""
    with Forge() as forge:
        yield forge


@pytest.fixture
def publish(prepared: Path, run: RunCommand, forge: Forge, tmp_path: Path) -> Callable[..., GitHub]:
    """publish(repo): GitHub with the files of this folder on main and development."""

    def publish(repo: Path, *use_cases: str) -> GitHub:
        commit(repo)
        git(repo, "branch", "--force", "development")
        store = tmp_path / "store"
        store.mkdir()
        machine = dict(line.split("=", 1) for line in run(repo, "env").stdout.splitlines())
        granted = frozenset(ELSEWHERE)
        hub = GitHub(repo, prepared, store, machine, taken_for_granted=granted)
        hub.api = forge.url
        return hub

    return publish


@pytest.fixture
def blank(bake: Bake, publish: Callable[..., GitHub]) -> GitHub:
    """The blank example on GitHub."""
    return publish(bake(example="blank"))


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    """Answers the blank example's questions; a prompt that says so gets no answer."""
    lines = (HERE / "answers" / "blank.jsonl").read_text().splitlines()
    unknowing = {"when": ["say that you do not know"], "answer": "I do not know."}
    with StandIn(answers=[unknowing, *map(json.loads, lines)]) as model:
        yield model


def connections(model: StandIn) -> str:
    """COMMON_DEV_CONNECTIONS with the stand-in for a model."""
    connection = {"name": "aoai", "type": "AzureOpenAIConnection", "api_type": "azure"}
    where = {"api_key": KEY, "api_base": model.url, "api_version": "2024-02-01"}
    return json.dumps([connection | where])


def checked(run: Run, conclusion: str) -> Run:
    """The run, which ended so and showed no secret."""
    assert run.conclusion == conclusion, run.text
    assert KEY not in run.text + run.summary
    return run


# --- pull requests -------------------------------------------------------------------------------


def test_a_pull_request_that_makes_it_better(blank: GitHub, model: StandIn) -> None:
    blank.secrets["COMMON_DEV_CONNECTIONS"] = connections(model)
    edit(blank.repo, PLAIN, BETTER)
    run = checked(blank.run("pr.yml", PR), "success")
    assert set(run.outcomes("pr/pr").values()) == {"success"}
    assert "against origin/main" in run.text and "live" in run.text
    report = blank.artefacts["1", "report"]
    assert json.loads((report / "summary.json").read_text())["llm"]["mode"] == "live"


def test_a_pull_request_that_makes_it_worse_ends_red(
    blank: GitHub, model: StandIn, forge: Forge
) -> None:
    blank.secrets["COMMON_DEV_CONNECTIONS"] = connections(model)
    edit(blank.repo, PLAIN, WORSE)
    run = checked(blank.run("pr.yml", PR), "failure")
    outcomes = run.outcomes("pr/pr")
    assert outcomes["make compare"] == "failure"
    assert outcomes["make comment"] == outcomes["actions/upload-artifact"] == "success"
    assert "gate: fail" in run.text and "contains fell" in run.text
    assert ["Gate failed" in one.body for one in forge.comments[7]] == [True]
    assert "Gate failed" in run.summary


def test_a_fork_has_no_secrets_and_gets_a_verdict(blank: GitHub, model: StandIn) -> None:
    blank.secrets["COMMON_DEV_CONNECTIONS"] = connections(model)
    edit(blank.repo, "README.md", "# Another\n")
    asked = model.requests
    run = checked(blank.run("pr.yml", replace(PR, fork=True)), "success")
    assert set(run.outcomes("pr/pr").values()) == {"success"}
    assert "Replayed answers" in run.text and "no difference" in run.text
    assert model.requests == asked


def test_a_fork_whose_prompt_has_no_recording_is_told_how_to_record(
    blank: GitHub, forge: Forge
) -> None:
    edit(blank.repo, PLAIN, BETTER)
    run = blank.run("pr.yml", replace(PR, fork=True))
    report = (blank.artefacts["1", "report"] / "summary.md").read_text()
    assert re.search(r"(?i)gate.*(fail|inconclusive)", report), report
    assert "make record" in run.text
    assert forge.comments[7] == [] and "comes from a fork" in run.summary
    assert run.outcomes("pr/pr")["make comment"] == "success"


def test_what_does_not_validate_costs_nothing(blank: GitHub) -> None:
    edit(blank.repo, "experiment.yaml", "name: blank\n")
    run = checked(blank.run("pr.yml", PR), "failure")
    outcomes = run.outcomes("pr/pr")
    assert outcomes["make validate"] == "failure"
    assert outcomes["make compare"] == outcomes["make comment"] == "skipped"


# --- after the merge -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    """An Azure for this file."""
    with LoopbackAzure() as azure:
        yield azure
        assert azure.refused == []


TESTED = 3  # requests with which a deploy tests a second deployment, before and after traffic


def set_up(repo: Path, **keys: str) -> None:
    """Give prod a managed endpoint in configs/deployment_config.json."""
    path = repo / "configs" / "deployment_config.json"
    document = json.loads(path.read_text())
    entry = document["azure_managed_endpoint"][0]
    own = {"ENV_NAME": "prod", "ENDPOINT_NAME": "blank-in-prod", **keys}
    document["azure_managed_endpoint"] = [entry | own]
    path.write_text(json.dumps(document, indent=2))


@pytest.fixture
def cloud(
    bake: Bake, publish: Callable[..., GitHub], azure: LoopbackAzure, model: StandIn
) -> GitHub:
    """The blank example with a workspace, a sign-in and an endpoint for prod."""
    repo = bake(example="blank")
    set_up(repo)
    hub = publish(repo)
    hub.signed_in = azure.environment
    settings = azure.settings
    hub.variables |= {
        "AZURE_CLIENT_ID": settings.client_id,
        "AZURE_TENANT_ID": settings.tenant,
        "SUBSCRIPTION_ID": settings.subscription,
        "RESOURCE_GROUP_NAME": settings.group,
        "WORKSPACE_NAME": settings.workspace,
    }
    hub.secrets["COMMON_DEV_CONNECTIONS"] = connections(model)
    return hub


def test_ci_without_azure_says_that_nothing_is_registered(blank: GitHub) -> None:
    run = checked(blank.run("ci.yml", PUSH), "success")
    assert run.conclusions["ci/register"] == run.conclusions["ci/deploy"] == "skipped"
    assert "::notice::Nothing is registered" in run.text
    summary = json.loads((blank.artefacts["1", "experiment"] / "reports/summary.json").read_text())
    assert (summary["env"], summary["gate"]["verdict"]) != ("dev", "fail")


def test_ci_registers_nothing_that_the_gate_fails(cloud: GitHub) -> None:
    edit(cloud.repo, PLAIN, WORSE)
    run = checked(cloud.run("ci.yml", replace(PUSH, ref="change")), "failure")
    assert run.outcomes("ci/experiment")["make experiment"] == "failure"
    assert run.conclusions["ci/register"] == "skipped"


def test_from_main_to_an_endpoint(cloud: GitHub, azure: LoopbackAzure) -> None:
    cloud.variables["DEPLOY_ENVIRONMENTS"] = "prod"
    run = checked(cloud.run("ci.yml", Event("push", ref="main")), "success")
    assert set(run.conclusions.values()) == {"success"}
    assert run.outcomes("ci/deploy/deploy")["make check-endpoint"] == "success"
    assert run.outcomes("ci/deploy/deploy")["make rollback"] == "skipped"
    endpoint = azure.get("onlineEndpoints/blank-in-prod")
    assert endpoint and endpoint["properties"]["traffic"] == {"blue": 100}

    # By hand, what that run registered goes to a second deployment, once the reviewers say yes.
    set_up(cloud.repo, PRIOR_DEPLOYMENT_NAME="blue", CURRENT_DEPLOYMENT_NAME="green")
    commit(cloud.repo)
    inputs = {"environment": "prod", "kind": "managed", "run": "1"}
    by_hand = Event("workflow_dispatch", inputs=inputs)
    cloud.environments["prod"] = Environment(approved=False)
    assert cloud.run("cd.yml", by_hand).conclusion == "waiting"
    assert azure.get("onlineEndpoints/blank-in-prod/deployments/green") is None

    # It answers when it is deployed, but not when it is checked: blue comes back, and it ends red.
    cloud.environments["prod"].approved = True
    azure.fail(500, method="POST", path="/score$", skip=TESTED, times=2)
    run = checked(cloud.run("cd.yml", by_hand), "failure")
    outcomes = run.outcomes("cd/deploy")
    assert outcomes["make deploy"] == "success", run.text
    assert outcomes["make check-endpoint"] == "failure", run.text
    assert outcomes["make rollback"] == "success", run.text
    endpoint = azure.get("onlineEndpoints/blank-in-prod")
    assert endpoint and endpoint["properties"]["traffic"] == {"blue": 100}


def test_the_stored_credentials_of_older_set_ups_sign_in_too(
    cloud: GitHub, azure: LoopbackAzure
) -> None:
    del cloud.variables["AZURE_CLIENT_ID"]
    assert "neither client-id nor creds" in checked(cloud.run("ci.yml", PUSH), "failure").text
    found = azure.settings
    secret = {"clientId": found.client_id, "clientSecret": KEY}
    secret |= {"tenantId": found.tenant, "subscriptionId": found.subscription}
    cloud.environments["dev"].secrets["AZURE_RBAC_CREDENTIALS"] = json.dumps(secret)
    run = checked(cloud.run("ci.yml", PUSH), "success")
    assert run.conclusions["ci/register"] == "success"
    assert run.conclusions["ci/deploy"] == "skipped", "DEPLOY_ENVIRONMENTS names none"


def test_post_production(bake: Bake, publish: Callable[..., GitHub]) -> None:
    hub = publish(bake())
    run = checked(hub.run("post_production.yml", Event("schedule")), "success")
    assert run.outcomes("monitor/monitor")["make monitor"] == "success"
    assert (hub.artefacts["1", "monitor"] / "monitor.json").exists()


def test_post_production_without_its_overlay(blank: GitHub) -> None:
    run = checked(blank.run("post_production.yml", Event("schedule")), "success")
    assert run.outcomes("monitor/monitor")["make monitor"] == "skipped"
    assert "::notice::Nothing is scored" in run.text


# --- several use cases in one repo ---------------------------------------------------------------


@pytest.fixture
def several(generate: Bake, tmp_path: Path) -> Path:
    """A repo that holds two use cases, one of them deeper."""
    root = tmp_path / "several"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    generate(root, project="one", example="blank")
    generate(root / "cases", project="two", example="blank")
    return root


def test_two_use_cases_in_one_repo(several: Path, publish: Callable[..., GitHub]) -> None:
    workflows = several / ".github" / "workflows"
    stages = ("pr", "ci", "cd", "post_production")
    own = {f"{name}-{stage}.yml" for name in ("one", "cases-two") for stage in stages}
    shared = {"llmops-pr.yml", "llmops-ci.yml", "llmops-cd.yml", "llmops-post-production.yml"}
    assert {path.name for path in workflows.iterdir()} == own | shared
    assert (
        not list(several.glob("**/one/.github")) and (several / ".github/dependabot.yml").exists()
    )
    second = [path for path in workflows.iterdir() if path.name.startswith("cases-two-")]
    assert sum(len(path.read_text().splitlines()) for path in second) <= 40

    changes = {
        "one/flows/x.py": {"one"},
        "cases/two/data/data.jsonl": {"cases-two"},
        "shared/words.py": {"one", "cases-two"},
        ".github/workflows/llmops-ci.yml": {"one", "cases-two"},
        "README.md": set(),
    }
    for path, wanted in changes.items():
        for stage in ("pr", "ci"):
            started = {
                name
                for name in ("one", "cases-two")
                if starts(load((workflows / f"{name}-{stage}.yml").read_text()), [path])
            }
            assert started == wanted, path
    hub = publish(several, "cases/two")
    run = checked(hub.run("cases-two-ci.yml", PUSH), "success")
    assert "::notice::Nothing is registered" in run.text
    git(several, "checkout", "--quiet", "-b", "change")
    run = checked(hub.run("cases-two-pr.yml", PR), "success")
    assert "no difference" in run.text


def test_a_use_case_leaves_what_is_there(several: Path, generate: Bake, capfd: Any) -> None:
    called = several / ".github" / "workflows" / "llmops-pr.yml"
    called.write_text(f"# ours\n{called.read_text()}")
    before = {path.name: path.read_text() for path in called.parent.iterdir()}
    generate(several, project="three", example="blank")
    after = {path.name: path.read_text() for path in called.parent.iterdir()}
    assert before.items() <= after.items() and len(after) == len(before) + 4
    told = capfd.readouterr().out
    assert "llmops-pr.yml differs from the template's; it was left as it is." in told


def test_a_folder_that_the_repo_ignores_keeps_its_workflows(several: Path, generate: Bake) -> None:
    before = sorted((several / ".github").rglob("*"))
    (several / ".gitignore").write_text("/demo/\n")
    demo = generate(several, project="demo", example="blank")
    assert (demo / ".github" / "workflows" / "pr.yml").exists()
    assert sorted((several / ".github").rglob("*")) == before


# --- the files -----------------------------------------------------------------------------------

ANSWERS = [{}, {"ci": "both"}, {"example": "blank", "python_version": "3.13", "licence": "none"}]


def tool(name: str, *arguments: str, cwd: Path) -> None:
    """Run a checker of requirements/test.txt."""
    command = [Path(sys.executable).with_name(name), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("answers", ANSWERS, ids=lambda answers: "-".join(answers.values()))
def test_no_finding(answers: dict[str, str], baked: Bake) -> None:
    check_files(baked(**answers))


def test_no_finding_with_several_use_cases(several: Path) -> None:
    check_files(several)


def check_files(repo: Path) -> None:
    """The auditor and the schemas."""
    tool("zizmor", "--offline", "--persona", "auditor", "--no-progress", ".github", cwd=repo)
    files = [str(path) for path in sorted((repo / ".github/workflows").iterdir())]
    schema = "--builtin-schema"
    tool("check-jsonschema", schema, "vendor.github-workflows", *files, cwd=repo)
    tool("check-jsonschema", schema, "vendor.dependabot", ".github/dependabot.yml", cwd=repo)


def test_the_size_of_the_workflows(baked: Bake) -> None:
    files = list((baked() / ".github" / "workflows").iterdir())
    assert sum(len(path.read_text().splitlines()) for path in files) <= 350


def test_one_version_of_each_action(baked: Bake) -> None:
    texts = [path.read_text() for path in (baked() / ".github" / "workflows").iterdir()]
    uses = re.findall(r"uses: ([^.\s]\S+)(.*)", "\n".join(texts))
    assert all(re.fullmatch(r" # v\d+\.\d+\.\d+", version) for _, version in uses)
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action, _ in uses)
    assert len(set(uses)) == len({action.split("@")[0] for action, _ in uses})


def test_ours_call_tasks_and_nothing_else(baked: Bake, bake: Bake) -> None:
    tasks = (baked() / "Makefile").read_text() + (baked() / "noxfile.py").read_text()
    for path in (baked() / ".github" / "workflows").iterdir():
        for command in re.findall(r"- run: (.*?)(?: #.*)?\n", path.read_text()):
            found = re.fullmatch(r'make ([a-z-]+)|echo "::notice::[^"]*"', command)
            assert found, command
            name = str(found[1]).replace("-", "_")
            assert found[1] is None or f"def {name}(" in tasks, command


# --- the runner itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("actions/cache@", "someone/other@", "no stand-in for someone/other"),
        ("@de0fac2e4500dabe0009e67214ff5f5447ce83dd", "@v6", "no stand-in for actions/checkout@v6"),
        (
            "contents: read # checkout\n      pull",
            "contents: write # x\n      pull",
            "granted read",
        ),
        ("make validate", 'echo "${{ github.base_ref }}"', "an expression inside of run"),
        ("!cancelled()", "never()", "never"),
    ],
)
def test_what_the_runner_does_not_know_fails(
    before: str, after: str, message: str, blank: GitHub
) -> None:
    path = blank.repo / ".github" / "workflows" / "llmops-pr.yml"
    assert before in path.read_text()
    edit(blank.repo, str(path), path.read_text().replace(before, after))
    blank.taken_for_granted |= {"make validate", "make compare"}
    with pytest.raises((AssertionError, KeyError), match=message):
        blank.run("pr.yml", PR)
