"""The tasks of this repo; `make NAME` and `nox -s NAME` are the same.

Variables, in the environment or behind the task, as in `make experiment ENV=prod`:

  ENV=dev             lay experiment.<ENV>.yaml over experiment.yaml: dev, pr, prod, postprod
  VARIANTS=all        the variants to run: all, default, combinations, or names with commas between
  CONCURRENCY=4       rows at a time (default: limits.concurrency of experiment.yaml)
  TARGET=azure        where experiment and evaluate run: local (default), azure, azure-pipeline
  BASE=main           what `make compare` compares with: a branch, a tag or a commit
  A=flows/x B=flows/y the two flows that `make parity` compares; JUDGE=1: by judges too
  RUNS=runs/x,runs/y  what `make evaluate` scores (default: the runs of the last experiment)
  FRESH=1             run, or embed, again what is unchanged since the last run
  LLM=live            where answers come from: live, replay, record
                      (default: live where credentials are set, else replay)
  MLFLOW_TRACKING_URI=https://…  log each experiment to this MLflow server too (or in .env)
  LOG=path            the log that `make monitor` scores (default: the one of experiment.<ENV>.yaml;
                      ENV is postprod there); in Azure: azureml://datastores/<name>/paths/<path>
                      or azureml:<data asset>:<version>, as the endpoint's data collector fills it;
                      with KIND=local: runs/endpoints/<name>, where there are several endpoints
  SINCE=2026-11-01    of that only what was collected since a day, or 2026-11-01..2026-11-07
  SAMPLE=200          score so many rows of it, drawn with a fixed seed (default: all)
  INPUTS='text="hi"'  inputs for `make try` (default: the first row of the data)
  PORT=8080           where `make serve` and an endpoint of KIND=local listen on 127.0.0.1 (0: any
                      that is free); there CONCURRENCY is how many requests may be under way
  WORKERS=2           processes that run its rows (default: one a core)
  LOG_CONTENT=1       its log holds what was asked and answered too; keys never
  FEEDBACK_LOG=path   the folder that POST /feedback fills (default: runs/serving)
  KIND=managed        where `make deploy` goes: managed, kubernetes, webapp (default: the entry of
                      configs/deployment_config.json that is filled in for ENV), or local: this
                      machine, without Azure
  STATUS=1            with KIND=local: `make deploy` says how the endpoint is, and changes nothing
  DOWN=1              with KIND=local: `make deploy` ends the endpoint's processes
                      (`make monitor KIND=local` says how its deployments compare)
  PLAN=1              say what deploy, cutover, rollback, onboard or eject would change, and change
                      nothing
  WAIT=600            seconds that they wait for a change that is under way already, and for roles
                      that were granted just now to act; cutover: for answers to compare
  STEPS=1,10,50,100   percent of the traffic for the current deployment, a `make cutover` each
  REQUESTS=30         what each deployment must have answered since the last step before the next
  FORCE="reason"      register what the gate stops, the reason becomes a tag; cut over to a flow
                      that answers differently
  APPROVED_BY=prod    for `make approve` in a pipeline: the environment whose reviewers said yes
  NOTE="words"        a remark to keep with an approval; BASE=<git ref> shows the changes since
  FROM=../my-flow     what `make onboard` brings in: a flow's folder or file, path/flow.py:function,
                      a use case of Microsoft's template, or a code-first repo (FLOW: a name in it)
  EVALUATOR=../eval   the evaluation flow that it brings in; DATA=rows.csv instead of what it finds
  FLOW=flows/standard what `make eject` writes anew, TO=python (default) or TO=agent-framework
  PRUNE=1             let `make index` list versions in Azure AI Search that nothing names
  YES=1               let onboard and eject replace files that are here already, and PRUNE remove
  CONTEXT_ONLY=1      let `make image` stop at the folder that the image is built from
  TAG=name:1.2        the name of its image (default: the experiment's and its flow's hash)
  VERSION=v1.2.0      the template's version that `make update-template` brings in (default: newest)
  GITHUB_TOKEN        what `make comment` writes to a pull request with, in GitHub Actions;
                      in Azure Pipelines SYSTEM_ACCESSTOKEN
"""

from __future__ import annotations

