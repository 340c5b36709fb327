"""Roll out, roll back and check online endpoints: the scripts against the emulated Azure.

Each task is a child process that runs the unmodified script. All but one are forked from a process
that has imported the SDK already, because the import takes most of a task's time.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import Fork, Forks
from llmops import image
from llmops.assets import Asset
from llmops.deploying import deployment
from llmops.errors import UserError
from llmops.registration import Registration, save
from loopback_azure import LoopbackAzure
from usecase import COMPILED, LIBRARY, UseCase, wait_until

SECRET = "a-key-that-nobody-may-see"
FLOWS = {
    "one": "def run(text):\n    return {'answer': 'one ' + text}",
    "two": "def run(text):\n    return {'answer': 'two ' + text}",
    "fails": "import os\ndef run(text):\n    raise ValueError('no ' + os.environ['AOAI_API_KEY'])",
    "mute": "def run(text):\n    return {'reply': text}",
    "broken": "import nothing\ndef run(text):\n    return {}",
}

REGISTER = """
import json, sys
from azure.ai.ml import MLClient
from azure.ai.ml.entities import Model
from azure.identity import DefaultAzureCredential
root, *where = json.loads(sys.argv[1])
client = MLClient(DefaultAzureCredential(), *where)
for name in ("one", "two", "fails", "mute", "broken"):
    client.models.create_or_update(Model(name="words", path=f"{root}/{name}", type="custom_model"))
"""


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as azure:
        yield azure
        assert azure.refused == []


@pytest.fixture(scope="module", autouse=True)
def models(azure: LoopbackAzure, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The versions 1 to 5 of the model `words`, in the order of FLOWS."""
    register(tmp_path_factory.mktemp("models"), azure)


