"""`make update-template`: later changes of the template come in, to be reviewed like any others.

The template is baked twice with this repo's answers, as it was and as it is now, and git applies
the difference to the working tree, three-way: what was edited here stays, and what both changed is
marked as a conflict.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from llmops.errors import FAILED, OK, UserError
from llmops.settings import Settings

RECORD = Path(".template.json")
AUTHOR = ("-c", "user.name=template", "-c", "user.email=template@localhost")


class Record(BaseModel):
    """`.template.json`: the template, its commit and the answers that made this repo."""

    model_config = ConfigDict(frozen=True)

    template: str
    commit: str
    answers: dict[str, str]


def run(settings: Settings) -> int:
    """Bring in the template of VERSION; by default its newest tag, or else its newest commit.

    The changes are staged and not committed; 2 where files are in conflict.

    Raises:
        UserError: files here are not committed, or the template or the version cannot be had.
    """
    record = _read()
    top, prefix = Path(_git("rev-parse", "--show-toplevel")), _git("rev-parse", "--show-prefix")
    if _git("status", "--porcelain"):
        raise UserError("There are changes that are not committed. Commit or stash them first.")
    with tempfile.TemporaryDirectory(prefix="template-") as name:
        folder = Path(name)
        source = _clone(record.template, folder / "template")
        target = _version(source, settings.version)
        if target == record.commit:
            print(f"This repo is up to date with {record.template} ({target[:7]}).")
            return OK
        made = folder / "made"
        _git("init", "--quiet", str(made))
        before, after = (
            _baked(source, record.model_copy(update={"commit": one}), made, Path(prefix))
            for one in (record.commit, target)
        )
        _git("fetch", "--quiet", str(made), "HEAD", at=top)
        return _apply(top, before, after, f"{record.commit[:7]} to {target[:7]}")


def _read() -> Record:
    try:
        record = Record.model_validate_json(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise UserError(
            f"{RECORD}: not there or not of this version, so it is not known which template this "
            "repo comes from."
        ) from error
    if not record.commit:
        raise UserError(
            f"{RECORD}: commit: empty, because the template was no git repository. Write the "
            "commit of the template that this repo was generated from."
        )
    return record


def _clone(template: str, place: Path) -> Path:
    from cookiecutter.config import BUILTIN_ABBREVIATIONS
    from cookiecutter.repository import expand_abbreviations

    address = expand_abbreviations(template, BUILTIN_ABBREVIATIONS)
    _git("clone", "--quiet", address, str(place), trouble=f"the template {template}")
    return place


def _version(source: Path, wanted: str) -> str:
    """The commit of a version."""
    newest = _git("tag", "--list", "v*", "--sort=-version:refname", at=source).splitlines()
    name = wanted or (newest[0] if newest else "HEAD")
    what = f"VERSION: '{name}' of the template (expected one of {', '.join(newest) or 'a commit'})"
    return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", at=source, trouble=what)


def _baked(source: Path, record: Record, made: Path, prefix: Path) -> str:
    """Put the template's output into the repository `made`, where it lies here; its commit."""
    from cookiecutter.main import cookiecutter

    what = f"{RECORD}: commit: {record.commit} of the template"
    _git("checkout", "--quiet", record.commit, at=source, trouble=what)
    for path in made.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    inside = bool(prefix.name)
    output = made / prefix.parent if inside else made.with_name(f"out-{record.commit}")
    settings = made.with_name("cookiecutter.yaml")
    settings.write_text(f"replay_dir: {made.parent}\ncookiecutters_dir: {made.parent}\n")
    options = {"no_input": True, "output_dir": str(output), "config_file": str(settings)}
    place = Path(cookiecutter(str(source), extra_context=dict(record.answers), **options))
    (place / RECORD).write_text(json.dumps(record.model_dump(), indent=2) + "\n", encoding="utf-8")
    if inside and place.name != prefix.name:
        place = place.rename(place.with_name(prefix.name))
    if not inside:
        shutil.rmtree(place / ".git", ignore_errors=True)
        shutil.copytree(place, made, dirs_exist_ok=True, symlinks=True)
    _git("add", "--all", "--force", at=made)
    _git(*AUTHOR, "commit", "--quiet", "--allow-empty", "--message", record.commit, at=made)
    return _git("rev-parse", "HEAD", at=made)


def _apply(top: Path, before: str, after: str, what: str) -> int:
    """Apply the difference; files that were deleted here stay deleted."""
    here = set(_git("ls-tree", "-r", "--name-only", "-z", "HEAD", at=top).split("\0"))
    changed = _git("diff", "--name-only", "--diff-filter=MD", "-z", before, after, at=top)
    gone = sorted(name for name in changed.split("\0") if name and name not in here)
    difference = subprocess.run(
        ("git", "diff", "--binary", "--full-index", before, after),
        cwd=top,
        capture_output=True,
        check=True,
    ).stdout
    command = ("git", "apply", "--3way", "--whitespace=nowarn", *(f"--exclude={g}" for g in gone))
    done = subprocess.run(command, cwd=top, input=difference, capture_output=True, check=False)
    conflicts = _git("diff", "--name-only", "--diff-filter=U", at=top).splitlines()
    if done.returncode and not conflicts:
        raise UserError(f"The changes cannot be applied: {done.stderr.decode().strip()}")
    print(_git("diff", "--cached", "--stat", at=top) or "Nothing that is here changed.")
    for name in gone:
        print(f"left out, as it was deleted here: {name}")
    for name in conflicts:
        print(f"CONFLICT: {name}")
    print(f"template: {what}. Staged, not committed: look with `git diff --cached`, then commit.")
    return FAILED if conflicts else OK


def _git(*command: str, at: Path = Path(), trouble: str = "") -> str:
    """What git prints; raises UserError where it refuses."""
    alone = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ("git", *command), cwd=at, env=alone, capture_output=True, text=True, check=True
        )
    except OSError as error:
        raise UserError(f"git cannot be run ({error.strerror}). Install it.") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        reason = said[-1] if said else "not found"
        raise UserError(f"{trouble or 'git ' + command[0]}: {reason}.") from error
    return done.stdout.strip("\n")
