"""`make update-template`: from one version of the template to the next, with edits between."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HOUSE, ROOT, Bake
from usecase import Outcome


def git(folder: Path, *command: str) -> str:
    own = ("-c", "user.name=Someone", "-c", "user.email=someone@example.com")
    done = subprocess.run(
        ["git", *own, *command], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "x")


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """The template as a repository of its own, tagged v0.1.0."""
    folder = tmp_path / "template"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder.parent, "init", "--quiet", "--initial-branch=main", str(folder))
    commit(folder)
    git(folder, "tag", "v0.1.0")
    return folder


def release(template: Path, tag: str, **changes: tuple[str, str]) -> None:
    """A new version: of each file (`__` is `/`, `_dot_` a dot) one text replaced by another."""
    for name, (before, after) in changes.items():
        path = template / HOUSE.name / name.replace("__", "/").replace("_dot_", ".")
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))
    (template / HOUSE.name / "docs" / f"{tag}.md").write_text("# New\n")
    commit(template)
    git(template, "tag", tag)


def update(repo: Path, **variables: str) -> Outcome:
    """Run the task."""
    place = repo.parent / "home"
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.update_template"],
        cwd=repo,
        env={"PATH": os.environ["PATH"], "HOME": str(place), "PYTHONPATH": str(HOUSE), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert list(place.iterdir()) == [], "nothing is left in the home folder"
    return Outcome(done.returncode, done.stdout, done.stderr, None)


@pytest.fixture
def repo(template: Path, generate: Bake, tmp_path: Path) -> Path:
    """A repo of v0.1.0 with edits of its own."""
    made = generate(tmp_path / "mine", template=template, project="entities", owner="Us")
    commit(made)
    readme = made / "README.md"
    readme.write_text(readme.read_text().replace("# entities", "# Entities of ours"))
    (made / "docs" / "own.md").write_text("ours\n")
    (made / "AGENTS.md").unlink()
    commit(made)
    return made


def test_what_the_repo_records(template: Path, repo: Path) -> None:
    record = json.loads((repo / ".template.json").read_text())
    assert record["template"] == str(template)
    assert record["commit"] == git(template, "rev-parse", "v0.1.0")
    assert record["answers"]["project"] == "entities"


def test_the_next_version_comes_in_beside_ones_own_edits(template: Path, repo: Path) -> None:
    assert update(repo).out.startswith("This repo is up to date")
    release(
        template,
        "v0.2.0",
        README_dot_md=("## Ask a model", "## Ask any model"),
        AGENTS_dot_md=("# ", "## "),
        llmops__errors_dot_py=("OK = 0", "OK = 0  # fine"),
    )
    outcome = update(repo)
    assert outcome.code == 0, outcome.text
    readme = (repo / "README.md").read_text()
    assert "# Entities of ours" in readme and "## Ask any model" in readme
    assert "OK = 0  # fine" in (repo / "llmops/errors.py").read_text()
    assert (repo / "docs/v0.2.0.md").exists() and (repo / "docs/own.md").exists()
    assert not (repo / "AGENTS.md").exists()
    assert "left out, as it was deleted here: AGENTS.md" in outcome.out
    assert "README.md" in git(repo, "diff", "--cached", "--name-only")
    record = json.loads((repo / ".template.json").read_text())
    assert record["commit"] == git(template, "rev-parse", "v0.2.0")
    update(repo).refused("not committed")
    commit(repo)
    assert "up to date" in update(repo).out
    release(template, "v0.10.0")
    assert update(repo, VERSION="v0.2.0").out.startswith("This repo is up to date")
    assert update(repo).code == 0 and (repo / "docs/v0.10.0.md").exists()


def test_what_both_changed_is_a_conflict(template: Path, repo: Path) -> None:
    errors = repo / "llmops" / "errors.py"
    errors.write_text(errors.read_text().replace("OK = 0", "OK = 0  # ours"))
    commit(repo)
    release(template, "v0.2.0", llmops__errors_dot_py=("OK = 0", "OK = 0  # theirs"))
    outcome = update(repo)
    assert outcome.code == 2 and "CONFLICT: llmops/errors.py" in outcome.out, outcome.text
    text = errors.read_text()
    assert "# ours" in text and "# theirs" in text and "<" * 7 in text
    assert (repo / "docs/v0.2.0.md").exists(), "what is in no conflict came in"


def test_one_of_several_use_cases_in_a_repo(template: Path, generate: Bake, tmp_path: Path) -> None:
    top = tmp_path / "several"
    top.mkdir()
    git(top, "init", "--quiet", "--initial-branch=main")
    repo = generate(top / "cases", template=template, project="entities")
    commit(top)
    workflow = ".github/workflows/llmops-pr.yml"
    name = workflow.replace("/", "__").replace(".yml", "_dot_yml")
    release(
        template,
        "v0.2.0",
        llmops__errors_dot_py=("OK = 0", "OK = 0  # fine"),
        **{name: ("make lint", "make lint test")},
    )
    outcome = update(repo)
    assert outcome.code == 0, outcome.text
    assert "OK = 0  # fine" in (repo / "llmops/errors.py").read_text()
    assert "make lint test" in (top / workflow).read_text()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"template": "/nowhere"}, ["the template /nowhere"]),
        ({"commit": "0" * 40}, [".template.json: commit", "of the template"]),
        ({"commit": ""}, [".template.json: commit: empty"]),
        ({"answers": None}, [".template.json: not there or not of this version"]),
    ],
)
def test_a_record_that_leads_nowhere(
    template: Path, repo: Path, change: dict[str, object], parts: list[str]
) -> None:
    release(template, "v0.2.0")
    path = repo / ".template.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    commit(repo)
    update(repo).refused(*parts)


def test_a_version_that_is_none(template: Path, repo: Path) -> None:
    update(repo, VERSION="v9").refused("VERSION: 'v9' of the template", "v0.1.0")
