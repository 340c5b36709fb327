"""`.azure-pipelines/` of a generated repo: its form, and each pipeline run to its end.

The pipelines run as they are, in a clone of the repo as a pull request or a push leaves it, on this
machine (`azure_pipelines.py`), against the emulated Azure and a stand-in for the model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from azure_agent import Secret, Service, Variables
from azure_expressions import UnknownError, evaluate, expand
from azure_pipelines import Run
from conftest import PASSED_ON, ROOT, Bake
from conftest import Run as Command
from loopback_azure import LoopbackAzure
from loopback_forge import BOT, PROJECT, REPOSITORY, Forge
from standin import StandIn

from hooks.post_gen_project import place_pipelines

Json = dict[str, Any]
FOLDER = ".azure-pipelines"
PIPELINES = ("pr", "ci", "cd", "post_production")
EXAMPLE = "named_entity_recognition"
KEY = "a-key-of-the-model-that-nobody-may-see"
TRUSTED = {"issuer": "https://vstoken.dev.azure.com/4c5", "subject": "sc://org/project/azure-dev"}
BRANCHES = "branches: {include: [development, main, release/*]}"
RIDDLES = "Answer in riddles."

# What the template's other tests run in each generated repo; lint takes longest of all.
ELSEWHERE = {"lint", "test"}

pytestmark = pytest.mark.slow

AZ = """#!{python}
import json, os, pathlib, sys, time, urllib.parse, urllib.request
assert sys.argv[1:3] == ["account", "get-access-token"], sys.argv
session = json.loads(pathlib.Path(os.environ["AZURE_CONFIG_DIR"], "session.json").read_text())
form = session["form"] | {{"scope": sys.argv[sys.argv.index("--resource") + 1] + "/.default"}}
data = urllib.parse.urlencode(form).encode()
with urllib.request.urlopen(session["url"], data) as answer:
    token = json.load(answer)["access_token"]
print(json.dumps({{"accessToken": token, "expires_on": int(time.time()) + 3600}}))
"""


# --- the project in Azure DevOps


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure(federated=[TRUSTED]) as azure:
        yield azure
        assert azure.refused == []


@pytest.fixture(scope="module")
def session(azure: LoopbackAzure, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What AzureCLI@2 leaves for what it runs: az, signed in by workload identity federation."""
    folder = tmp_path_factory.mktemp("session")
    program = folder / "az"
    program.write_text(AZ.format(python=sys.executable))
    program.chmod(0o755)
    claims = {"iss": TRUSTED["issuer"], "sub": TRUSTED["subject"]}
    claims |= {"aud": "api://AzureADTokenExchange"}
    form = {
        "grant_type": "client_credentials",
        "client_id": azure.settings.client_id,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt.encode(claims, "of Azure DevOps, 32 bytes or more", "HS256"),
    }
    url = f"https://login.microsoftonline.com/{azure.settings.tenant}/oauth2/v2.0/token"
    (folder / "session.json").write_text(json.dumps({"url": url, "form": form}))
    own = {n: v for n, v in azure.environment.items() if not n.startswith("AZURE_")}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {**own, "AZURE_CONFIG_DIR": str(folder), "PATH": path}


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    lines = (ROOT / "tests" / "answers" / f"{EXAMPLE}.jsonl").read_text().splitlines()
    riddle = {"when": [RIDDLES], "answer": "Who walks on four legs in the morning?"}
    with StandIn(answers=[riddle, *map(json.loads, lines)]) as model:
        yield model


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    return clean | {"HOME": str(tmp_path_factory.mktemp("agent"))}


@pytest.fixture(scope="module")
def venv(environment: Path, baked: Bake, run: Command, tmp_path_factory: Any) -> Path:
    """The prepared .venv with the packages for Azure in it."""
    repo = shutil.copytree(baked(), tmp_path_factory.mktemp("azure") / "repo")
    (repo / ".venv").symlink_to(environment)
    os.utime(environment / "bin" / "nox")
    assert "ENDPOINT_NAME" in run(repo, "make", "check-endpoint").stderr
    return environment


