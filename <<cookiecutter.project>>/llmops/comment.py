"""`make comment`: reports/summary.md on the job's page and in one comment on the pull request."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llmops import summary
from llmops.errors import OK, UserError
from llmops.files import unwritable
from llmops.forge import AzureRepos, Forge, GitHub, Refused, keep_one
from llmops.report.inert import text
from llmops.report.markdown import cut
from llmops.settings import Settings
from llmops.summary import SUMMARY

MARKDOWN = SUMMARY.with_name("summary.md")
JOB_PAGE = 1_048_576
"""Bytes that a step's summary may have in GitHub Actions."""
Variables = Mapping[str, str]


@dataclass(frozen=True)
class _Pull:
    """A pull request: where to write, which commit was judged, and what to do where it is refused.

    `link` leads to the run; `forge` is made only when the token is known.
    """

    number: int
    commit: str
    link: str
    token: str
    forge: Callable[[str], Forge]
    remedy: str


def run(_: Settings) -> int:
    """Show the last report's summary where this runs: a job's page, a pull request.

    Without the right to comment it says so, and the job's page has to do. Elsewhere it prints where
    the file is.

    Raises:
        UserError: there is no report, a variable of the pipeline is missing, or the service that
            holds the comments does not answer.
    """
    document, name = _read(MARKDOWN), summary.load().experiment
    if os.environ.get("GITHUB_ACTIONS") == "true":
        _on_github(os.environ, document, name)
    elif os.environ.get("TF_BUILD"):
        _on_azure(os.environ, document, name)
    else:
        print(f"summary: {MARKDOWN} (not in GitHub Actions or Azure Pipelines: shown nowhere else)")
    return OK


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}). Run `make experiment` first."
        ) from error


def _on_github(given: Variables, document: str, name: str) -> None:
    marker = _marker(name, given.get("GITHUB_WORKSPACE", ""))
    try:
        note = _comment(_github_pull(given), marker, document)
    except UserError as error:
        _on_job_page(given, document, f"There is no comment: {error}")
        raise
    _on_job_page(given, document, note)


def _on_azure(given: Variables, document: str, name: str) -> None:
    print(f"##vso[task.uploadsummary]{MARKDOWN.absolute()}")
    if given.get("BUILD_REPOSITORY_PROVIDER", "TfsGit") != "TfsGit":
        print("comment: none, as the code is not in Azure Repos, so a pull request is elsewhere")
        return
    marker = _marker(name, given.get("BUILD_SOURCESDIRECTORY", ""))
    _comment(_azure_pull(given), marker, document)


def _comment(pull: _Pull | None, marker: str, document: str) -> str:
    """Write the comment and print what became of it; returns why there is none, else nothing."""
    if pull is None:
        print("comment: none, as this is no pull request")
        return ""
    foot = f"\n[The run and its report]({pull.link}) · commit {pull.commit[:7]}\n"
    try:
        if not pull.token:
            raise Refused("there is no token")
        forge = pull.forge(pull.token)
        room = forge.limit - len(f"{marker}\n\n{foot}".encode())
        done = keep_one(forge, marker, f"{cut(document, room)}{foot}")
    except Refused as error:
        note = f"There is no comment on pull request {pull.number}: {error}. {pull.remedy}"
        print(f"comment: {note}")
        return note
    print(f"comment: {done} on pull request {pull.number}")
    return ""


def _marker(name: str, root: str) -> str:
    """The hidden line that a comment is found by: the use case's folder in the repo, and its name.

    The folder keeps apart two use cases of one name.
    """
    here, top = Path.cwd(), Path(root).resolve()
    folder = here.relative_to(top).as_posix() if root and here.is_relative_to(top) else "."
    return f"<!-- llmops {quote(folder)} {quote(name, safe='')} -->"


def _on_job_page(given: Variables, document: str, note: str) -> None:
    """Append the summary to the step's own, as far as there is room, with the note below."""
    path = Path(given.get("GITHUB_STEP_SUMMARY", ""))
    if not path.name:
        print(f"summary: {MARKDOWN} (GITHUB_STEP_SUMMARY is not set)")
        return
    foot = f"\n> {text(note, 600)}\n" if note else ""
    try:
        taken = path.stat().st_size if path.exists() else 0
        shown = cut(document, JOB_PAGE - taken - len(foot.encode()) - 1)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{shown}{foot}\n" if shown else "")
    except OSError as error:
        raise unwritable(path, error) from error
    print("summary: " + ("on the job's page" if shown else f"{MARKDOWN}; the job's page is full"))


def _github_pull(given: Variables) -> _Pull | None:
    pull = _event(given).get("pull_request")
    if not pull:
        return None
    api = _needed(given, "GITHUB_API_URL").rstrip("/")
    repository = _needed(given, "GITHUB_REPOSITORY")
    graphql, number = given.get("GITHUB_GRAPHQL_URL") or f"{api}/graphql", int(pull["number"])
    server = given.get("GITHUB_SERVER_URL", "https://github.com")
    remedy = (
        "Give the job `permissions: pull-requests: write` and the step "
        "`GITHUB_TOKEN: ${{ github.token }}`."
    )
    if (pull["head"].get("repo") or {}).get("full_name") != repository:
        remedy = "It comes from a fork, whose jobs may only read."
    return _Pull(
        number,
        pull["head"]["sha"],
        f"{server}/{repository}/actions/runs/{given.get('GITHUB_RUN_ID', '')}",
        given.get("GITHUB_TOKEN", "").strip(),
        lambda token: GitHub(api, graphql, repository, number, token),
        remedy,
    )


def _event(given: Variables) -> dict[str, Any]:
    path = _needed(given, "GITHUB_EVENT_PATH")
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"GITHUB_EVENT_PATH: '{path}' cannot be read ({error}).") from error
    return found if isinstance(found, dict) else {}


def _azure_pull(given: Variables) -> _Pull | None:
    number = given.get("SYSTEM_PULLREQUEST_PULLREQUESTID", "")
    if not number.isdecimal():
        return None
    collection = _needed(given, "SYSTEM_COLLECTIONURI").rstrip("/")
    project = _needed(given, "SYSTEM_TEAMPROJECT")
    repository = _needed(given, "BUILD_REPOSITORY_ID")
    return _Pull(
        int(number),
        given.get("SYSTEM_PULLREQUEST_SOURCECOMMITID", given.get("BUILD_SOURCEVERSION", "")),
        f"{collection}/{quote(project)}/_build/results?buildId={given.get('BUILD_BUILDID', '')}",
        given.get("SYSTEM_ACCESSTOKEN", "").strip(),
        lambda token: AzureRepos(collection, project, repository, int(number), token),
        "Give the step `SYSTEM_ACCESSTOKEN: $(System.AccessToken)` and the build service the right "
        "'Contribute to pull requests' in the repository.",
    )


def _needed(given: Variables, name: str) -> str:
    if not (value := given.get(name, "")):
        raise UserError(f"{name}: not set. The pipeline sets it; pass it on to this task.")
    return value