import ast
import hashlib
import io
import logging
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
BIN = ROOT / ".venv" / "bin"
# Each group is locked against those before it, because they share one .venv.
# The first are those that bound the others most.
GROUPS = (
    *("promptflow", "azure", "local", "tasks", "dev", "promptflow-azure", "agent-framework"),
    *("tracking", "notebook", "template", "index", "flow"),
)
PROMPT_FLOW = ("*.dag.yaml", "*.flex.yaml", "*.prompty")
IMPORTED = {"promptflow": "promptflow", "agent_framework": "agent-framework"}

nox.options.default_venv_backend = "none"
nox.options.sessions = ["help"]
logging.getLogger("nox").setLevel(logging.WARNING)  # the last lines of a task are its own


@nox.session
def help(session: nox.Session) -> None:
    """List the tasks and their variables."""
    run("make", "help")


@nox.session
def validate(session: nox.Session) -> None:
    """Check configuration, flows and data without running anything."""
    script("validate")


@nox.session
def index(session: nox.Session) -> None:
    """Bring the index over the documents (`index:` in experiment.yaml) up to date."""
    script("index")


@nox.session(name="try")
def try_(session: nox.Session) -> None:
    """Run the flow on one row, or on INPUTS, and print what comes out."""
    script("try")


@nox.session
def serve(session: nox.Session) -> None:
    """Serve the flow (VARIANTS=one) as an HTTP endpoint on this machine."""
    script("serve")


@nox.session
def experiment(session: nox.Session) -> None:
    """Run every variant over every dataset, evaluate, report and gate."""
    script("experiment", *target(), *tracking())


@nox.session
def compare(session: nox.Session) -> None:
    """Run BASE (a branch or commit) beside the files as they are, and compare."""
    script("compare", *flows_of_base(), *target())


@nox.session
def parity(session: nox.Session) -> None:
    """Do two implementations of the flow, A and B, do the same? Ends with 2 if not."""
    script("parity")


@nox.session
def evaluate(session: nox.Session) -> None:
    """Score the outputs of the last run again, without running the flow."""
    script("evaluate", *target(), *tracking())


@nox.session
def report(session: nox.Session) -> None:
    """Write reports/ again from the last run."""
    script("report")


@nox.session
def gate(session: nox.Session) -> None:
    """Judge the last run by the checks under `gate:` in experiment.yaml."""
    script("gate")


@nox.session
def comment(session: nox.Session) -> None:
    """In a pipeline: the verdict on the job's page and on the pull request."""
    script("comment")


@nox.session
def record(session: nox.Session) -> None:
    """Run the experiment live and keep the model's answers in recordings/."""
    script("record", *tracking())


@nox.session
def doctor(session: nox.Session) -> None:
    """Say what is configured, what is missing and which endpoints answer."""
    script("doctor")


@nox.session(name="azure-setup")
def azure_setup(session: nox.Session) -> None:
    """Make the pipelines' identity in Azure and give it its roles: plans, then asks."""
    run("bash", "scripts/azure_setup.sh")


@nox.session
def image(session: nox.Session) -> None:
    """Build the image that serves the flow (VARIANTS=one) wherever Docker runs."""
    script("image")


@nox.session
def register(session: nox.Session) -> None:
    """Register the flow (VARIANTS=one) and its data in Azure ML where they changed."""
    script("register", "azure")


@nox.session
def approve(session: nox.Session) -> None:
    """Show the last run to a person and ask for a yes that `make deploy` wants."""
    script("approve")


@nox.session
def deploy(session: nox.Session) -> None:
    """Roll the registered flow out to ENV's endpoint, tested before traffic."""
    script("deploy", *kind())


@nox.session(name="check-endpoint")
def check_endpoint(session: nox.Session) -> None:
    """Send the sample request to ENV's endpoint and to each of its deployments."""
    script("check_endpoint", *kind())


@nox.session
def rollback(session: nox.Session) -> None:
    """Lead all traffic of ENV's endpoint back to the prior deployment."""
    script("rollback", *kind())


@nox.session
def cutover(session: nox.Session) -> None:
    """Lead traffic one of STEPS on to the current deployment, if it is no worse."""
    script("cutover", *kind(), *tracking())


@nox.session
def monitor(session: nox.Session) -> None:
    """Score a production log, judge it, and say what drifted since registration."""
    script("monitor", *tracking())


