"""`make register` against the emulated Azure: what is made, what is refused, what faults leave.

Each run is a child process. Importing azure-ai-ml takes seconds, so most are forked from one that
has it already; the script is the same.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import Forks
from llmops import flows, package, registration
from llmops.azure import assets as azure_assets
from llmops.azure import workspace
from llmops.errors import UserError
from llmops.files import parse_yaml
from llmops.plan import Variant
from llmops.settings import Settings
from loopback_azure import LoopbackAzure
from usecase import Outcome, UseCase, example

MODEL, DATA = "named_entity_recognition", ("ner_training", "ner_test")
PROMPT, TOLD = "flows/standard/ner_terse.jinja2", "Separate them with commas."
WRONG = "99999999-9999-9999-9999-999999999999"
PROBED = "169.254.169.254"  # an identity of the machine is asked for there when none is given
Json = dict[str, Any]

Register = Callable[..., Outcome]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The example after its experiment."""
    use = example(tmp_path_factory.mktemp("ran"))
    outcome = use.run("experiment")
    assert outcome.code == 0, outcome.text
    return use


@pytest.fixture
def use(ran: UseCase, tmp_path: Path) -> UseCase:
    """A copy of it that the test may change."""
    use = UseCase(tmp_path)
    shutil.rmtree(use.folder)
    shutil.copytree(ran.folder, use.folder)
    return use


@pytest.fixture
def here(use: UseCase, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """The use case as the folder of this very process."""
    monkeypatch.chdir(use.folder)
    return use


@pytest.fixture
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as azure:
        yield azure
        assert set(azure.refused) <= {PROBED}


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks(["azure.ai.ml", "azure.identity", "azure.ai.ml.entities"]) as forks:
        yield forks


def variables(azure: LoopbackAzure, **more: str) -> dict[str, str]:
    """The environment that leads a register to the emulator; empty variables are left out."""
    names = {
        "SUBSCRIPTION_ID": azure.settings.subscription,
        "RESOURCE_GROUP_NAME": azure.settings.group,
        "WORKSPACE_NAME": azure.settings.workspace,
    }
    return {name: value for name, value in {**azure.environment, **names, **more}.items() if value}


@pytest.fixture
def go(use: UseCase, azure: LoopbackAzure, forks: Forks) -> Register:
    """go(**variables): register once."""
    return lambda **more: forks.run("register", use, variables(azure, **more))


def versions(azure: LoopbackAzure) -> dict[str, list[str]]:
    """The versions of each asset in the workspace."""
    found: dict[str, list[str]] = {}
    for identity in azure.state:
        *_, kind, name, what, version = identity.split("/")
        if what == "versions":
            found.setdefault(f"{kind}/{name}", []).append(version)
    return found


def once(model: str = "1") -> dict[str, list[str]]:
    """What stands in the workspace after the example was registered."""
    numbers = [str(number + 1) for number in range(int(model))]
    return {**{f"data/{name}": ["1"] for name in DATA}, f"models/{MODEL}": numbers}


def tags(azure: LoopbackAzure, version: str = "1") -> dict[str, str]:
    found = azure.get(f"models/{MODEL}/versions/{version}")
    assert found
    return dict(found["properties"]["tags"])


def manifest(use: UseCase) -> Json:
    return dict(json.loads((use.folder / registration.REGISTRATION).read_text()))


def gate(use: UseCase, least: float | None) -> None:
    """Judge the figures by another limit of f1; null: by none."""
    path = use.folder / "experiment.yaml"
    document = parse_yaml(path.read_text())
    check = {"evaluator": "evaluation", "metric": "f1", "min": least}
    document["gate"] = None if least is None else {"checks": [check]}
    path.write_text(json.dumps(document))
    assert use.run("gate").code in (0, 2)


def test_a_secret_that_is_not_set_reaches_a_task_as_an_empty_variable(
    azure: LoopbackAzure, use: UseCase, forks: Forks
) -> None:
    given = variables(azure)
    forks.run("register", use, given | {"AZURE_CLIENT_SECRET": ""}).refused("no credentials")
    empty = dict.fromkeys(("AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_USERNAME"), "")
    assert forks.run("register", use, given | empty).code == 0


# --- what is made


def test_the_first_run_creates_and_the_second_creates_nothing(
    use: UseCase, azure: LoopbackAzure
) -> None:
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "one")):
        subprocess.run((*git, *command), cwd=use.folder, check=True)
    secret = "sk-0123456789-never-written"
    more = {"AOAI_API_KEY": secret, "AOAI_API_BASE": "https://a.example.org", "GITHUB_RUN_ID": "77"}
    first = use.run("register", **variables(azure, **more))
    assert first.code == 0 and not first.err.strip(), first.text
    assert versions(azure) == once()
    assert sum(call["method"] == "PUT" for call in azure.log) == 11
    noted = manifest(use)
    head = subprocess.check_output((*git, "rev-parse", "HEAD"), cwd=use.folder, text=True).strip()
    assert noted["model"]["created"] and noted["commit"] == head
    assert tags(azure) == {
        "content_hash": noted["model"]["content_hash"],
        "commit": head,
        "build": "77",
        "experiment": MODEL,
        "flow": "flow.dag.yaml",
        "variant": "default",
        "llm": "replay",
        "gate": "pass",
        **{name: f"{value:.6g}" for name, value in noted["metrics"].items()},
    }
    data = azure.get("data/ner_test/versions/1")
    assert data and data["properties"]["description"].startswith("The same texts")

    azure.forget()
    begin = time.monotonic()
    second = use.run("register", **variables(azure, **more))
    wall = time.monotonic() - begin
    assert second.code == 0 and second.out.count("unchanged") == 3, second.text
    assert versions(azure) == once()
    assert not any(call["method"] == "PUT" for call in azure.log)
    assert manifest(use)["commit"] == f"{head}-dirty"  # the first manifest is not ignored here
    assert not any(a["created"] for a in (manifest(use)["model"], *manifest(use)["data"]))
    for word in (secret, azure.settings.client_secret):
        assert word not in (use.folder / registration.REGISTRATION).read_text() + second.text
    begin = time.monotonic()
    imported = "import azure.ai.ml.entities, azure.identity"
    subprocess.run([sys.executable, "-c", imported], check=True)
    print(f"register: {wall:.2f} s, less SDK import {wall - (time.monotonic() - begin):.2f} s")
    assert azure.refused == []


