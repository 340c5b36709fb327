"""`make comment`: one comment on a pull request, the job's page, and neither without rights."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import llmops
import pytest
from llmops.report.markdown import CUT, cut
from llmops.summary import Gate, Llm, Summary, save
from loopback_forge import BOT, PERSON, PROJECT, REPOSITORY, STRANGER, Forge

LIBRARY = Path(llmops.__file__).resolve().parents[1]
Told = subprocess.CompletedProcess[str]


@pytest.fixture
def forge() -> Iterator[Forge]:
    with Forge() as forge:
        yield forge


class Case:
    """A use case's folder in the checked-out repo of a pipeline, with a report."""

    def __init__(self, repo: Path, folder: str, name: str) -> None:
        self.repo, self.folder = repo, repo / folder
        (self.folder / "reports").mkdir(parents=True)
        self.page = repo / f"page-{folder}.md"
        summary = Summary(
            experiment=name,
            env="pr",
            llm=Llm(mode="replay"),
            started_at="2026-11-20T09:03:12+00:00",
            seconds=1,
            runs=(),
            gate=Gate(verdict="pass"),
        )
        save(summary, self.folder / "reports" / "summary.json")
        self.say("## ✅ Gate passed")

    def say(self, text: str) -> None:
        (self.folder / "reports" / "summary.md").write_text(f"{text}\n", encoding="utf-8")

    def comment(self, **variables: str) -> Told:
        """Run the task as a pipeline does; the token must not be in what it prints."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        told = subprocess.run(
            [sys.executable, "-m", "scripts.comment"],
            cwd=self.folder,
            env={**kept, "PYTHONPATH": str(LIBRARY), "NO_PROXY": "127.0.0.1", **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "secret" not in told.stdout + told.stderr
        assert "Traceback" not in told.stderr
        return told


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    return lambda folder="ner", name="named entities": Case(tmp_path / "repo", folder, name)


def on_github(
    forge: Forge, case: Case, token: str = "secret-of-the-bot", **event: Any
) -> dict[str, str]:
    """The variables of a job for pull request 7."""
    head = {"sha": "abcdef0123456789", "repo": {"full_name": "ada/cases"}}
    path = case.repo / "event.json"
    path.write_text(json.dumps({"pull_request": {"number": 7, "head": head}, **event}))
    return {
        "GITHUB_ACTIONS": "true",
        "GITHUB_API_URL": f"{forge.url}/api/v3",
        "GITHUB_GRAPHQL_URL": f"{forge.url}/api/graphql",
        "GITHUB_SERVER_URL": "https://forge.example",
        "GITHUB_REPOSITORY": "ada/cases",
        "GITHUB_RUN_ID": "42",
        "GITHUB_EVENT_PATH": str(path),
        "GITHUB_STEP_SUMMARY": str(case.page),
        "GITHUB_WORKSPACE": str(case.repo),
        "GITHUB_TOKEN": token,
    }


def on_azure(forge: Forge, case: Case, token: str = "secret-of-the-bot") -> dict[str, str]:
    """The variables of a job for pull request 7 of a repository in Azure Repos."""
    return {
        "TF_BUILD": "True",
        "SYSTEM_COLLECTIONURI": f"{forge.url}/org/",
        "SYSTEM_TEAMPROJECT": PROJECT,
        "SYSTEM_PULLREQUEST_PULLREQUESTID": "7",
        "SYSTEM_PULLREQUEST_SOURCECOMMITID": "abcdef0123456789",
        "BUILD_REPOSITORY_ID": REPOSITORY,
        "BUILD_REPOSITORY_PROVIDER": "TfsGit",
        "BUILD_BUILDID": "42",
        "BUILD_SOURCESDIRECTORY": str(case.repo),
        "SYSTEM_ACCESSTOKEN": token,
    }


Place = Callable[..., dict[str, str]]
both = pytest.mark.parametrize("place", [on_github, on_azure], ids=["github", "azure"])


# --- one comment ---------------------------------------------------------------------------------


@both
def test_two_runs_leave_one_comment_that_says_what_the_last_one_said(
    place: Place, forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    told = [one.comment(**place(forge, one))]
    one.say("## ❌ Gate failed")
    told.append(one.comment(**place(forge, one)))
    (body,) = forge.of(BOT)
    assert "Gate failed" in body
    assert "Gate passed" not in body
    assert "commit abcdef0" in body
    assert [each.returncode for each in told] == [0, 0]
    assert "comment: created on pull request 7" in told[0].stdout
    assert "comment: updated on pull request 7" in told[1].stdout


@both
def test_a_comment_leads_to_its_run(place: Place, forge: Forge, case: Callable[..., Case]) -> None:
    one = case()
    one.comment(**place(forge, one))
    (link,) = re.findall(r"\[The run and its report\]\((\S+)\)", forge.of(BOT)[0])
    assert link in (
        "https://forge.example/ada/cases/actions/runs/42",
        f"{forge.url}/org/The%20Project/_build/results?buildId=42",
    )


@both
def test_the_comment_is_found_behind_many_others(
    place: Place, forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    for number in range(130):
        forge.say(PERSON, f"comment {number}")
    one.comment(**place(forge, one))
    for number in range(130):
        forge.say(PERSON, f"comment {number}")
    one.comment(**place(forge, one))
    assert len(forge.of(BOT)) == 1
    assert len(forge.comments[7]) == 261


@both
def test_two_use_cases_of_one_name_have_a_comment_each(
    place: Place, forge: Forge, case: Callable[..., Case]
) -> None:
    cases = [case("first"), case("second"), case("third", "another -->name")]
    for one in (*cases, *cases):
        one.say(f"of {one.folder.name}")
        one.comment(**place(forge, one))
    assert [body.splitlines()[1] for body in forge.of(BOT)] == ["of first", "of second", "of third"]
    assert forge.of(BOT)[2].splitlines()[0].count("-->") == 1


@both
def test_only_own_comments_are_changed(
    place: Place, forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    one.comment(**place(forge, one))
    mine = forge.comments[7].pop()
    forge.say(STRANGER, f"{mine.body}\nmerge it!")
    forge.say(BOT, f"as said:\n{mine.body}")
    one.comment(**place(forge, one))
    assert forge.of(STRANGER) == [f"{mine.body}\nmerge it!"]
    assert [body.startswith("as said") for body in forge.of(BOT)] == [True, False]


@both
def test_of_two_that_were_made_at_once_one_is_left(
    place: Place, forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    one.comment(**place(forge, one))
    forge.say(BOT, forge.comments[7][0].body)
    one.comment(**place(forge, one))
    assert len(forge.of(BOT)) == 1


def test_a_person_s_token_keeps_that_person_s_comment(
    forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    for _ in range(2):
        one.comment(**on_github(forge, one, "secret-of-ada"))
    assert len(forge.of(PERSON)) == 1


# --- without rights ------------------------------------------------------------------------------


def test_a_fork_has_the_job_page_and_is_told_why(forge: Forge, case: Callable[..., Case]) -> None:
    one = case()
    head = {"sha": "abcdef0", "repo": {"full_name": "eve/cases"}}
    event = {"pull_request": {"number": 7, "head": head}}
    told = one.comment(**on_github(forge, one, "secret-of-a-fork", **event))
    assert told.returncode == 0
    assert "There is no comment on pull request 7" in told.stdout
    assert "It comes from a fork" in told.stdout
    page = one.page.read_text()
    assert page.startswith("## ✅ Gate passed")
    assert "There is no comment on pull request 7: Resource not accessible" in page
    assert forge.comments[7] == []


@both
@pytest.mark.parametrize("token", ["secret-of-a-fork", "secret-of-nobody", ""])
def test_without_rights_it_says_what_to_do(
    token: str, place: Place, forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    told = one.comment(**place(forge, one, token))
    assert told.returncode == 0
    assert "There is no comment on pull request 7" in told.stdout
    assert re.search(r"pull-requests: write|Contribute to pull requests", told.stdout)
    assert forge.comments[7] == []
    if not token:
        assert forge.asked == []


def test_a_fork_that_was_deleted_is_a_fork(forge: Forge, case: Callable[..., Case]) -> None:
    one = case()
    event = {"pull_request": {"number": 7, "head": {"sha": "abcdef0", "repo": None}}}
    told = one.comment(**on_github(forge, one, "secret-of-a-fork", **event))
    assert "It comes from a fork" in told.stdout


def test_code_on_github_built_by_azure_pipelines(forge: Forge, case: Callable[..., Case]) -> None:
    one = case()
    told = one.comment(**on_azure(forge, one) | {"BUILD_REPOSITORY_PROVIDER": "GitHub"})
    assert told.returncode == 0
    assert "the code is not in Azure Repos" in told.stdout
    assert forge.asked == []


@both
def test_a_token_that_is_not_valid_is_a_mistake(
    place: Place, forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    told = one.comment(**place(forge, one, "secret-that-expired"))
    assert told.returncode == 1
    assert "Is the token valid?" in told.stderr
    if place is on_github:
        assert "Bad credentials: ***" in told.stderr
        assert "Gate passed" in one.page.read_text()


# --- faults --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "retry_after": 0, "times": 2},
        {"status": 500, "retry_after": 0, "times": 4},
        {"status": 403, "retry_after": 0},
        {"status": 503, "retry_after": formatdate(0, usegmt=True)},
        {"drop": "before"},
    ],
    ids=["429", "500", "secondary limit", "a date", "dropped"],
)
def test_a_passing_fault_is_outlasted(
    fault: dict[str, Any], place: Place, forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    forge.fail(fault)
    told = one.comment(**place(forge, one))
    assert told.returncode == 0, told.stderr
    assert len(forge.of(BOT)) == 1


@both
def test_an_answer_that_was_lost_repeats_no_comment(
    place: Place, forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    created = "/threads" if place is on_azure else "/comments"
    forge.fail({"drop": "after", "method": "POST", "path": created})
    told = one.comment(**place(forge, one))
    assert told.returncode == 0, told.stderr
    assert "updated" in told.stdout
    assert len(forge.of(BOT)) == 1


@both
def test_a_service_that_stays_down_is_told(
    place: Place, forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    forge.fail({"status": 502, "retry_after": 0, "times": 99})
    told = one.comment(**place(forge, one))
    assert told.returncode == 1
    assert re.search(r"127.0.0.1:\d+: status 502: told to. Run the job again", told.stderr)
    assert len(forge.asked) == 5
    if place is on_github:
        assert "There is no comment" in one.page.read_text()


def test_nobody_waits_for_an_hour(forge: Forge, case: Callable[..., Case]) -> None:
    one = case()
    forge.fail({"status": 429, "retry_after": 3600})
    told = one.comment(**on_github(forge, one))
    assert told.returncode == 1
    assert "in 3600 s or later" in told.stderr


def test_a_service_cannot_command_the_agent(forge: Forge, case: Callable[..., Case]) -> None:
    one = case()
    forge.fail({"status": 403, "message": "no\n##vso[task.setvariable variable=a]b"})
    told = one.comment(**on_azure(forge, one))
    assert told.stdout.count("##vso[") == 1


# --- elsewhere, and sizes ------------------------------------------------------------------------


def test_a_push_has_the_job_page_alone(forge: Forge, case: Callable[..., Case]) -> None:
    one = case()
    one.page.parent.mkdir(exist_ok=True)
    one.page.write_text("what another wrote\n")
    told = one.comment(**on_github(forge, one, pull_request=None))
    assert told.returncode == 0
    assert one.page.read_text() == "what another wrote\n## ✅ Gate passed\n\n"
    assert forge.asked == []


def test_azure_pipelines_gets_the_file(forge: Forge, case: Callable[..., Case]) -> None:
    one = case()
    variables = on_azure(forge, one)
    del variables["SYSTEM_PULLREQUEST_PULLREQUESTID"]
    told = one.comment(**variables)
    assert told.returncode == 0
    path = one.folder / "reports" / "summary.md"
    assert f"##vso[task.uploadsummary]{path}" in told.stdout.splitlines()


def test_outside_a_pipeline_the_file_is_named(case: Callable[..., Case]) -> None:
    told = case().comment()
    assert told.returncode == 0
    assert told.stdout.startswith("summary: reports/summary.md")


def test_without_a_report_there_is_nothing_to_show(case: Callable[..., Case]) -> None:
    one = case()
    (one.folder / "reports" / "summary.md").unlink()
    told = one.comment()
    assert told.returncode == 1
    assert "reports/summary.md: cannot be read" in told.stderr
    assert "make experiment" in told.stderr


@pytest.mark.parametrize("name", ["GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_EVENT_PATH"])
def test_a_variable_that_is_missing_is_named(
    name: str, forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    told = one.comment(**on_github(forge, one) | {name: ""})
    assert told.returncode == 1
    assert told.stderr.startswith(f"{name}: not set")


@both
def test_a_summary_that_is_too_large_is_cut_with_a_word_about_it(
    place: Place, forge: Forge, case: Callable[..., Case]
) -> None:
    one = case()
    rows = "\n".join(f"- ❌ row {number}" for number in range(100_000))
    one.say(f"## ❌ Gate failed\n\n<details><summary>All</summary>\n\n{rows}\n\n</details>")
    told = one.comment(**place(forge, one))
    assert told.returncode == 0, told.stderr
    (body,) = forge.of(BOT)
    assert "❌ Gate failed" in body
    assert body.index("</details>") < body.index("Cut here") < body.index("The run and its report")
    if place is on_github:
        assert 1_000_000 < one.page.stat().st_size <= 1_048_576
        assert one.page.read_text().rstrip().endswith("of this run.**")


def test_a_full_page_is_left_alone(forge: Forge, case: Callable[..., Case]) -> None:
    one = case()
    one.say("a" * 1000)
    one.page.write_text("b" * 1_048_000)
    told = one.comment(**on_github(forge, one, pull_request=None))
    assert told.returncode == 0
    assert "the job's page is full" in told.stdout or one.page.stat().st_size <= 1_048_576
    one.page.write_text("b" * 1_048_570)
    told = one.comment(**on_github(forge, one, pull_request=None))
    assert "the job's page is full" in told.stdout
    assert one.page.stat().st_size == 1_048_570


@pytest.mark.parametrize("most", [0, 150, 400, 900, 5000])
def test_a_cut_keeps_whole_lines_and_closes_what_is_open(most: int) -> None:
    lines = [f"- ünï `<details>` {number}" for number in range(10)]
    document = "\n".join(["# top", "<details><summary>A</summary>", *lines, "</details>", *lines])
    found = cut(document, most)
    assert len(found.encode()) <= most
    if not found or found == document:
        return
    assert found.endswith(CUT)
    kept = found.removesuffix(CUT).splitlines()
    opened = sum(line.startswith("<details>") for line in kept)
    assert opened == kept.count("</details>")
    assert all(line in [*document.splitlines(), ""] for line in kept)