def register(root: Path, azure: LoopbackAzure) -> None:
    """Register what FLOWS holds, from this folder."""
    for name, code in FLOWS.items():
        (root / name).mkdir()
        (root / name / "flow.py").write_text(code + "\n")
    where = [azure.settings.subscription, azure.settings.group, azure.settings.workspace]
    command = [sys.executable, "-c", REGISTER, json.dumps([str(root), *where])]
    subprocess.run(command, env=os.environ | azure.environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks(["azure.ai.ml", "azure.identity", "azure.ai.ml.entities"]) as forks:
        yield forks


class Said:
    """What a task said and how it ended."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text
        assert SECRET not in text, text
        assert "\nTraceback" not in f"\n{text}", text  # in the log of a deployment it is indented

    def must(self, code: int, *parts: str) -> Said:
        """Assert the exit code and that all these parts were said."""
        assert self.code == code, self.text
        for part in parts:
            assert part in self.text, f"{part!r} is not in: {self.text}"
        return self


class Case(UseCase):
    """A use case with one managed endpoint in dev, and version 1 of its flow registered."""

    def __init__(self, place: Path, azure: LoopbackAzure, forks: Forks) -> None:
        super().__init__(place)
        self.azure, self._forks = azure, forks
        self.endpoint = f"e-{place.name[-20:].replace('_', '-').strip('-')}"
        self.section = "azure_managed_endpoint"
        connection = {
            "name": "aoai",
            "connection_type": "OpenAIConnection",
            "api_key": "${api_key}",
        }
        self.configure(connections=[connection], flow="flows/standard")
        self.write("flows/standard/flow.flex.yaml", "entry: flow:run\noutputs:\n  answer: {}\n")
        self.write("environment/Dockerfile", "FROM scratch\n")
        self.write("sample-request.json", '{"text": "hello"}')
        self.entry: dict[str, Any] = {
            "ENV_NAME": "dev",
            "ENDPOINT_NAME": self.endpoint,
            "PRIOR_DEPLOYMENT_NAME": "",
            "PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION": "",
            "CURRENT_DEPLOYMENT_NAME": "blue",
            "CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION": "100",
            "DEPLOYMENT_VM_SIZE": "Standard_DS3_v2",
            "DEPLOYMENT_INSTANCE_COUNT": 1,
        }
        self.set()

    def set(self, version: int = 1, **keys: Any) -> None:
        """Change keys of the entry and the registered version."""
        self.entry |= keys
        self.write("configs/deployment_config.json", json.dumps({self.section: [self.entry]}))
        model = Asset(name="words", version=str(version), created=True, content_hash="0")
        manifest = Registration(
            experiment="words", env="dev", model=model, data=(), flow="flow:run", variant="default",
            commit="", gate="pass", forced="", llm="replay", metrics={}, registered_at="now",
        )  # fmt: skip
        save(manifest, self.folder / "reports" / "registration.json")

    @property
    def environment(self) -> dict[str, str]:
        """What a task gets."""
        names = ("SUBSCRIPTION_ID", "RESOURCE_GROUP_NAME", "WORKSPACE_NAME")
        settings = self.azure.settings
        where = (settings.subscription, settings.group, settings.workspace)
        places = {"HOME": str(self.home), "TMPDIR": str(self.temporary), "PATH": os.environ["PATH"]}
        places |= {"PYTHONPATH": str(LIBRARY), "PYTHONPYCACHEPREFIX": COMPILED.name}
        return {
            **places,
            **dict(zip(names, where, strict=True)),
            **self.azure.environment,
            "AOAI_API_KEY": SECRET,
        }

    def begin(self, task: str, **variables: str) -> Fork:
        """Start a task."""
        return self._forks.start(task, self, self.environment | variables)

    def wait(self, begun: Fork) -> Said:
        """Wait for the end of a task."""
        outcome = begun.end()
        return Said(outcome.code, outcome.text)

    def task(self, name: str, **variables: str) -> Said:
        """Run a task to its end."""
        return self.wait(self.begin(name, **variables))

    def deploy(self, version: int = 1, /, **keys: Any) -> Said:
        """Change keys, then `make deploy`."""
        self.set(version, **keys)
        return self.task("deploy")

    def grow(self, version: int = 2, current: int = 10) -> Said:
        """Beside blue, put green with a share of the traffic."""
        return self.deploy(
            version,
            PRIOR_DEPLOYMENT_NAME="blue",
            PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION=100 - current,
            CURRENT_DEPLOYMENT_NAME="green",
            CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION=str(current),
        )

    @property
    def state(self) -> dict[str, Any] | None:
        """The endpoint's properties."""
        found = self.azure.get(f"onlineEndpoints/{self.endpoint}")
        return found["properties"] if found else None

    @property
    def traffic(self) -> dict[str, int]:
        """The split as Azure has it."""
        assert self.state
        return self.state["traffic"]

    def changes(self) -> list[str]:
        """The calls that change something, since the log was cleared; keys and lists do not."""
        calls = [(e["method"], e["path"].rpartition("/")[2]) for e in self.azure.log
                 if "management" in e["host"] and e["method"] != "GET"]  # fmt: skip
        return [f"{m} {last}" for m, last in calls if last not in ("listKeys", "listSecrets")]


@pytest.fixture
def case(
    azure: LoopbackAzure, forks: Forks, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Case]:
    place = tmp_path / f"{request.node.name.partition('[')[0][-14:]}{tmp_path.name[-3:]}"
    place.mkdir()
    azure.forget()
    azure.change(operation_s=0.1, cores=1000, propagation_s=0)
    yield Case(place, azure, forks)


# --- the way it goes


def test_the_first_deployment(case: Case) -> None:
    case.task("deploy", PLAN="1").must(0, "absent", "1 x Standard_DS3_v2", "AOAI_API_KEY (secret)")
    assert case.changes() == [] and case.state is None
    script = [sys.executable, "-m", "scripts.deploy"]
    done = subprocess.run(
        script, cwd=case.folder, env=case.environment, capture_output=True, text=True, check=False
    )
    Said(done.returncode, done.stdout + done.stderr).must(0, "blue 100%", "inference.ml.azure.com")
    assert case.traffic == {"blue": 100}
    found = case.azure.get(f"onlineEndpoints/{case.endpoint}/deployments/blue")
    assert found
    variables = found["properties"]["environmentVariables"]
    assert variables["PROMPTFLOW_RUN_MODE"] == "serving" and variables["AOAI_API_KEY"] == SECRET
    assert f"deployment.endpoint_name={case.endpoint}" in variables["PRT_CONFIG_OVERRIDE"]
    encoded = gzip.decompress(base64.b64decode(variables["PROMPTFLOW_ENCODED_CONNECTIONS"]))
    assert json.loads(encoded)["aoai"]["value"]["api_key"] == SECRET
    # No traffic before the test, whose only request is the first to the endpoint's address.
    calls = [(e["method"], e["path"].rpartition("/")[2]) for e in case.azure.log]
    assert calls.index(("POST", "score")) > calls.index(("PUT", "blue"))
    assert calls.index(("POST", "score")) < len(calls) - 1 - calls[::-1].index(
        ("PUT", case.endpoint)
    )
    case.azure.forget()
    case.task("deploy").must(0, "Nothing to do")
    assert case.changes() == []


def test_two_versions_share_the_traffic_and_the_way_back(case: Case) -> None:
    case.deploy().must(0)
    case.grow().must(0, "blue 90%, green 10%", "2 then")
    assert case.traffic == {"blue": 90, "green": 10}
    said = case.task("check_endpoint").must(0, "90%", "10%")
    assert said.text.count("ok") == 3
    report = json.loads((case.folder / "reports" / "endpoint.json").read_text())
    assert [c["deployment"] for c in report["checks"]] == [None, "blue", "green"]
    assert report["verdict"] == "pass" and report["checks"][0]["latency_s"]["p50"] > 0
    served = {"blue": "one hello", "green": "two hello"}
    assert answers(case, 60) == set(served.values())
    case.task("rollback", PLAN="1").must(0, "blue 100%")
    assert case.traffic == {"blue": 90, "green": 10}
    case.task("rollback").must(0, "blue 100%")
    assert case.traffic == {"blue": 100} and answers(case, 5) == {"one hello"}
    case.task("rollback").must(0, "Nothing to do")
    case.task("deploy").must(0, "blue 90%, green 10%")  # green stands there still


def answers(case: Case, times: int, text: str = "hello") -> set[str]:
    """What the endpoint answers to a text, by its own choice of the deployment."""
    from urllib.request import Request

    path = f"{case.azure.id(f'onlineEndpoints/{case.endpoint}')}/listKeys"
    token = subprocess.run(
        [sys.executable, "-c", TOKEN],
        env=os.environ | case.azure.environment, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    url = f"https://management.azure.com{path}?api-version=2024-10-01"
    keys = Request(url, b"{}", {"Authorization": f"Bearer {token}"})
    with case.azure.open(keys) as answer:
        key = json.load(answer)["primaryKey"]
    assert case.state
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    url, found = case.state["scoringUri"], set()
    for _ in range(times):
        body = json.dumps({"text": text}).encode()
        with case.azure.open(Request(url, body, headers)) as answer:
            found.add(json.load(answer)["answer"])
    return found


TOKEN = """
from azure.identity import DefaultAzureCredential
print(DefaultAzureCredential().get_token("https://management.azure.com/.default").token)
"""


def test_a_failed_test_leaves_the_traffic(case: Case) -> None:
    case.deploy().must(0)
    case.grow(3).must(2, "did not pass its test", "<AOAI_API_KEY>", "Traffic is where it was")
    assert case.traffic == {"blue": 100}
    case.grow(4).must(2, "lacks answer (found reply)")
    assert case.traffic == {"blue": 100}
    case.grow(2).must(0, "words:4 to words:2", "green 10%")


def test_a_failure_after_the_shift_puts_traffic_back(case: Case) -> None:
    case.deploy().must(0)
    case.azure.fail(500, method="POST", path="/score$", skip=1)
    case.grow().must(2, "fails since the traffic was shifted", "put back", "blue 100%")
    assert case.traffic == {"blue": 100}
    case.azure.fail_operation("onlineEndpoints", message="No capacity.")
    case.grow().must(1, "No capacity", "put back")
    assert case.traffic == {"blue": 100}
    case.grow().must(0)


def test_check_endpoint_fails_when_it_should(case: Case) -> None:
    case.task("check_endpoint").must(1, "does not exist")
    case.deploy().must(0)
    case.azure.fail(500, method="POST", path="/score$")
    case.task("check_endpoint").must(2, "status 500")
    case.write("flows/standard/flow.flex.yaml", "entry: flow:run\noutputs: {answer: {}, why: {}}\n")
    case.task("check_endpoint").must(2, "lacks why (found answer)")
    report = json.loads((case.folder / "reports" / "endpoint.json").read_text())
    assert report["verdict"] == "fail" and report["checks"][1]["missing"] == ["why"]
    case.azure.drop(method="POST", path="/score$", times=3)
    case.task("check_endpoint").must(2, "not reachable")


def test_mirrored_traffic_comes_first(case: Case) -> None:
    case.deploy(1, MIRRORED_TRAFFIC_ALLOCATION=20).must(1, "no deployment takes live traffic yet")
    case.deploy(1, MIRRORED_TRAFFIC_ALLOCATION="").must(0)
    case.set(MIRRORED_TRAFFIC_ALLOCATION="20")
    case.grow().must(0, "blue 100%, green 20% mirrored")
    assert case.state and case.state["mirrorTraffic"] == {"green": 20}
    assert case.traffic == {"blue": 100}
    case.set(2, MIRRORED_TRAFFIC_ALLOCATION="")
    case.grow().must(0, "green 10%")
    assert case.state["mirrorTraffic"] == {} and case.traffic == {"blue": 90, "green": 10}


def test_kubernetes(case: Case) -> None:
    case.section = "kubernetes_endpoint"
    more = {"CPU_ALLOCATION": 1, "MEMORY_ALLOCATION": "2Gi", "DEPLOYMENT_VM_SIZE": ""}
    case.deploy(1, COMPUTE_NAME="aks-nowhere", **more).must(1, "aks-nowhere", "aks-llmops")
    case.deploy(1, COMPUTE_NAME="aks-llmops", DATA_COLLECTION=50).must(0, "1,2Gi", "blue 100%")
    found = case.azure.get(f"onlineEndpoints/{case.endpoint}/deployments/blue")
    assert found
    requests = found["properties"]["containerResourceRequirements"]["containerResourceRequests"]
    assert (requests["cpu"], requests["memory"]) == ("1", "2Gi")
    case.task("check_endpoint").must(0, "ok")
    case.task("deploy").must(0, "Nothing to do")


def test_a_user_assigned_identity(case: Case) -> None:
    provider = "Microsoft.ManagedIdentity/userAssignedIdentities"
    identity = f"{case.azure.settings.group_id}/providers/{provider}/id-deploy"
    case.deploy(1, USER_MANAGED_ID="id-deploy").must(1, "id-deploy", "USER_MANAGED_ID")
    case.azure.place(identity, {"principalId": str(uuid.uuid4()), "clientId": "c"})
    case.task("deploy").must(0)
    case.deploy(1, USER_MANAGED_ID="").must(1, "USER_MANAGED_ID", "cannot be changed")


def identity(case: Case, name: str) -> str:
    """A user-assigned identity without roles."""
    provider = "Microsoft.ManagedIdentity/userAssignedIdentities"
    path = f"{case.azure.settings.group_id}/providers/{provider}/{name}"
    case.azure.place(path, {"principalId": str(uuid.uuid4()), "clientId": str(uuid.uuid4())})
    return name


def test_a_role_that_does_not_act_yet_is_waited_for(case: Case) -> None:
    case.azure.change(propagation_s=3)
    said = case.deploy(1, USER_MANAGED_ID=identity(case, "id-fresh"))
    said.must(0, "granted: role 'AcrPull'", "a role does not act yet; again in 2 s", "blue 100%")
    changes = case.changes()
    tries = changes.count("PUT blue")
    assert tries == said.text.count("does not act yet") + 1 == changes.count("DELETE blue") + 1 > 1


def test_a_role_is_waited_for_no_longer_than_wait(case: Case) -> None:
    case.azure.change(propagation_s=3600)
    case.set(USER_MANAGED_ID=identity(case, "id-slow"))
    said = case.task("deploy", WAIT="3").must(1, "needs 'AcrPull'", "15 minutes", "WAIT=3")
    assert said.text.count("does not act yet") == 1 and case.traffic == {}
    said = case.task("deploy").must(1, "needs 'AcrPull'")  # nothing was granted now: no wait
    assert "yet" not in said.text
    case.azure.change(propagation_s=0)
    case.task("deploy").must(0, "delete, then create", "blue 100%")


def test_an_update_that_waits_for_a_role_deletes_nothing(case: Case) -> None:
    case.deploy(1, USER_MANAGED_ID=identity(case, "id-lost")).must(0)
    given = [i for i in case.azure.state if "/roleAssignments/" in i and "crllmops" in i]
    for assignment in given:
        case.azure.place(assignment, None)
    case.azure.change(propagation_s=2)
    case.azure.forget()
    case.deploy(1, DEPLOYMENT_INSTANCE_COUNT=2).must(0, "grant 1", "does not act yet")
    assert "DELETE blue" not in case.changes() and case.traffic == {"blue": 100}


def test_data_that_is_collected_is_what_monitor_scores(case: Case) -> None:
    case.deploy(1, DATA_COLLECTION="true").must(0)
    found = case.azure.get(f"onlineEndpoints/{case.endpoint}/deployments/blue")
    assert found
    collections = found["properties"]["dataCollector"]["collections"]
    assert {(c["dataCollectionMode"], c["samplingRate"]) for c in collections.values()} == {
        ("enabled", 1.0)
    }
    assert sorted(collections) == ["request", "response"]
    asset = case.azure.get(f"data/{case.endpoint}-blue-request/versions/1")
    path = f"workspaceblobstore/paths/modelDataCollector/{case.endpoint}/blue"
    assert asset and asset["properties"]["dataUri"].endswith(f"{path}/request")
    case.task("deploy").must(0, "Nothing to do")
    case.deploy(1, DATA_COLLECTION=25).must(1, "data collection: 100% to 25%", "untested")
    case.task("check_endpoint").must(0)
    case.configure(connections=[])
    evaluator = case.blocks["evaluators"][0] | {"name": "live"}
    mappings = {"answer": "${data.answer}", "truth": "one hello"}
    log = {"name": "log", "source": "data/none.jsonl", "mappings": mappings}
    overlay = {"datasets": [], "evaluators": [evaluator | {"datasets": [log]}]}
    case.write("experiment.postprod.yaml", json.dumps(overlay))
    said = case.task("monitor", LOG=f"azureml://datastores/{path}")
    said.must(0, "requests from", "monitor: reports/monitor.md")
    (scored,) = json.loads((case.folder / "reports" / "monitor.json").read_text())["logs"]
    asked = [e for e in case.azure.log if e["path"].endswith("/score")]
    assert scored["rows"] == len(asked) > 5


@pytest.mark.parametrize(
    ("given", "kept"), [("", 0), ("false", 0), (True, 100), ("true", 100), ("20", 20), (100, 100)]
)
def test_how_much_is_collected(case: Case, given: Any, kept: int) -> None:
    case.set(DATA_COLLECTION=given)
    _, entry = deployment.choose("dev", None, case.folder)
    assert isinstance(entry, deployment.Endpoint) and kept == entry.DATA_COLLECTION
    case.set(DATA_COLLECTION="101")
    with pytest.raises(UserError, match="DATA_COLLECTION"):
        deployment.choose("dev", None, case.folder)


def test_a_connection_of_the_workspace(case: Case) -> None:
    connection = {"name": "aoai", "api_key": "${api_key}", "api_base": "${api_base}"}
    case.configure(connections=[connection])
    said = case.task("deploy", PLAN="1").must(0, "PROMPTFLOW_RUN_MODE")
    assert "AOAI" not in said.text and "ENCODED" not in said.text
    complete = case.task("deploy", PLAN="1", AOAI_API_BASE="https://a.example.com").text
    assert "AOAI_API_KEY (secret)" in complete and "ENCODED_CONNECTIONS (secret)" in complete


# --- without Azure


def test_numbers_may_be_texts_and_an_empty_text_is_unset(case: Case) -> None:
    case.set(DEPLOYMENT_INSTANCE_COUNT="", CPU_ALLOCATION=2, ENVIRONMENT_VARIABLES={"A": 1})
    _, entry = deployment.choose("dev", None, case.folder)
    assert isinstance(entry, deployment.Endpoint)
    assert (entry.DEPLOYMENT_INSTANCE_COUNT, entry.CPU_ALLOCATION) == (1, "2")
    assert entry.ENVIRONMENT_VARIABLES == {"A": "1"} and entry.traffic == {"blue": 100}


def test_the_context_of_the_image(case: Case) -> None:
    for path in ("requirements/local.txt", "requirements/azure.txt", "environment/a/b.txt"):
        case.write(path, "x\n")
    case.write("requirements/flow.txt", "y\r\n")
    case.write("flows/standard/requirements.txt", "z\n")
    azure = {"azure-requirements.txt": Path("requirements/azure.txt")}
    found = image.files(azure, case.folder)
    library = {name for name in found if name.startswith("srv/llmops/")}
    assert "srv/llmops/serving/__main__.py" in library
    assert sorted(found.keys() - library) == [
        *("Dockerfile", "a/b.txt", "azure-requirements.txt", "flow-requirements.txt"),
        "requirements.txt",
    ]
    assert found["flow-requirements.txt"].read_bytes() == b"y\r\n", "locked, not the flow's list"
    before = image.digest(found)
    case.write("requirements/flow.txt", "y\n")
    assert image.digest(found) == before
    (case.folder / "environment" / "Dockerfile").unlink()
    with pytest.raises(UserError, match="environment/Dockerfile: not found"):
        image.files({}, case.folder)


# --- faults


def test_what_the_entry_lacks(case: Case) -> None:
    case.set(ENDPOINT_NAME="")
    case.task("deploy").must(1, "ENDPOINT_NAME or WEB_APP_NAME is empty")
    case.task("deploy", ENV="prod").must(1, "'prod'", "expected one of dev")
    case.task("deploy", KIND="boat").must(1, "KIND: 'boat'")
    case.deploy(1, ENDPOINT_NAME=case.endpoint, DEPLOYMENT_VM_SIZE="").must(1, "DEPLOYMENT_VM_SIZE")
    half = {"CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION": 50}
    case.deploy(1, DEPLOYMENT_VM_SIZE="Standard_DS3_v2", **half).must(1, "0 + 50 is not 100")
    case.set(9, CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION=100)
    case.task("deploy").must(1, "words:9 is not registered", "make register")
    case.set()
    case.write("sample-request.json", "{}")
    case.task("deploy").must(1, "sample-request.json: lacks text")
    assert case.changes() == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"DEPLOYMENT_VM_SIZE": "Standard_Z9"}, "'Standard_Z9' is not supported"),
        ({"DEPLOYMENT_INSTANCE_COUNT": 40}, "quota"),
    ],
)
def test_a_refused_deployment(case: Case, keys: dict[str, Any], message: str) -> None:
    case.azure.change(cores=100)
    before = dict(case.entry)
    case.deploy(1, **keys).must(1, message, "DEPLOYMENT_VM_SIZE")
    assert case.traffic == {}
    case.azure.change(cores=1000)
    case.deploy(1, **before).must(0, "blue 100%")