@nox.session
def notebook(session: nox.Session) -> None:
    """Run notebooks/evaluate.ipynb on the last run; its outputs are in reports/."""
    script("notebook", "notebook")


@nox.session
def onboard(session: nox.Session) -> None:
    """Bring in a flow or a use case that exists already (FROM=path), unchanged."""
    named = (os.environ.get(name, "").partition(":")[0] for name in ("FROM", "EVALUATOR"))
    script("onboard", *flows_need(ROOT, *(ROOT / place for place in named if place)))
    relock("flow")


@nox.session
def eject(session: nox.Session) -> None:
    """Write a flow (FLOW=flows/standard) anew as plain Python or Agent Framework."""
    script("eject", "dev")


@nox.session(name="update-template")
def update_template(session: nox.Session) -> None:
    """Bring later changes of the template in, as changes to review."""
    script("update_template", "template")


@nox.session
def test(session: nox.Session) -> None:
    """Run the tests."""
    install(*always(), "dev")
    run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check formatting, style and types."""
    install(*always(), "dev")
    run("ruff", "format", "--check", "--quiet", ".")
    run("ruff", "check", "--quiet", ".")
    run("python", "-m", "mypy")


@nox.session
def lock(session: nox.Session) -> None:
    """Write requirements/ from pyproject.toml (newest: nox -s lock -- --upgrade)."""
    for index, group in enumerate(GROUPS):
        compile_lock(group, GROUPS[:index], *session.posargs)


def always() -> tuple[str, ...]:
    """The packages that every task needs: its own, and those of this repo's flows."""
    return ("local", *flows_need(ROOT), "flow", *indexing())


def flows_need(root: Path, *more: Path) -> tuple[str, ...]:
    """The packages that flows need by what they are: a file of prompt flow's, or an import.

    They are below flows/, where `flow:` in an experiment.yaml says, or at `more` places.
    """
    named = re.compile(r"\bflow['\"]? *: *['\"]?([^\s'\",:}]+)")
    texts = [path.read_text("utf-8-sig", "replace") for path in root.glob("experiment*.yaml")]
    others = {*more, *(root / place for text in texts for place in named.findall(text))}
    places = {root / "flows", *(path.parent if path.is_file() else path for path in others)}
    below = {path for place in places if place.resolve() != root for path in written(place)}
    files = {*below, *filter(Path.is_file, others)}
    found = {"promptflow" for path in files if any(map(path.match, PROMPT_FLOW))}
    modules = {name for path in files if path.suffix == ".py" for name in imports(path)}
    found |= {group for module, group in IMPORTED.items() if module in modules}
    return tuple(sorted(found))


def written(folder: Path) -> Iterator[Path]:
    """The files below a folder, without what hides or is a .venv."""
    for place, folders, names in os.walk(folder):
        if "pyvenv.cfg" in names:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        yield from (Path(place, name) for name in names)


def imports(path: Path) -> set[str]:
    """The packages that a file's code imports; none where it is not Python."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8-sig"))))
    except (SyntaxError, ValueError, RecursionError):
        return set()
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def flows_of_base() -> tuple[str, ...]:
    """The same of BASE, whose flows may be others."""
    base = os.environ.get("BASE", "")
    archive = ("git", "archive", base, "*experiment*.yaml", "flows")
    if not re.match(r"\w", base):
        return ()
    with tempfile.TemporaryDirectory() as folder:
        answer = subprocess.run(archive, cwd=ROOT, capture_output=True, check=False)
        if answer.returncode:  # the task says what is wrong with it
            return ()
        with tarfile.open(fileobj=io.BytesIO(answer.stdout)) as packed:
            packed.extractall(folder, filter="data")
        return flows_need(Path(folder).resolve())


def target() -> tuple[str, ...]:
    """The packages that TARGET needs besides."""
    elsewhere = os.environ.get("TARGET", "").startswith("azure")  # any other: the task refuses it
    return ("azure", "promptflow", "promptflow-azure") if elsewhere else ()


def kind() -> tuple[str, ...]:
    """The packages that KIND needs besides."""
    return () if os.environ.get("KIND") == "local" else ("azure",)


def indexing() -> tuple[str, ...]:
    """The packages that an index over documents needs, where experiment.yaml has one."""
    files = [path for path in ROOT.glob("experiment*.yaml") if path.is_file()]
    text = "\n".join(path.read_text(encoding="utf-8-sig", errors="replace") for path in files)
    if not (block := re.search(r"^['\"]?index['\"]? *:.*(\n([ #].*)?)*", text, re.M)):
        return ()
    return ("index", "azure") if re.search(r"\bsearch['\"]? *:", block[0]) else ("index",)


def tracking() -> tuple[str, ...]:
    """The packages that MLFLOW_TRACKING_URI, set in the environment or in .env, needs."""
    file, value = ROOT / ".env", os.environ.get("MLFLOW_TRACKING_URI")
    if value is None and file.is_file():
        text = file.read_text(encoding="utf-8-sig", errors="replace")
        found = re.search(r"^ *(?:export +)?MLFLOW_TRACKING_URI *= *['\"]?([^\s'\"#]*)", text, re.M)
        value = found[1] if found else ""
    return ("tracking",) if value and value.strip() else ()


def script(name: str, *groups: str) -> None:
    """Run scripts/<name>.py with these groups installed too; its exit code becomes the task's."""
    install(*always(), *groups)
    run("python", f"scripts/{name}.py")