def test_a_changed_prompt_is_refused_until_it_ran_and_is_a_new_version(
    use: UseCase, azure: LoopbackAzure, go: Register
) -> None:
    assert go().code == 0
    for path in (PROMPT, "recordings/written_by_hand.jsonl"):
        text = (use.folder / path).read_text()
        use.write(path, text.replace(TOLD, "Put commas between them."))
    go().refused("flows/standard", "changed since", PROMPT, "Run `make experiment` first.")
    assert versions(azure) == once()
    assert use.run("experiment").code == 0
    outcome = go()
    assert outcome.code == 0, outcome.text
    assert versions(azure) == once(model="2")
    assert manifest(use)["model"]["version"] == "2"


def test_line_endings_and_another_variants_prompt_change_nothing(
    use: UseCase, azure: LoopbackAzure, go: Register
) -> None:
    assert go().code == 0
    for path in (*use.folder.glob("flows/standard/*.*"), *use.folder.glob("data/*.*")):
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    use.write("flows/standard/ner_rules.jinja2", "# system:\nother\n")
    outcome = go()
    assert outcome.out.count("unchanged") == 3, outcome.text
    assert versions(azure) == once()


def test_what_is_uploaded_is_the_chosen_variant_alone(
    use: UseCase, azure: LoopbackAzure, go: Register
) -> None:
    assert go(VARIANTS="NER_LLM.variant_1").code == 0
    assert manifest(use)["variant"] == tags(azure)["variant"] == "NER_LLM.variant_1"
    put = {e["path"].split("/")[-1] for e in azure.log if e["method"] == "PUT" and not e["comp"]}
    assert {"flow.dag.yaml", "cleansing.py", "ner_rules.jinja2"} <= put
    assert not {"ner_terse.jinja2", "requests.txt"} & put


# --- the gate


def test_the_gate_is_obeyed_unless_a_reason_is_given(
    use: UseCase, azure: LoopbackAzure, go: Register
) -> None:
    gate(use, 0.8)
    go().refused("gate: fail", "'default'", "FORCE")
    go(FORCE="1").refused("FORCE: '1' is no reason")
    go(VARIANTS="default").refused("gate: fail")
    assert versions(azure) == {}
    outcome = go(FORCE="the customer asked for it")
    assert outcome.code == 0 and "forced: the customer asked for it" in outcome.out, outcome.text
    assert tags(azure)["forced"] == manifest(use)["forced"] == "the customer asked for it"
    assert tags(azure)["gate"] == manifest(use)["gate"] == "fail"
    assert go(VARIANTS="NER_LLM.variant_1").code == 0  # its own checks passed
    assert tags(azure, "2")["gate"] == "pass" and "forced" not in tags(azure, "2")