def test_the_name_is_taken(case: Case) -> None:
    other = case.azure.settings.workspace_id.replace("mlw-llmops", "mlw-other")
    case.azure.place(f"{other}/onlineEndpoints/{case.endpoint}", {})
    case.task("deploy").must(1, "already an endpoint with this name", "another ENDPOINT_NAME")
    case.azure.place(f"{other}/onlineEndpoints/{case.endpoint}", None)


def test_a_deployment_that_never_becomes_healthy(case: Case) -> None:
    case.deploy(5).must(1, "ResourceNotReady", "No module named 'nothing'")
    assert case.traffic == {}
    case.deploy(1).must(0, "delete, then create", "blue 100%")


def test_the_prior_deployment_is_absent_or_ill(case: Case) -> None:
    case.grow().must(1, "has no deployment 'blue' (expected one of none)")
    case.set(PRIOR_DEPLOYMENT_NAME="", PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION="")
    case.deploy(1, CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION=100).must(0)
    case.task("rollback").must(1, "PRIOR_DEPLOYMENT_NAME: empty", "green (Succeeded)")
    path = case.azure.id(f"onlineEndpoints/{case.endpoint}/deployments/green")
    case.azure.place(path, {"provisioningState": "Failed"})
    case.set(CURRENT_DEPLOYMENT_NAME="red", PRIOR_DEPLOYMENT_NAME="green")
    case.task("rollback").must(1, "'green' is not healthy (Failed)")


