"""The emulated Azure, driven by the real clients: MLClient and DefaultAzureCredential.

One child process holds the client for all tests, because importing azure-ai-ml takes seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import llmops
import pytest
from llmops.recordings import Server
from loopback_azure import LoopbackAzure

EXAMPLE = Path(llmops.__file__).parents[1] / "examples" / "named_entity_recognition"
FLOW = """
def run(text: str, shout: bool = False):
    if text == "fail":
        raise ValueError("asked to fail")
    return {"answer": PREFIX + (text.upper() if shout else text)}
"""

DRIVER = """
import json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
sys.path.insert(0, "")
from azure.ai.ml import MLClient, entities
from azure.ai.ml.entities import *
from azure.identity import DefaultAzureCredential
given = json.loads(sys.stdin.readline())
ml = MLClient(DefaultAzureCredential(), given["subscription"], given["group"], given["workspace"])
names = globals()

def raw(method, path, **properties):
    import requests
    token = ml._credential.get_token("https://management.azure.com/.default").token
    base = "https://management.azure.com/subscriptions/{subscription}/resourceGroups/{group}"
    base += "/providers/Microsoft.MachineLearningServices/workspaces/{workspace}/"
    answer = requests.request(
        method, base.format(**given) + path + "?api-version=2024-10-01",
        json={"location": "westeurope", "properties": properties},
        headers={"Authorization": "Bearer " + token},
    )
    if answer.status_code >= 400:
        raise RuntimeError(answer.text)

for line in sys.stdin:
    names["answer"], error = None, None
    try:
        exec(json.loads(line), names)
    except Exception as raised:
        traceback.print_exc()
        error = [type(raised).__name__, str(raised)]
    said = json.dumps({"answer": names["answer"], "error": error}, default=str)
    print(said, file=answers, flush=True)
"""

Run = Callable[[str], Any]


class ClientError(Exception):
    """What the client raised in the child process: its type and its message."""


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as azure:
        yield azure


@pytest.fixture(autouse=True)
def clean(azure: LoopbackAzure) -> Iterator[None]:
    yield
    azure.forget()
    azure.change(operation_s=0.1, cores=100)


@pytest.fixture(scope="module")
def ml(azure: LoopbackAzure) -> Iterator[Run]:
    """ml(code): what the code leaves in `answer`; `ml` is there the real client."""
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | azure.environment,
    )
    assert child.stdin and child.stdout
    to, back, settings = child.stdin, child.stdout, azure.settings
    names = ("subscription", "group", "workspace")
    to.write(json.dumps({name: getattr(settings, name) for name in names}) + "\n")

    def run(code: str) -> Any:
        to.write(json.dumps(code) + "\n")
        to.flush()
        said = json.loads(back.readline())
        if said["error"]:
            raise ClientError(": ".join(said["error"]))
        return said["answer"]

    yield run
    child.kill()
    child.wait()


@pytest.fixture(scope="module")
def assets(ml: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models echo:1, echo:2 and broken:1, the environment llmops:1."""
    root = tmp_path_factory.mktemp("assets")
    prefixes = {"first": "PREFIX = 'one '", "second": "PREFIX = 'two '", "broken": "import nothing"}
    for name, line in prefixes.items():
        (root / name).mkdir()
        (root / name / "flow.py").write_text(line + "\n" + FLOW)
    (root / "image").mkdir()
    (root / "image" / "Dockerfile").write_text("FROM scratch\n")
    ml(f"""
root = {str(root)!r}
for name, path in (("echo", "first"), ("echo", "second"), ("broken", "broken")):
    ml.models.create_or_update(Model(name=name, path=root + "/" + path, type="custom_model"))
score = {{"port": 8080, "path": "/score"}}
inference = {{"liveness_route": score, "readiness_route": score, "scoring_route": score}}
ml.environments.create_or_update(Environment(
    name="llmops", version="1", build=BuildContext(path=root + "/image"), inference_config=inference
))

def endpoint(name, cls=ManagedOnlineEndpoint, **more):
    return ml.online_endpoints.begin_create_or_update(cls(name=name, **more)).result()

def deployment(endpoint, name, model="echo:1", instance_type="Standard_DS3_v2", **more):
    more = dict(dict(instance_count=1, environment="azureml:llmops:1"), **more)
    return ml.online_deployments.begin_create_or_update(ManagedOnlineDeployment(
        name=name, endpoint_name=endpoint, model="azureml:" + model, instance_type=instance_type,
        **more)).result()

def waiting(milliseconds):
    return OnlineRequestSettings(request_timeout_ms=milliseconds)

def assigned(name):
    group = ml.workspaces.get(given["workspace"]).id.split("/providers/")[0]
    identity = group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
    return IdentityConfiguration(type="user_assigned", user_assigned_identities=[
        ManagedIdentityConfiguration(resource_id=identity)])

def delete(endpoint, name=None):
    if name is None:
        return ml.online_endpoints.begin_delete(endpoint).result()
    return ml.online_deployments.begin_delete(name, endpoint).result()

def traffic(endpoint, mirror=None, **shares):
    found = ml.online_endpoints.get(endpoint)
    found.traffic, found.mirror_traffic = shares, mirror or {{}}
    return ml.online_endpoints.begin_create_or_update(found).result().traffic
""")
    return root