def install(*groups: str) -> None:
    """Bring the locked packages of these groups into .venv, unless they are there already."""
    if not (BIN / "nox").exists():
        run("make", "--no-print-directory", ".venv/bin/nox")
    stamps = {}
    for group in dict.fromkeys(groups):
        content = (ROOT / "requirements" / f"{group}.txt").read_bytes()
        stamp = ROOT / ".venv" / f"{group}.sha256"
        digest = hashlib.sha256(content).hexdigest()
        empty = not re.search(rb"^\w", content, re.M)
        if not empty and (not stamp.exists() or stamp.read_text() != digest):
            stamps[stamp] = digest
    if stamps:
        locks = [f"requirements/{stamp.stem}.txt" for stamp in stamps]
        print(f"Installing {', '.join(locks)} into .venv ...", file=sys.stderr)
        # A lock is complete; that its packages fit together, `make lock` has decided.
        how = ("--quiet", "--require-hashes", "--no-deps")
        run("uv", "pip", "install", *how, *(f"--requirement={ROOT / lock}" for lock in locks))
    for stamp, digest in stamps.items():
        stamp.write_text(digest)


def relock(group: str) -> None:
    """Lock the packages that pyproject.toml names in this group; every other lock stays as it is.

    Nothing is done where they are locked already. Where they do not fit, the lock stays too.
    """
    lock_file = ROOT / "requirements" / f"{group}.txt"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {plain(re.match(r"[\w.-]*", line)[0]) for line in project["dependency-groups"][group]}
    locked = re.findall(r"^[\w.-]+", lock_file.read_text(encoding="utf-8"), re.M)
    if wanted <= set(map(plain, locked)):
        return
    print(f"Locking {', '.join(sorted(wanted))} ...", file=sys.stderr)
    try:
        compile_lock(group, tuple(other for other in GROUPS if other != group))
    except SystemExit:
        sys.exit(
            f"requirements/{group}.txt: cannot be written: the lines above say why; it is as it "
            f"was. Change or remove the package in the list '{group}' of pyproject.toml, then run "
            "again. The other locks give way only to `make lock`."
        )


def plain(name: str) -> str:
    """A package's name as locks write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def compile_lock(group: str, others: tuple[str, ...], *options: str) -> None:
    """Write requirements/<group>.txt so that it fits together with the locks of these others."""
    run(
        *("uv", "pip", "compile", "--quiet", "--no-annotate", "--universal"),
        *("--python-version=3.11", "--generate-hashes", "--custom-compile-command=make lock"),
        *(f"--constraint=requirements/{other}.txt" for other in others),
        *(f"--group={group}", f"--output-file=requirements/{group}.txt", *options),
    )


def run(*command: str) -> None:
    """Run a command of .venv; where it fails, stop with its exit code.

    Ctrl-C reaches the command by itself and SIGTERM is passed on, so that it can stop cleanly.
    """
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    search = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    here = {"PATH": path, "PYTHONPATH": search, "VIRTUAL_ENV": str(BIN.parent)}
    signal.signal(signal.SIGINT, lambda *_: None)
    child = subprocess.Popen(command, env={**os.environ, **here})
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    if code := child.wait():
        sys.exit(code if code > 0 else 128 - code)