def test_a_deployment_with_traffic_is_scaled_but_not_changed(case: Case) -> None:
    case.deploy().must(0)
    case.deploy(2).must(1, "'blue' takes 100% of the traffic", "words:1 to words:2")
    case.deploy(1, DEPLOYMENT_INSTANCE_COUNT="2").must(0, "instances: 1 to 2")
    case.deploy(1, ENVIRONMENT_VARIABLES={"MORE": 4}).must(1, "variables: MORE")


def test_an_endpoint_that_failed(case: Case) -> None:
    case.azure.fail_operation("onlineEndpoints", message="No capacity.")
    case.task("deploy").must(1, "No capacity")
    case.task("deploy").must(0, "delete, then create", "blue 100%")
    case.azure.place(
        case.azure.id(f"onlineEndpoints/{case.endpoint}"), {"provisioningState": "Failed"}
    )
    case.grow().must(0, "repair", "green 10%")


def test_an_endpoint_that_is_updating(case: Case) -> None:
    case.deploy().must(0)
    path = case.azure.id(f"onlineEndpoints/{case.endpoint}")
    case.azure.place(path, {"provisioningState": "Updating"})
    case.set(2)
    case.task("deploy", WAIT="1").must(1, "in state Updating", "Run again later")
    begun = case.begin("rollback")
    time.sleep(1)
    case.azure.place(path, {"provisioningState": "Succeeded"})
    case.wait(begun).must(1, "PRIOR_DEPLOYMENT_NAME: empty")