@pytest.fixture(scope="module")
def echo(ml: Run, assets: Path) -> str:
    """An endpoint with two healthy deployments and no traffic."""
    ml("endpoint('echo'); deployment('echo', 'blue'); deployment('echo', 'green', 'echo:2')")
    return "echo"


def post(
    azure: LoopbackAzure, endpoint: str, body: Any, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """A request to an endpoint as any HTTP client sends it."""
    found = azure.get(f"onlineEndpoints/{endpoint}")
    assert found
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(
        found["properties"]["scoringUri"],
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **sent},
    )
    try:
        with azure.open(request) as answer:
            return answer.status, dict(answer.headers), json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.load(error)


# --- the process, the proxy and sign-in


def test_it_starts_in_less_than_a_second_and_ends_with_its_owner() -> None:
    took = []
    for _ in range(2):  # the better of two: other work may hold the machine up
        begin = time.monotonic()
        with LoopbackAzure() as azure:
            took.append(time.monotonic() - begin)
            assert azure.log == [] and azure.refused == []
        assert azure._child is not None and azure._child.returncode == 0
    assert min(took) < 1


def python(azure: LoopbackAzure, code: str, **environment: str) -> str:
    """What a child process prints with the emulator's environment."""
    env = os.environ | azure.environment | environment
    env = {name: value for name, value in env.items() if value}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


TOKEN = """
from azure.identity import DefaultAzureCredential
try:
    print(DefaultAzureCredential().get_token("https://management.azure.com/.default").token)
except Exception as error:
    print(error)
"""


def test_a_host_beyond_the_list_is_refused(azure: LoopbackAzure) -> None:
    code = "import requests; requests.get('https://www.example.org')"
    assert "403 Forbidden" in python(azure, code)
    assert azure.refused == ["www.example.org:443"]


def test_sign_in_with_a_secret(azure: LoopbackAzure) -> None:
    token = python(azure, TOKEN).strip()
    found = jwt.decode(token, options={"verify_signature": False})
    assert found["aud"] == "https://management.azure.com"
    assert (found["tid"], found["oid"]) == (azure.settings.tenant, azure.settings.object_id)


def test_sign_in_with_a_federated_token(azure: LoopbackAzure, tmp_path: Path) -> None:
    issuer, subject = "https://token.actions.githubusercontent.com", "repo:a/b:environment:dev"
    path = tmp_path / "token"
    claims = {"iss": issuer, "sub": subject, "aud": "api://AzureADTokenExchange"}
    path.write_text(jwt.encode(claims, "k" * 32))
    env = {"AZURE_CLIENT_SECRET": "", "AZURE_FEDERATED_TOKEN_FILE": str(path)}
    assert "AADSTS700213" in python(azure, TOKEN, **env)
    azure.change(federated=[{"issuer": issuer, "subject": subject}])
    assert jwt.decode(python(azure, TOKEN, **env).strip(), options={"verify_signature": False})