def test_a_version_that_is_there_says_what_the_gate_says_now(
    use: UseCase, azure: LoopbackAzure, go: Register
) -> None:
    gate(use, 0.8)
    assert go(FORCE="we try it").code == 0
    gate(use, None)
    outcome = go()
    assert outcome.code == 0 and "gate: off" in outcome.out, outcome.text
    assert versions(azure) == once()
    assert tags(azure)["gate"] == "off" and "forced" not in tags(azure)
    assert tags(azure)["evaluation.f1"] == "0.72415"


def refusal(**settings: Any) -> str:
    with pytest.raises(UserError) as refused:
        registration.candidate(Settings(**settings))
    return str(refused.value)


def test_what_cannot_be_registered(here: UseCase) -> None:
    assert "expected one of default; NER_LLM.variant_1" in refusal(variants=("other",))
    assert "last experiment was one of 'dev'" in refusal(env="prod")
    path, summary = here.folder / "reports" / "summary.json", here.summary
    assert summary
    summary["runs"][0]["failed"] = 2
    path.write_text(json.dumps(summary))
    assert "2 of 42 rows of 'ner_training' failed" in refusal(force="a reason")
    assert registration.candidate(Settings(variants=("NER_LLM.variant_1",))).verdict == "pass"
    summary["runs"][0]["failed"], summary["gate"]["verdict"] = 0, "inconclusive"
    path.write_text(json.dumps(summary))
    found = registration.candidate(Settings())
    assert (found.verdict, found.forced) == ("inconclusive", ""), "on_inconclusive: warn"
    summary["gate"]["on_inconclusive"] = "fail"
    path.write_text(json.dumps(summary))
    assert "gate: inconclusive" in refusal()
    assert registration.candidate(Settings(force="a reason")).forced == "a reason"
    path.unlink()
    assert "Run `make experiment` first" in refusal()


def test_tags_stay_within_the_limits(here: UseCase) -> None:
    found = registration.candidate(Settings())
    score = next(s for s in found.summary.scores if s.metric == "f1" and s.variant == "default")
    scores = [score.model_copy(update={"metric": f"metric_{number}"}) for number in range(20)]
    summary = found.summary.model_copy(update={"scores": (*scores, score)})
    many = dataclasses.replace(found, summary=summary, verdict="fail", forced="because " * 99)
    made = registration.tags(many, "0" * 64, {"BUILD_BUILDID": "7"})
    assert len(made) == 15 and max(map(len, made.values())) == 256
    assert made["evaluation.f1"] == "0.72415" and made["forced"].startswith("because")


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("data/data.jsonl", "street lamps", "street lights"),
        ("data/eval_data.jsonl", "roughly 75 crowns", "75 crowns"),
        ("flows/evaluation/match.py", "def ", "# new\ndef "),
        ("flows/standard/cleansing.py", "def ", "# new\ndef "),
        ("recordings/written_by_hand.jsonl", "roughly 75 crowns", "75 crowns"),
    ],
)
def test_what_changed_since_the_experiment_is_named(
    here: UseCase, path: str, before: str, after: str
) -> None:
    text = (here.folder / path).read_text()
    assert before in text
    here.write(path, text.replace(before, after))
    told = refusal()
    assert f"edited since: {path})" in told and "Run `make experiment` first." in told


@pytest.mark.parametrize("name", ["named entities", "-ner", "x" * 256])
def test_names_that_azure_does_not_take(here: UseCase, name: str) -> None:
    path = here.folder / "reports" / "summary.json"
    path.write_text(path.read_text().replace(f'"experiment": "{MODEL}"', f'"experiment": "{name}"'))
    assert "cannot be an asset" in refusal()


# --- faults: a message, and a state that a second run repairs


def test_the_workspace_is_not_named(use: UseCase, azure: LoopbackAzure, go: Register) -> None:
    go(WORKSPACE_NAME="", SUBSCRIPTION_ID="").refused("SUBSCRIPTION_ID, WORKSPACE_NAME: unset")
    assert azure.log == []