def test_killed_between_endpoint_and_deployment(case: Case) -> None:
    case.azure.change(operation_s=1.0)
    begun = case.begin("deploy")
    wait_until(lambda: bool(case.state and case.state["provisioningState"] == "Succeeded"))
    begun.end(signal.SIGKILL)
    case.azure.change(operation_s=0.1)
    case.task("deploy").must(0, "blue 100%")
    assert case.traffic == {"blue": 100}


def test_two_deploys_at_once(case: Case) -> None:
    case.azure.change(operation_s=0.5)
    started = [case.begin("deploy") for _ in range(2)]
    ends = [case.wait(begun) for begun in started]
    assert sorted(end.code for end in ends)[0] == 0, [end.text for end in ends]
    for end in ends:
        assert end.code == 0 or "somebody else" in end.text, end.text
    case.azure.change(operation_s=0.1)
    case.task("deploy").must(0)
    assert case.traffic == {"blue": 100}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 403, "path": "onlineEndpoints/[^/]*$", "method": "PUT"}, "AzureML Data Scient"),
        ({"status": 409, "path": "deployments/blue$", "method": "PUT"}, "somebody else"),
    ],
)
def test_a_fault_on_the_way(case: Case, fault: dict[str, Any], message: str) -> None:
    case.azure.fail(**fault)
    case.task("deploy").must(1, message)
    case.azure.forget()
    case.task("deploy").must(0, "blue 100%")


def test_no_credentials_and_no_workspace(case: Case) -> None:
    case.task("deploy", AZURE_CLIENT_SECRET="wrong").must(1, "AADSTS7000215")
    case.task("deploy", WORKSPACE_NAME="").must(1, "WORKSPACE_NAME: unset")
    case.task("deploy", WORKSPACE_NAME="mlw-nowhere").must(1, "mlw-nowhere: not found")