@pytest.mark.parametrize(
    ("variable", "code"),
    [
        ("AZURE_TENANT_ID", "double check your tenant name"),  # the client hides AADSTS90002
        ("AZURE_CLIENT_ID", "AADSTS700016"),
        ("AZURE_CLIENT_SECRET", "AADSTS7000215"),
    ],
)
def test_sign_in_with_a_wrong_credential(azure: LoopbackAzure, variable: str, code: str) -> None:
    wrong = "99999999-9999-9999-9999-999999999999"
    assert code in python(azure, TOKEN, **{variable: wrong})


def test_a_call_without_a_token_is_refused(azure: LoopbackAzure) -> None:
    request = urllib.request.Request(f"https://management.azure.com{azure.settings.workspace_id}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        azure.open(request)
    assert refused.value.code == 401 and "WWW-Authenticate" in refused.value.headers


# --- workspace and assets


def test_workspace_and_computes(azure: LoopbackAzure, ml: Run) -> None:
    found = ml(f"answer = ml.workspaces.get({azure.settings.workspace!r})._to_dict()")
    assert found["location"] == azure.settings.region and "vaults/kv-llmops" in found["key_vault"]
    assert ml("answer = {c.name: c.type for c in ml.compute.list()}") == {
        "aks-llmops": "kubernetes",
        "ci-llmops": "computeinstance",
    }


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("given['workspace'] = 'nowhere'", "ResourceNotFound"),
        ("given['group'] = 'rg-nowhere'", "ResourceGroupNotFound"),
        ("given['subscription'] = '0' * 8", "SubscriptionNotFound"),
    ],
)
def test_a_scope_that_is_not_there(ml: Run, change: str, code: str) -> None:
    with pytest.raises(ClientError, match=code):
        ml(f"""
before = dict(given)
{change}
other = MLClient(ml._credential, given["subscription"], given["group"], given["workspace"])
name, given = given["workspace"], before
other.workspaces.get(name)
""")