def test_nothing_of_azure_is_imported_for_a_refusal(use: UseCase) -> None:
    (use.folder / "reports" / "summary.json").unlink()
    begin = time.monotonic()
    use.run("register", PYTHONPROFILEIMPORTTIME="1").refused("Run `make experiment` first")
    assert "azure.core" not in use.run("register", PYTHONPROFILEIMPORTTIME="1").err
    print(f"refused twice within {time.monotonic() - begin:.2f} s")


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (
            {"AZURE_CLIENT_ID": "", "AZURE_CLIENT_SECRET": "", "AZURE_TENANT_ID": ""},
            ("no credentials", "AZURE_CLIENT_ID", "az login"),
        ),
        ({"AZURE_TENANT_ID": WRONG}, ("sign-in to Azure was refused", "tenant", WRONG)),
        ({"AZURE_CLIENT_SECRET": "wrong"}, ("AADSTS7000215", "AZURE_CLIENT_SECRET")),
        ({"WORKSPACE_NAME": "mlw-nowhere"}, ("mlw-nowhere", "not found", "WORKSPACE_NAME")),
    ],
)
def test_sign_in_and_place(
    azure: LoopbackAzure, go: Register, wrong: dict[str, str], parts: tuple[str, ...]
) -> None:
    go(**wrong).refused(*parts)
    assert versions(azure) == {}
    assert go().code == 0 and versions(azure) == once()


@pytest.mark.parametrize(
    ("fault", "parts", "left"),
    [
        ({"status": 403, "path": "/data/", "method": "PUT"}, ("AzureML Data Scientist",), 0),
        ({"status": 409, "path": "/models/", "method": "PUT"}, ("taken", "again"), 2),
        ({"status": 429, "path": "/data/", "retry_after": 0.1}, ("limits requests",), 0),
        ({"status": 500, "path": "/models/", "method": "PUT"}, ("Azure failed (500)",), 2),
        (
            {"status": 403, "path": "LocalUpload/[^/]+/named_entity.*j", "method": "PUT"},
            ("AzureML Data Scientist",),
            2,
        ),
        ({"status": 0, "path": "/data/"}, ("did not answer",), 0),
    ],
    ids=["403", "409", "429", "500", "upload", "dropped"],
)
def test_a_fault_that_stays(
    use: UseCase,
    azure: LoopbackAzure,
    go: Register,
    fault: Json,
    parts: tuple[str, ...],
    left: int,
) -> None:
    azure.fail(times=99, **fault)
    go().refused(*parts)
    assert len(versions(azure)) == left and not (use.folder / registration.REGISTRATION).exists()
    azure.forget()
    assert go().code == 0 and versions(azure) == once()


def test_faults_that_pass(azure: LoopbackAzure, go: Register) -> None:
    azure.fail(429, path="/data/", retry_after=0.1)
    azure.fail(409, path="/models/", method="PUT")
    azure.fail(500, path="workspaces/[^/]+$")
    azure.drop(path="/datastores/[^/]+$")
    outcome = go()
    assert outcome.code == 0 and not outcome.err.strip(), outcome.text
    assert versions(azure) == once()


def test_two_at_once_register_once(use: UseCase, azure: LoopbackAzure) -> None:
    both = [use.start("register", **variables(azure)) for _ in range(2)]
    assert [use.end(child).code for child in both] == [0, 0]
    assert versions(azure) == once()


class Assets:
    """Versions of an asset that somebody else writes too."""

    def __init__(self, theirs: str) -> None:
        self.theirs, self.all = theirs, list[Any]()

    def list(self, **_: object) -> list[Any]:
        return list(self.all)

    def create_or_update(self, wanted: Any) -> None:
        from azure.core.exceptions import ResourceExistsError

        if not self.all:
            self.all.append(asset(wanted.version, self.theirs))
            error = ResourceExistsError("taken")
            error.status_code = 409
            raise error
        self.all.append(wanted)


def asset(version: str, content_hash: str) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(version=version, tags={"content_hash": content_hash})


@pytest.mark.parametrize(("theirs", "version", "created"), [("a", "1", False), ("b", "2", True)])
def test_a_version_that_somebody_else_took(theirs: str, version: str, created: bool) -> None:
    pytest.importorskip("azure.ai.ml")
    assets = Assets(theirs)
    made, _ = azure_assets.ensure(assets, "x", "a", lambda number: asset(str(number), "a"))
    assert (made.version, made.created) == (version, created)


