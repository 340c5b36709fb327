"""What of an older use case does not come in, and what does its work here."""

from __future__ import annotations

import re
from pathlib import Path

from llmops.onboarding.proposal import Left

PLACEHOLDER_TEST = "test_delete_this_file.py"
_PIPELINES = "the workflows of this repo take its place: .github/workflows and .azure-pipelines"
_PACKAGE = "the tasks of this repo (`make help`) take its place"
_PREPARES = (
    "no task prepares data: run it where it runs today, and let `source` name the rows it writes"
)
_AML_PIPELINE = "`make experiment TARGET=azure-pipeline` runs the flow in a pipeline of Azure ML"
_IMAGE = (
    "environment/Dockerfile of this repo builds the image, with the packages of requirements.txt "
    "in the flow's folder"
)
_FOLDERS = {
    ".github": _PIPELINES,
    ".azure-pipelines": _PIPELINES,
    "azure-pipelines": _PIPELINES,
    ".jenkins": f"{_PIPELINES}; a Jenkins job calls the same tasks",
    "jenkins": f"{_PIPELINES}; a Jenkins job calls the same tasks",
    ".azureml": "the variables SUBSCRIPTION_ID, RESOURCE_GROUP_NAME and WORKSPACE_NAME",
    "local-execution": "`make experiment` runs and scores the flow on this machine",
    "aml-pipeline": _AML_PIPELINE,
    "pf-in-aml-pipeline": _AML_PIPELINE,
    "data-pipelines": _PREPARES,
    "dataops": _PREPARES,
    "environment": _IMAGE,
    "docker": _IMAGE,
    "llmops": _PACKAGE,
    "mlops": _PACKAGE,
}
_OWN = "this repo has its own: copy by hand what you miss in it"
_FILES = {
    "readme.md": _OWN,
    "changelog.md": _OWN,
    "license": _OWN,
    "makefile": _OWN,
    "pyproject.toml": _OWN,
    "setup.cfg": _OWN,
    "setup.py": _OWN,
    "tox.ini": _OWN,
    "noxfile.py": _OWN,
    "agents.md": _OWN,
    "requirements.txt": "its packages are added to those of this repo",
    "dataops-config.json": _PREPARES,
}
_HIDDEN = "settings of a tool or a service; this repo has its own"


def find(folder: Path) -> list[Left]:
    """The files and folders of a use case that have no place in this repo, each with the reason.

    A subfolder that is a use case of its own is among them.
    """
    left = []
    for path in sorted(folder.iterdir()):
        if reason := _reason(path):
            left.append(Left(path, reason))
    for path in sorted(folder.rglob(PLACEHOLDER_TEST)):
        left.append(Left(path, "a placeholder that says itself to delete it"))
    for path in sorted((folder / "configs").glob("*")):
        own = _FILES.get(_key(path))
        left += [Left(path, own)] if own and path.is_file() else []
    return left


def _reason(path: Path) -> str:
    key = _key(path)
    if path.is_dir():
        if any(path.glob("experiment*.y*ml")):
            return "holds an experiment of its own: import it by itself"
        return _FOLDERS.get(key) or (_HIDDEN if key.startswith(".") else "")
    example = re.search(r"example|sample|template|dist", key)
    secret = key.startswith(".env") and not example  # the copier says why
    return _FILES.get(key) or (_HIDDEN if key.startswith(".") and not secret else "")


def _key(path: Path) -> str:
    return path.name.lower().replace("_", "-")