def test_data_versions(azure: LoopbackAzure, ml: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    code = f"""
path = {str(tmp_path / "rows.jsonl")!r}
data = Data(name="rows", path=path, type="uri_file", tags={{"hash": "1"}})
ml.data.create_or_update(data)
"""
    ml(code)
    (tmp_path / "rows.jsonl").write_text('{"text": "b"}\n')
    ml(code)
    assert ml("answer = [d.version for d in ml.data.list('rows')]") == ["2", "1"]
    assert ml("answer = ml.data.get('rows', label='latest').version") == "2"
    assert "rows" in ml("answer = [d.name for d in ml.data.list()]")
    assert ml("answer = ml.data.get('rows', version='1').tags") == {"hash": "1"}
    stored = ml(f"""
from azure.ai.ml._artifacts._artifact_utilities import download_artifact_from_aml_uri
path = ml.data.get("rows", version="2").path
download_artifact_from_aml_uri(path, {str(tmp_path / "down")!r}, ml.datastores)
answer = open({str(tmp_path / "down" / "rows.jsonl")!r}).read()
""")
    assert stored == '{"text": "b"}\n'


def test_blobs_in_blocks_and_ranges(ml: Run) -> None:
    ml("""
from azure.storage.blob import BlobClient
small = dict(max_single_put_size=4, max_block_size=4, max_single_get_size=4, max_chunk_get_size=4)
url = "https://stllmops.blob.core.windows.net/logs/a folder/b.txt"
blob = BlobClient.from_blob_url(url, credential=ml._credential, **small)
blob.upload_blob(b"0123456789", metadata={"kind": "log"})
""")
    assert ml("answer = blob.download_blob().readall().decode()") == "0123456789"
    assert ml("answer = blob.download_blob(offset=2, length=3).readall().decode()") == "234"
    assert ml("answer = blob.get_blob_properties().metadata") == {"kind": "log"}
    with pytest.raises(ClientError, match="BlobAlreadyExists"):
        ml("blob.upload_blob(b'x')")
    with pytest.raises(ClientError, match="AuthenticationFailed"):
        ml("BlobClient.from_blob_url(url).download_blob()")
    ml("blob.delete_blob()")
    assert ml("answer = blob.exists()") is False


def test_an_existing_version_keeps_its_path(ml: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("1\n")
    (tmp_path / "b.jsonl").write_text("2\n")
    data = "Data(name='fixed', version='1', type='uri_file', path={!r}, tags={})"
    create = f"ml.data.create_or_update({data})"
    ml(create.format(str(tmp_path / "a.jsonl"), {}))
    ml(create.format(str(tmp_path / "a.jsonl"), {"reviewed": "yes"}))
    assert ml("answer = ml.data.get('fixed', version='1').tags") == {"reviewed": "yes"}
    with pytest.raises(ClientError, match=r"UserError.*already exists"):
        ml(create.format(str(tmp_path / "b.jsonl"), {}))


def test_models_and_environments_are_immutable(ml: Run, assets: Path) -> None:
    with pytest.raises(ClientError, match="Asset paths cannot be updated"):
        ml("ml.models.create_or_update(Model(name='echo', version='1', path=root + '/broken'))")
    with pytest.raises(ClientError, match="Asset paths cannot be updated"):
        ml("""
other = Environment(name="llmops", version="1", image="other")
ml.environments.create_or_update(other)
""")


@pytest.mark.parametrize(
    ("asset", "message"),
    [
        ("Model(name='echo', version='1.0', path=root + '/first')", "positive integer"),
        ("Model(name='a model', version='1', path=root + '/first')", "not valid"),
        ("Data(name='rows', version='1' * 31, path=root + '/first')", "maximum length of 30"),
    ],
)
def test_names_and_versions_of_assets(ml: Run, assets: Path, asset: str, message: str) -> None:
    kind = "models" if asset.startswith("Model") else "data"
    with pytest.raises(ClientError, match=message):
        ml(f"ml.{kind}.create_or_update({asset})")


def test_what_is_not_there(ml: Run, assets: Path) -> None:
    for call in (
        "ml.models.get('nothing', version='1')",
        "ml.environments.get('llmops', version='9')",
        "ml.online_endpoints.get('nothing')",
        "ml.compute.get('nothing')",
    ):
        with pytest.raises(ClientError, match="ResourceNotFound"):
            ml(call)


# --- endpoints


def test_each_deployment_serves_its_own_version(ml: Run, echo: str, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"text": "hello", "shout": true}')
    call = "answer = ml.online_endpoints.invoke('echo', request_file={!r}, deployment_name={!r})"
    answers = [ml(call.format(str(tmp_path / "request.json"), name)) for name in ("blue", "green")]
    assert [json.loads(text) for text in answers] == [
        {"answer": "one HELLO"},
        {"answer": "two HELLO"},
    ]


def test_traffic_is_split_by_its_shares(azure: LoopbackAzure, ml: Run, echo: str) -> None:
    key = ml("answer = ml.online_endpoints.get_keys('echo').primary_key")
    auth = {"Authorization": f"Bearer {key}"}
    assert ml("answer = traffic('echo')") == {}
    assert post(azure, echo, {"text": "x"}, **auth)[0] == 404
    assert ml("answer = traffic('echo', blue=75, green=25)") == {"blue": 75, "green": 25}
    answers = [post(azure, echo, {"text": "x"}, **auth) for _ in range(40)]
    served = [headers["azureml-model-deployment"] for _, headers, _ in answers]
    assert 5 <= served.count("green") <= 15 and served.count("blue") + served.count("green") == 40
    assert {body["answer"] for *_, body in answers} == {"one x", "two x"}
    assert ml("answer = traffic('echo')") == {}


def test_a_key_is_needed(azure: LoopbackAzure, ml: Run, echo: str) -> None:
    assert post(azure, echo, {"text": "x"})[0] == 401
    assert post(azure, echo, {"text": "x"}, Authorization="Bearer wrong")[0] == 401
    before = ml("answer = ml.online_endpoints.get_keys('echo').primary_key")
    ml("ml.online_endpoints.begin_regenerate_keys('echo', key_type='primary').result()")
    blue = {"azureml_model_deployment": "blue"}
    assert post(azure, echo, {"text": "x"}, Authorization=f"Bearer {before}", **blue)[0] == 401
    now = ml("answer = ml.online_endpoints.get_keys('echo').primary_key")
    assert post(azure, echo, {"text": "x"}, Authorization=f"Bearer {now}", **blue)[0] == 200


def test_a_failing_flow_and_a_missing_input(azure: LoopbackAzure, ml: Run, echo: str) -> None:
    key = ml("answer = ml.online_endpoints.get_keys('echo').primary_key")
    headers = {"Authorization": f"Bearer {key}", "azureml_model_deployment": "blue"}
    status, said, body = post(azure, echo, {"text": "fail"}, **headers)
    assert (status, said["ms-azureml-model-error-statuscode"]) == (424, "400")
    assert "asked to fail" in body["error"]["message"]
    assert "['text'] are missing" in post(azure, echo, {}, **headers)[2]["error"]["message"]


def test_mirrored_traffic_is_seen_by_the_shadow_only(
    azure: LoopbackAzure, ml: Run, echo: str
) -> None:
    key = ml("answer = ml.online_endpoints.get_keys('echo').primary_key")
    ml("traffic('echo', mirror={'green': 50}, blue=100)")
    for _ in range(20):
        body = post(azure, echo, {"text": "x"}, Authorization=f"Bearer {key}")[2]
        assert body == {"answer": "one x"}
    time.sleep(0.2)
    logs = ml("answer = ml.online_deployments.get_logs('green', 'echo', lines=100)")
    assert 4 <= logs.count("(mirrored)") <= 16
    ml("traffic('echo')")


MIRROR = "traffic('echo', mirror={}, blue=100)"
RULES = {
    "raw('PUT', 'onlineEndpoints/ab')": "begin with a letter",
    "raw('PUT', 'onlineEndpoints/1abc')": "begin with a letter",
    "raw('PUT', 'onlineEndpoints/' + 33 * 'a')": "begin with a letter",
    "raw('PUT', 'onlineEndpoints/under_score')": "begin with a letter",
    "endpoint('blue2', traffic={'blue': 100})": "'blue' in the traffic rules does not exist",
    "raw('PUT', 'onlineEndpoints/echo/deployments/no')": "begin with a letter",
    "deployment('nothing', 'blue')": "ResourceNotFound",
    "deployment('echo', 'red', 'echo:9')": "model .* was not found",
    "deployment('echo', 'red', environment='azureml:llmops:9')": "environment .* was not found",
    "deployment('echo', 'red', instance_type='Standard_Z9')": "'Standard_Z9' is not supported",
    "deployment('echo', 'red', instance_count=51)": "must be 1 to 50",
    "deployment('echo', 'red', request_settings=waiting(301_000))": "at most 300 seconds",
    "traffic('echo', blue=50)": "either 0 or 100",
    "traffic('echo', blue=60, green=60)": "either 0 or 100",
    "traffic('echo', yellow=100)": "'yellow' in the traffic rules does not exist",
    MIRROR.format("{'green': 51}"): "At most 50%",
    MIRROR.format("{'blue': 10}"): "either live or mirrored",
    MIRROR.format("{'yellow': 10}"): "'yellow' does not exist",
    "traffic('echo', mirror={'blue': 10, 'green': 10})": "one deployment only",
    "endpoint('echo', identity=assigned('id-llmops'))": "identity of an endpoint cannot be changed",
    "endpoint('own', identity=assigned('id-nowhere'))": "FailedIdentityOperation",
    "endpoint('k8s', KubernetesOnlineEndpoint, compute='nothing')": "not an attached Kubernetes",
    "endpoint('k8s', KubernetesOnlineEndpoint, compute='ci-llmops')": "not an attached Kubernetes",
}


@pytest.mark.parametrize("call", RULES)
def test_a_rule_is_enforced(ml: Run, echo: str, call: str) -> None:
    with pytest.raises(ClientError, match=RULES[call]):
        ml(call)


def test_an_endpoint_name_is_unique_in_the_region(azure: LoopbackAzure, ml: Run) -> None:
    other = azure.settings.workspace_id.replace("mlw-llmops", "mlw-other")
    azure.place(f"{other}/onlineEndpoints/taken", {})
    with pytest.raises(ClientError, match="already an endpoint with this name"):
        ml("endpoint('taken')")


def test_the_quota_counts_a_fifth_more_for_upgrades(
    azure: LoopbackAzure, ml: Run, echo: str
) -> None:
    azure.change(cores=2 * 8 + 12 * 4 - 1)  # blue and green take 2 instances of 4 cores each
    with pytest.raises(ClientError, match=r"usage/limit: 16/63\. Additional needed: 48"):
        ml("deployment('echo', 'red', instance_count=10)")


def test_a_deployment_with_traffic_cannot_be_deleted(ml: Run, assets: Path) -> None:
    ml("endpoint('gone'); deployment('gone', 'blue'); traffic('gone', blue=100)")
    with pytest.raises(ClientError, match="takes live traffic"):
        ml("delete('gone', 'blue')")
    ml("traffic('gone'); delete('gone', 'blue')")
    assert ml("answer = [d.name for d in ml.online_deployments.list('gone')]") == []
    ml("delete('gone')")
    assert "gone" not in ml("answer = [e.name for e in ml.online_endpoints.list()]")


def test_a_broken_flow_never_becomes_healthy(azure: LoopbackAzure, ml: Run, assets: Path) -> None:
    ml("endpoint('broken')")
    with pytest.raises(ClientError, match="ResourceNotReady"):
        ml("deployment('broken', 'blue', 'broken:1')")
    found = azure.get("onlineEndpoints/broken/deployments/blue")
    assert found and found["properties"]["provisioningState"] == "Failed"
    logs = ml("answer = ml.online_deployments.get_logs('blue', 'broken', lines=50)")
    assert "No module named 'nothing'" in logs
    with pytest.raises(ClientError, match="Delete and re-create"):
        ml("deployment('broken', 'blue')")
    ml("delete('broken', 'blue'); deployment('broken', 'blue')")


def test_a_failed_update_leaves_the_old_version_serving(
    azure: LoopbackAzure, ml: Run, assets: Path
) -> None:
    ml("endpoint('again'); deployment('again', 'blue')")
    with pytest.raises(ClientError, match="ResourceNotReady"):
        ml("deployment('again', 'blue', 'broken:1')")
    key = ml("answer = ml.online_endpoints.get_keys('again').primary_key")
    headers = {"Authorization": f"Bearer {key}", "azureml_model_deployment": "blue"}
    assert post(azure, "again", {"text": "x"}, **headers)[2] == {"answer": "one x"}
    ml("deployment('again', 'blue', 'echo:2')")
    assert post(azure, "again", {"text": "x"}, **headers)[2] == {"answer": "two x"}


def test_two_operations_at_once(azure: LoopbackAzure, ml: Run, echo: str) -> None:
    azure.change(operation_s=1.0)
    with pytest.raises(ClientError, match="Updating provisioning state"):
        ml("""
found = ml.online_endpoints.get('echo')
first = ml.online_endpoints.begin_create_or_update(found)
try:
    ml.online_endpoints.begin_create_or_update(found)
finally:
    first.result()
""")


@pytest.mark.parametrize(
    ("now", "message"),
    [("Updating", "in Updating provisioning state"), ("Failed", "recreate the endpoint")],
)
def test_an_endpoint_that_is_not_ready(
    azure: LoopbackAzure, ml: Run, echo: str, now: str, message: str
) -> None:
    azure.place(azure.id(f"onlineEndpoints/{echo}"), {"provisioningState": now})
    with pytest.raises(ClientError, match=message):
        ml("deployment('echo', 'red')")
    azure.place(azure.id(f"onlineEndpoints/{echo}"), {"provisioningState": "Succeeded"})


def test_a_user_assigned_identity(azure: LoopbackAzure, ml: Run, assets: Path) -> None:
    provider = "Microsoft.ManagedIdentity/userAssignedIdentities"
    identity = f"{azure.settings.group_id}/providers/{provider}/id-llmops"
    azure.place(identity, {"principalId": "p", "clientId": "c"})
    ml("endpoint('with-id', identity=assigned('id-llmops'))")
    found = azure.get("onlineEndpoints/with-id")
    assert found and found["identity"]["userAssignedIdentities"][identity]["principalId"] == "p"


def test_a_user_assigned_identity_needs_its_roles_first(
    azure: LoopbackAzure, ml: Run, assets: Path
) -> None:
    group, principal = azure.settings.group_id, str(uuid.uuid4())
    identity = f"{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-roles"
    azure.place(identity, {"principalId": principal, "clientId": str(uuid.uuid4())})
    ml("endpoint('with-roles', identity=assigned('id-roles'))")
    with pytest.raises(ClientError, match=r"needs 'AcrPull' on .*crllmops"):
        ml("deployment('with-roles', 'blue')")
    roles = ("7f951dda-4ed3-4680-a7ca-43fe172d538d", "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1")
    provider = "/providers/Microsoft.Authorization"
    for role in roles:
        given = {
            "scope": group,
            "principalId": principal,
            "roleDefinitionId": f"{provider}/roleDefinitions/{role}",
        }
        azure.place(f"{group}{provider}/roleAssignments/{uuid.uuid4()}", given)
    ml("delete('with-roles', 'blue'); deployment('with-roles', 'blue')")


def test_code_is_uploaded_and_registered(azure: LoopbackAzure, ml: Run, echo: str) -> None:
    ml("""
code = CodeConfiguration(code=root + "/first", scoring_script="flow.py")
for _ in range(2):
    deployment("echo", "coded", code_configuration=code); delete("echo", "coded")
""")
    assert len([identity for identity in azure.state if "/codes/" in identity]) == 1


def test_an_endpoint_that_failed_takes_no_deployment(
    azure: LoopbackAzure, ml: Run, assets: Path
) -> None:
    azure.fail_operation("onlineEndpoints", code="InternalServerError", message="No capacity.")
    with pytest.raises(ClientError, match=r"InternalServerError.*No capacity"):
        ml("endpoint('unlucky')")
    with pytest.raises(ClientError, match="Please recreate the endpoint"):
        ml("deployment('unlucky', 'blue')")
    with pytest.raises(ClientError, match="Delete and re-create"):
        ml("endpoint('unlucky')")
    ml("delete('unlucky'); endpoint('unlucky')")
    azure.fail_operation("deployments", code="OutOfCapacity")
    with pytest.raises(ClientError, match="OutOfCapacity"):
        ml("deployment('unlucky', 'blue')")


def test_a_failed_update_leaves_the_traffic_where_it_was(
    azure: LoopbackAzure, ml: Run, echo: str
) -> None:
    ml("traffic('echo', blue=100)")
    azure.fail_operation("onlineEndpoints")
    with pytest.raises(ClientError, match="InternalServerError"):
        ml("traffic('echo', green=100)")
    found = azure.get("onlineEndpoints/echo")
    assert found and found["properties"]["provisioningState"] == "Failed"
    assert found["properties"]["traffic"] == {"blue": 100}
    ml("traffic('echo')")


def test_kubernetes(azure: LoopbackAzure, ml: Run, assets: Path) -> None:
    ml("""
endpoint('k8s-echo', KubernetesOnlineEndpoint, compute='aks-llmops')

def on_cluster(name, cpu='500m', memory='1Gi', **more):
    limits = dict(cpu='1', memory='2Gi')
    return ml.online_deployments.begin_create_or_update(KubernetesOnlineDeployment(
        name=name, endpoint_name='k8s-echo', model='azureml:echo:1', environment='azureml:llmops:1',
        instance_count=1, resources=ResourceRequirementsSettings(
            requests=ResourceSettings(cpu=cpu, memory=memory), limits=ResourceSettings(**limits)),
        **more)).result()

on_cluster('blue'); traffic('k8s-echo', blue=100)
""")
    key = ml("answer = ml.online_endpoints.get_keys('k8s-echo').primary_key")
    auth = {"Authorization": f"Bearer {key}"}
    assert post(azure, "k8s-echo", {"text": "x"}, **auth)[2] == {"answer": "one x"}
    assert post(azure, "k8s-echo", {"text": "fail"}, **auth)[0] == 502
    for call, message in {
        "on_cluster('green', cpu='2')": "Requested cpu is greater",
        "on_cluster('green', memory='4Gi')": "Requested memory is greater",
        "on_cluster('green', instance_type='gpu')": "'gpu' does not exist on the compute",
        "traffic('k8s-echo', mirror={'blue': 10})": "not supported for Kubernetes",
    }.items():
        with pytest.raises(ClientError, match=message):
            ml(call)


def test_a_promptflow_dag_with_a_connection(
    azure: LoopbackAzure, ml: Run, assets: Path, tmp_path: Path
) -> None:
    server = Server("replay", EXAMPLE / "recordings")
    server.start()
    variables = {"AOAI_API_BASE": server.url("aoai"), "AOAI_API_KEY": "replayed"}
    request, flow = tmp_path / "request.json", EXAMPLE / "flows" / "standard"
    request.write_text((EXAMPLE / "data" / "data.jsonl").read_text().splitlines()[0])
    try:
        answer = ml(f"""
ml.models.create_or_update(Model(name="ner", path={str(flow)!r}, tags={{"hash": "x"}}))
endpoint("ner")
deployment("ner", "blue", "ner:1", environment_variables={variables})
answer = ml.online_endpoints.invoke(
    "ner", request_file={str(request)!r}, deployment_name="blue")
""")
    finally:
        server.stop()
    assert list(json.loads(answer)) == ["entities"] and json.loads(answer)["entities"]
    with pytest.raises(ClientError, match="ResourceNotReady"):
        ml("deployment('ner', 'green', 'ner:1')")
    logs = ml("answer = ml.online_deployments.get_logs('green', 'ner', lines=50)")
    assert "AOAI_API_" in logs and "is not set" in logs


# --- faults and the log


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, "AuthenticationFailed"), (403, "AuthorizationFailed"), (404, "ResourceNotFound")],
)
def test_a_fault_strikes_once(azure: LoopbackAzure, ml: Run, status: int, error: str) -> None:
    azure.fail(status, method="GET", path="/computes$", skip=1)
    assert ml("answer = len(list(ml.compute.list()))") == 2
    with pytest.raises(ClientError, match=error):
        ml("list(ml.compute.list())")
    assert ml("answer = len(list(ml.compute.list()))") == 2