def test_numbers_are_counted_beside_other_versions() -> None:
    pytest.importorskip("azure.ai.ml")
    assets = Assets("")
    assets.all = [asset("2024-by-hand", "a"), asset("9", "b"), asset("10", "c")]
    made, _ = azure_assets.ensure(assets, "x", "a", lambda number: asset(str(number), "a"))
    assert (made.version, made.created) == ("11", True)


def test_what_a_service_says_of_a_version_that_is_there() -> None:
    assert workspace.taken(Exception("(UserError) Asset paths cannot be updated."))
    assert not workspace.taken(Exception("(UserError) The name is not valid."))


# --- the package

DAG = """
inputs:
  text: {type: string}
  tone: {type: string, default: plain}
outputs:
  answer: {type: string, reference: "${ask.output}"}
additional_includes: [../shared]
nodes:
- {name: ask, use_variants: true}
node_variants:
  ask:
    default_variant_id: a
    variants:
      a: {node: {type: llm, source: {type: code, path: a.jinja2}, inputs: {temperature: 0}}}
      b: {node: {type: llm, source: {type: code, path: b.jinja2}, inputs: {stop: "yes\\n1"}}}
"""


@pytest.fixture
def dag(tmp_path: Path) -> flows.Flow:
    files = {
        "standard/flow.dag.yaml": DAG,
        "standard/a.jinja2": "a",
        "standard/b.jinja2": "b",
        "standard/requirements.txt": "httpx\n",
        "standard/.env": "KEY=secret",
        "standard/.gitignore": "*.txt",
        "standard/__pycache__/x.pyc": "",
        "shared/tools/help.py": "x = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / "flows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return flows.describe("flows/standard", tmp_path)


def packed(flow: flows.Flow, folder: Path, **parameters: Any) -> flows.Flow:
    choices = {"ask": "b"}
    given = {name.replace("__", "."): value for name, value in parameters.items()}
    definition = flows.overlay(flow, choices, given)
    return package.package(flow, Variant("ask.b", choices, given, definition), folder)


def test_a_package_needs_nothing_beside_it(dag: flows.Flow, tmp_path: Path) -> None:
    made = packed(dag, tmp_path / "out", ask__temperature=0.7, tone="1.0")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in made.folder.rglob("*.*")}
    assert names == {"flow.dag.yaml", "b.jinja2", "requirements.txt", "shared/tools/help.py"}
    assert made.variants == {} and "additional_includes" not in made.definition
    (node,) = made.nodes.values()
    assert node["inputs"] == {"stop": "yes\n1", "temperature": 0.7}
    assert made.definition["inputs"]["tone"] == {"type": "string", "default": "1.0"}


def test_the_hash_is_over_names_and_content(dag: flows.Flow, tmp_path: Path) -> None:
    def made(place: str) -> str:
        return package.flow_hash(packed(dag, tmp_path / place))

    first = made("one")
    helper = dag.folder.parent / "shared" / "tools" / "help.py"
    helper.write_bytes(b"x = 1\r\n")
    (dag.folder / "a.jinja2").write_text("another variant's prompt")
    assert made("two") == first
    helper.rename(helper.with_name("other.py"))
    renamed = made("three")
    (dag.folder / "b.jinja2").write_text("changed")
    assert len({first, renamed, made("four")}) == 3


def test_a_plain_function_carries_its_parameters(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text("def answer(text, tone): return {}\n")
    flow = flows.describe("flow.py:answer", tmp_path)  # the package may come below it
    plain = package.package(flow, Variant("default", {}, {}, {}), tmp_path / "out")
    assert (plain.entry, plain.inputs) == ("flow:answer", {"text": True, "tone": True})
    warm, cold = (
        package.package(flow, Variant(tone, {}, {"tone": tone}, {}), tmp_path / tone)
        for tone in ("warm", "cold")
    )
    assert (warm.inputs, warm.defaults) == ({"text": True, "tone": False}, {"tone": "warm"})
    assert len({package.flow_hash(one) for one in (plain, warm, cold)}) == 3


def test_a_flex_flow_cannot_carry_a_parameter(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text("def answer(text, tone='plain'): return {}\n")
    (tmp_path / "flow.flex.yaml").write_text("entry: flow:answer\n")
    flow = flows.describe(str(tmp_path))
    with pytest.raises(UserError, match="tone: the files of a flex flow cannot carry"):
        package.package(flow, Variant("x", {}, {"tone": "warm"}, {}), tmp_path / "other")
