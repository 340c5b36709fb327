"""What the template's tests share: the unbaked library on the path, baked repos, a clean machine.

A baked repo that several tests read is made once. Repos that run tasks share one prepared .venv,
the one thing about them that takes long; only `test_a_repo_prepares_itself` goes the whole way.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parents[1]
(HOUSE,) = ROOT.glob("*cookiecutter.project*")

# Child processes find the unbaked library, and no test meets the credentials or settings of the
# person who runs it.
os.environ["PYTHONPATH"] = str(HOUSE)
MINE = re.compile(
    r"(AOAI|OPENAI|AZURE|COMMON_DEV|DOCKER_IMAGE|PF|NOX|MAKE|GIT|MLFLOW)_?.*|MFLAGS"
    r"|ENV|LLM|VARIANTS|CONCURRENCY|FRESH|TARGET|INPUTS|KIND|PLAN|WAIT|FORCE|LOG|SAMPLE|SINCE|BASE|RUNS"
    r"|PORT|STATUS|DOWN|STEPS|REQUESTS|TAG|CONTEXT_ONLY|PRUNE|WORKERS|LOG_CONTENT|FEEDBACK_LOG|MAX_BODY_BYTES|OTEL_.*"
    r"|A|B|JUDGE|FROM|EVALUATOR|FLOW|DATA|YES|NOTE|APPROVED_BY|TF_BUILD|(GITHUB|BUILD)_.*|VIRTUAL_ENV"
)
for name in filter(MINE.fullmatch, list(os.environ)):
    del os.environ[name]

# What reaches the tasks of a baked repo: nothing but the way to the programs and the packages.
PASSED_ON = re.compile(r"PATH|LANG|TERM|TMPDIR|(PIP|UV|SSL|REQUESTS_CA)_.*|(?i:(https?|no)_proxy)")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

Bake = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def generate(tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """generate(folder, template=ROOT, **answers): cookiecutter, with no trace in the home."""
    settings = tmp_path_factory.mktemp("cookiecutter")
    config = settings / "config.yaml"
    config.write_text(f"replay_dir: {settings}\ncookiecutters_dir: {settings}\n")

    def generate(folder: Path, template: Path = ROOT, **answers: str) -> Path:
        options = {"no_input": True, "config_file": str(config), "output_dir": str(folder)}
        return Path(cookiecutter(str(template), extra_context=answers, **options))

    return generate


@pytest.fixture(scope="session")
def baked(generate: Bake, tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """baked(**answers): a repo that other tests read too, so it must not be changed."""
    known: dict[frozenset[tuple[str, str]], Path] = {}

    def baked(**answers: str) -> Path:
        key = frozenset(answers.items())
        if key not in known:
            known[key] = generate(tmp_path_factory.mktemp("baked"), **answers)
        return known[key]

    return baked


@pytest.fixture
def bake(baked: Bake, tmp_path: Path) -> Bake:
    """bake(**answers): a repo of the test's own, without a .venv."""

    def bake(**answers: str) -> Path:
        repo = baked(**answers)
        return shutil.copytree(repo, tmp_path / repo.name)

    return bake


@pytest.fixture
def ready(bake: Bake, environment: Path) -> Bake:
    """ready(**answers): a repo of the test's own that shares the prepared .venv."""

    def ready(**answers: str) -> Path:
        repo = bake(**answers)
        (repo / ".venv").symlink_to(environment)
        # Newer than the lock that was just copied; else make would prepare it anew.
        os.utime(environment / "bin" / "nox")
        return repo

    return ready


@pytest.fixture(scope="session")
def environment(baked: Bake, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .venv with everything that tasks, tests and lint need, apart from any repo."""
    repo = shutil.copytree(baked(), tmp_path_factory.mktemp("environment") / "repo")
    made = run(repo, "make", "test", PYTEST_ADDOPTS="--version")
    assert made.returncode == 0, made.stderr
    return repo / ".venv"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """run(folder, *command, **variables): on a clean machine, with an empty home."""
    clean = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    own = str(ROOT / ".venv")
    path = [part for part in clean["PATH"].split(os.pathsep) if not part.startswith(own)]
    # Of what this machine has, only uv's cache is shared.
    uv = Path(sys.executable).with_name("uv")
    cache = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True)
    clean |= {"PATH": os.pathsep.join(path), "UV_CACHE_DIR": cache.stdout.strip()}
    clean |= {"HOME": str(tmp_path_factory.mktemp("home"))}

    def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {**clean, **variables}
        return subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; without it the tests are skipped, in CI they fail."""
    missing = "" if CHROMIUM else "Chromium is missing: apt-get install chromium"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "the package playwright is missing"
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()