def test_the_client_tries_again_after_a_passing_fault(azure: LoopbackAzure, ml: Run) -> None:
    for fault in ({"status": 429, "retry_after": 0.2}, {"status": 500}, {"status": 0}):
        azure.fail(**fault, path="/computes$")
        assert ml("answer = len(list(ml.compute.list()))") == 2
    assert [entry["status"] for entry in azure.log] == [429, 200, 500, 200, 0, 200]


def test_the_log_tells_each_call_and_no_secret(azure: LoopbackAzure, ml: Run, assets: Path) -> None:
    ml("ml.models.create_or_update(Model(name='logged', path=root + '/first'))")
    log = azure.log
    calls = [(e["method"], e["host"].split(".")[1], e["path"].split("/")[-1]) for e in log]
    assert ("PUT", "azure", "1") in calls and ("POST", "azure", "listSecrets") in calls
    assert "sig=" not in json.dumps(log)
    assert all(entry["status"] < 500 for entry in log)


def test_an_unknown_call_says_so(azure: LoopbackAzure, ml: Run) -> None:
    with pytest.raises(ClientError, match="Not emulated: GET"):
        ml("list(ml.schedules.list())")


def test_no_test_left_the_machine(azure: LoopbackAzure) -> None:
    assert set(azure.refused) <= {"www.example.org:443"}