@pytest.fixture(scope="module")
def original(baked: Bake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated repo with one commit on main, and an endpoint for the environment dev."""
    repo = shutil.copytree(
        baked(ci="azure_devops"), tmp_path_factory.mktemp("repo") / "my-use-case"
    )
    fill_in(repo)
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "as generated")
    return repo


@pytest.fixture
def service(
    original: Path, venv: Path, agent: Json, azure: LoopbackAzure, session: Json,
    model: StandIn, tmp_path: Path,
) -> Service:  # fmt: skip
    """The project: the repo, a variable group for each environment, a service connection."""
    origin = tmp_path / "origin"
    subprocess.run(["git", "clone", "--quiet", "--bare", original, origin], check=True)
    settings = azure.settings
    connection = {"name": "aoai", "type": "azure_open_ai", "api_key": KEY, "api_base": model.url}
    group = {
        "AZURE_RM_SVC_CONNECTION": "azure-dev",
        "SUBSCRIPTION_ID": settings.subscription,
        "RESOURCE_GROUP_NAME": settings.group,
        "WORKSPACE_NAME": settings.workspace,
        "COMMON_DEV_CONNECTIONS": Secret(json.dumps([connection])),
        "DOCKER_IMAGE_REGISTRY": Secret("[]"),
    }
    azure.forget()
    return Service(
        origin, tmp_path / "artifacts", agent, venv,
        groups={"mlops_platform_dev_vg": group, "mlops_platform_prod_vg": dict(group)},
        connections={"azure-dev": session}, environments={"dev"},
    )  # fmt: skip


def fill_in(repo: Path, **keys: Any) -> None:
    """Name the endpoint of the environment dev."""
    path = repo / "configs" / "deployment_config.json"
    config = json.loads(path.read_text())
    config["azure_managed_endpoint"][0] |= {"ENDPOINT_NAME": "entities", **keys}
    path.write_text(json.dumps(config, indent=2))


def git(repo: Path, *command: str) -> str:
    own = ("-c", "user.name=Someone", "-c", "user.email=someone@example.com")
    done = subprocess.run(
        ["git", *own, *command], cwd=repo, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def change(service: Service, tmp_path: Path) -> Callable[..., None]:
    """change(edit, ref): push what `edit` does to a clone of main to a ref."""

    def change(edit: Callable[[Path], object], ref: str = "refs/heads/main") -> None:
        clone = tmp_path / "clone"
        shutil.rmtree(clone, ignore_errors=True)
        git(tmp_path, "clone", "--quiet", str(service.origin), "clone")
        edit(clone)
        git(clone, "add", "--all")
        git(clone, "commit", "--quiet", "--message", "a change")
        git(clone, "push", "--quiet", "origin", f"HEAD:{ref}")

    return change


def prompt(text: str, which: str = "*") -> Callable[[Path], None]:
    """An edit of the prompts of all variants, or of one."""

    def edit(repo: Path) -> None:
        for path in (repo / "flows" / "standard").glob(f"{which}.jinja2"):
            path.write_text(path.read_text().replace("# system:\n", f"# system:\n{text}\n"))

    return edit


@pytest.fixture
def start(service: Service, tmp_path: Path) -> Callable[..., Run]:
    """start(pipeline, …): run it to its end; what it says holds no secret."""
    count = iter(range(99))

    def start(pipeline: str, *, folder: str = ".", without: set[str] = set(), **more: Any) -> Run:  # noqa: B006
        place = tmp_path / f"run-{next(count)}"
        place.mkdir()
        file = f"{folder}/{FOLDER}/{pipeline}.yml"
        name = f"my-use-case-{pipeline}"
        run = Run(service, name, file, place, without=without, **more).go()
        assert KEY not in run.said
        print(run.said)
        return run

    return start


# --- their form


def read(path: Path) -> Json:
    """A file as Azure reads it: every value is a text."""
    found: Json = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    return found


@pytest.fixture(scope="module")
def files(baked: Bake) -> dict[str, Json]:
    folder = baked(ci="azure_devops") / FOLDER
    return {str(p.relative_to(folder)): read(p) for p in sorted(folder.rglob("*.yml"))}


def parts(node: Any) -> Iterator[Json]:
    """All objects within a document."""
    if isinstance(node, dict):
        yield node
    for one in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from parts(one)


def test_the_schema(baked: Bake, tmp_path: Path) -> None:
    own = str(Path(sys.executable).parent)
    checker = shutil.which("check-jsonschema", path=f"{own}{os.pathsep}{os.environ['PATH']}")
    if checker is None:
        pytest.skip("check-jsonschema is not installed")
    for answers in ({"ci": "azure_devops"}, {"ci": "both", "python_version": "3.13"}):
        found = [baked(**answers) / FOLDER / f"{name}.yml" for name in PIPELINES]
        for path in found:
            (tmp_path / f"{path.stem}.json").write_text(json.dumps(read(path)))
        options = ("--builtin-schema=vendor.azure-pipelines", "--regex-variant=nonunicode")
        more = ("--data-transform=azure-pipelines", *sorted(tmp_path.glob("*.json")))
        done = subprocess.run([checker, *options, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_scripts_call_one_task(files: dict[str, Json], baked: Bake) -> None:
    """No logic: a task, or one of the two lines that pass something on."""
    tasks = set(re.findall(r"^def (\w+)\(session", (baked() / "noxfile.py").read_text(), re.M))
    uses = [one for f in files.values() for one in parts(f) if "task" in one.get("template", "")]
    used = {use["parameters"]["task"] for use in uses}
    assert {name.replace("-", "_") for name in used} <= tasks
    scripts = {one["bash"] for f in files.values() for one in parts(f) if "bash" in one}
    assert scripts == {
        "make ${{ parameters.task }}",
        'mv "$PIPELINE_WORKSPACE/ci/report" reports',
        'echo "##vso[task.setvariable variable=deployed]true"',
    }


def test_secrets_are_mapped_and_nothing_else(files: dict[str, Json]) -> None:
    secret = re.compile(r"\$\((COMMON_DEV_CONNECTIONS|DOCKER_IMAGE_REGISTRY|System\.AccessToken)\)")
    for name, file in files.items():
        steps = [one["env"] for one in parts(file) if isinstance(one.get("env"), dict)]
        mapped = [text for env in steps for text in env.values() if secret.search(str(text))]
        every = [text for one in parts(file) for text in one.values() if isinstance(text, str)]
        assert [text for text in every if secret.search(text)] == mapped, name


def test_jobs_end_and_checkouts_leave_no_token(files: dict[str, Json]) -> None:
    jobs = [job for name in PIPELINES for job in files[f"{name}.yml"]["jobs"]]
    assert all(0 < int(job["timeoutInMinutes"]) <= 120 for job in jobs)
    checkouts = [one for f in files.values() for one in parts(f) if "checkout" in one]
    assert checkouts and all(one["persistCredentials"] == "false" for one in checkouts)


def test_they_are_short(files: dict[str, Json], baked: Bake) -> None:
    folder = baked(ci="azure_devops") / FOLDER
    assert sum(len((folder / name).read_text().splitlines()) for name in files) <= 350


# --- pull requests


@pytest.fixture
def forge() -> Iterator[Forge]:
    with Forge() as forge:
        yield forge


@pytest.fixture
def check(start: Callable[..., Run], forge: Forge) -> Callable[..., Run]:
    """check(target, …): run `pr` for pull request 7 of a repository in Azure Repos."""

    def check(target: str = "refs/heads/main", **more: Any) -> Run:
        predefined = {
            "Build.Reason": "PullRequest",
            "Build.Repository.ID": REPOSITORY,
            "System.AccessToken": Secret("secret-of-the-bot"),
            "System.CollectionUri": f"{forge.url}/org/",
            "System.PullRequest.PullRequestId": "7",
            "System.PullRequest.TargetBranch": target,
            "System.TeamProject": PROJECT,
        }
        return start("pr", branch="refs/pull/7/merge", predefined=predefined, **more)

    return check


def test_a_better_prompt(
    change: Callable[..., None], check: Callable[..., Run], forge: Forge
) -> None:
    """The whole pipeline, but for lint."""
    change(prompt(RIDDLES))
    change(lambda repo: git(repo, "revert", "--no-commit", "HEAD"), "refs/pull/7/merge")
    run = check(without={"lint"})
    assert run.green, run.said
    assert re.search(r"default against origin/main \(\w{7}\) on ner_pr: f1 rose by", run.said)
    (comment,) = forge.of(BOT)
    assert "Gate passed" in comment and "better" in comment.lower()
    assert any("Gate passed" in tab for tab in run.summaries)
    kept = run.service.artifacts / "my-use-case-pr" / "report"
    assert (kept / "summary.json").exists() and (kept / "index.html").exists()


def test_a_worse_prompt(
    change: Callable[..., None], check: Callable[..., Run], forge: Forge
) -> None:
    change(prompt(RIDDLES), "refs/pull/7/merge")
    run = check("main", without=ELSEWHERE)
    assert not run.green and run.outcome("make compare") == "failed", run.said
    assert re.search(r"f1 fell by", run.said)
    assert "Gate failed" in forge.of(BOT)[0]
    assert run.outcome("make comment") == "succeeded"
    assert run.outcome("keep the report") == "skipped"
    assert (run.service.artifacts / "my-use-case-pr" / "report-failed-1" / "summary.md").exists()


def test_a_pull_request_of_a_fork(
    service: Service, change: Callable[..., None], check: Callable[..., Run]
) -> None:
    """No secret: the answers are recorded ones, and the verdict says so."""
    for group in service.groups.values():
        for name in [name for name, value in group.items() if isinstance(value, Secret)]:
            del group[name]
    change(lambda repo: (repo / "README.md").write_text("New words.\n"), "refs/pull/7/merge")
    run = check(without=ELSEWHERE)
    assert run.green, run.said
    kept = service.artifacts / "my-use-case-pr" / "report" / "summary.json"
    summary = json.loads(kept.read_text())
    assert summary["llm"]["mode"] == "replay"
    assert summary["gate"]["verdict"] == "pass"


def test_a_new_prompt_of_a_fork(
    service: Service, change: Callable[..., None], check: Callable[..., Run]
) -> None:
    """There is no recording of it: the report says so, and how to make one."""
    for group in service.groups.values():
        del group["COMMON_DEV_CONNECTIONS"]
    change(prompt("Answer well.", "ner_terse"), "refs/pull/7/merge")
    run = check(without=ELSEWHERE)
    assert "make record" in run.said, run.said
    (kept,) = (service.artifacts / "my-use-case-pr").iterdir()
    assert run.outcome("make comment") == "succeeded", run.said
    summary = json.loads((kept / "summary.json").read_text())
    assert summary["llm"]["mode"] == "replay" and summary["gate"]["verdict"] != "pass"


def test_a_use_case_in_a_folder_of_its_repo(
    change: Callable[..., None], start: Callable[..., Run]
) -> None:
    """As the hook leaves them: path filters and folder are those of the use case."""
    change(lambda repo: moved(repo, "cases/entities"))
    run = start("pr", folder="cases/entities", without=ELSEWHERE)
    assert run.green, run.said
    assert run.document["pr"]["paths"] == {"include": ["cases/entities", "shared"]}
    assert "against origin/main" in run.said


def moved(repo: Path, folder: str) -> None:
    """Put the use case into a folder of its repo, as the hook does."""
    (repo / folder).mkdir(parents=True)
    for path in [path for path in repo.iterdir() if path.name not in (".git", "cases")]:
        path.rename(repo / folder / path.name)
    with chdir(repo / folder):
        place_pipelines(Path(folder))


# --- after the merge


def test_from_push_to_endpoint_and_back(
    service: Service, change: Callable[..., None], start: Callable[..., Run], azure: LoopbackAzure
) -> None:
    def approval(repo: Path) -> None:
        with (repo / "experiment.yaml").open("a") as file:
            file.write("\napproval: required\n")

    change(approval, "refs/heads/development")
    branch: Json = {"branch": "refs/heads/development"}
    ci = start("ci", **branch)
    assert ci.green, ci.said
    assert azure.get(f"models/{EXAMPLE}/versions/1")

    cd = start("cd", **branch)
    assert cd.green, cd.said
    assert cd.outcome("make rollback") == "skipped"
    assert traffic(azure) == {"blue": 100}
    approved = service.artifacts / "my-use-case-cd" / "deployment-1" / "approval.json"
    assert json.loads(approved.read_text())["how"] == "azure pipelines environment dev"

    def green(repo: Path) -> None:
        approval(repo)
        keys = {"PRIOR_DEPLOYMENT_NAME": "blue", "PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION": 0}
        fill_in(repo, CURRENT_DEPLOYMENT_NAME="green", **keys)

    change(green, "refs/heads/development-2")
    git(service.origin, "branch", "--force", "development", "development-2")
    checks = {
        "make check-endpoint": lambda: azure.fail(500, path="/score", times=99),
        "make rollback": azure.forget,
    }
    cd = start("cd", parameters={"ENV": "dev", "KIND": "managed"}, before=checks, **branch)
    outcomes = {s.name: s.outcome for s in cd.steps if s.name.startswith("make")}
    assert outcomes["make deploy"] == "succeeded", cd.said
    assert outcomes["make check-endpoint"] == "failed", cd.said
    assert outcomes["make rollback"] == "succeeded", cd.said
    assert traffic(azure)["blue"] == 100 and not cd.green


def traffic(azure: LoopbackAzure) -> dict[str, int]:
    """The endpoint's split as Azure has it."""
    found = azure.get("onlineEndpoints/entities")
    assert found
    split: dict[str, int] = found["properties"]["traffic"]
    return split


def test_what_the_gate_fails_is_not_registered(
    service: Service, change: Callable[..., None], start: Callable[..., Run], azure: LoopbackAzure
) -> None:
    change(prompt(RIDDLES), "refs/heads/development")
    run = start("ci", branch="refs/heads/development")
    assert run.outcome("make experiment") == "failed", run.said
    assert run.outcome("make register") == "skipped" and azure.log == []
    assert (service.artifacts / "my-use-case-ci" / "report-failed-1" / "index.html").exists()
    with pytest.raises(UnknownError, match="did not say yes"):
        start("cd", parameters={"ENV": "prod"})
    refused = start("cd", parameters={"ENV": "dev"})
    assert refused.outcome("what ci registered") == "failed"
    assert refused.outcome("make rollback") == "skipped", refused.said


def test_main_is_production(start: Callable[..., Run]) -> None:
    run = start("ci", without={"validate", "experiment", "gate", "register", "comment"})
    assert run.variables.environment["ENV"] == "prod"


def test_post_production(service: Service, start: Callable[..., Run]) -> None:
    report = service.artifacts / "my-use-case-ci" / "report"
    report.mkdir(parents=True)
    run = start("post_production")
    assert run.green, run.said
    kept = service.artifacts / "my-use-case-post_production" / "monitor-1" / "monitor.json"
    assert json.loads(kept.read_text())


# --- the runner itself


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("and(failed(), eq(variables.deployed, 'TRUE'))", True),
        ("or(succeeded(), not(variables['deployed']))", False),
        ("coalesce(variables['nothing'], 'it''s')", "it's"),
        ("replace('refs/heads/main', 'refs/heads/', '')", "main"),
        ("format('{0}-{1}', 'a', variables.deployed)", "a-true"),
    ],
)
def test_expressions(expression: str, value: Any) -> None:
    scope = {
        "variables": Variables({"deployed": "true"}),
        "failed": lambda: True,
        "succeeded": lambda: False,
    }
    assert evaluate(expression, scope) == value


@pytest.mark.parametrize("expression", ["unknown(1)", "eq('a', 'b'", "other.thing", "'a' 'b'", "*"])
def test_unknown_expressions_fail(expression: str) -> None:
    with pytest.raises(UnknownError):
        evaluate(expression, {"variables": Variables()})


def test_branches_of_a_template() -> None:
    node = {"${{ if eq(parameters.a, 'x') }}": {"b": "1"}, "${{ else }}": {"b": "2"}}
    assert expand(node, {"parameters": {"a": "x"}}) == {"b": "1"}
    assert expand([node], {"parameters": {"a": "y"}}) == [{"b": "2"}]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("task: Unknown@1", "unknown task Unknown@1"),
        ("task: Cache@2\n        inputs: {other: x}", "unknown key"),
        ("checkout: self", "leaves its token behind"),
        ("bash: echo $(COMMON_DEV_CONNECTIONS)", "a secret would be in a process's arguments"),
        ('bash: echo "##vso[task.other]x"', "unknown command to the agent"),
    ],
)
def test_what_it_does_not_know_fails(
    step: str, reason: str, change: Callable[..., None], start: Callable[..., Run]
) -> None:
    change(
        lambda repo: (repo / FOLDER / "pr.yml").write_text(
            "variables:\n  - group: mlops_platform_dev_vg\n"
            "jobs:\n  - job: x\n    timeoutInMinutes: 1\n    steps:\n"
            "      - bash: mkdir -p $(Build.SourcesDirectory)\n        workingDirectory: /\n"
            f"      - {step}\n"
        )
    )
    with pytest.raises(UnknownError, match=reason):
        start("pr")
