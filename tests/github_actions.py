"""A small GitHub Actions, for tests: it reads the workflows' YAML and runs their jobs here.

    hub = GitHub(repo, environment)
    run = hub.run("pr.yml", Event("pull_request", ref="feature", base="main"))
    assert run.conclusion == "failure" and "f1" in run.summary

`run` steps are executed as they stand, in order, in bash, with their env, conditions, outputs and
working directory, in a fresh clone for each job. A `uses` step is done by the stand-in named here
(`ACTIONS`), workflows that are called are run, and anything that is not understood is an error.
The rules that decide what a job may see are GitHub's: a caller's permissions bound those of what it
calls, a fork has no secrets, an environment has its own and waits for its reviewers.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from github_expressions import Expression, bare, shown
from github_standins import ACTIONS, StepError, git
from ruamel.yaml import YAML

Json = dict[str, Any]
REPOSITORY, PULL_REQUEST = "ada/cases", 7
LEVELS = {"none": 0, "read": 1, "write": 2}
PINNED = re.compile(r"([\w-]+/[\w-]+)@[0-9a-f]{40}")
JOB_KEYS = {
    *(
        "name",
        "runs-on",
        "timeout-minutes",
        "permissions",
        "environment",
        "concurrency",
        "defaults",
    ),
    *("env", "steps", "needs", "if", "uses", "with", "secrets"),
}
STEP_KEYS = {"uses", "with", "run", "if", "env", "id", "name"}


@dataclass(frozen=True)
class Event:
    """What starts a run; `ref` is a branch, `base` the one that a pull request is for."""

    name: str
    ref: str = "main"
    base: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    fork: bool = False


@dataclass
class Step:
    """A step that was looked at: success, failure or skipped, and what it said."""

    name: str
    outcome: str
    text: str = ""


@dataclass
class Run:
    """A run: its jobs by their path (`ci/register`), each with conclusion and steps."""

    id: int
    conclusions: dict[str, str] = field(default_factory=dict)
    steps: dict[str, list[Step]] = field(default_factory=dict)
    summary: str = ""

    @property
    def conclusion(self) -> str:
        """The run's own: the worst of its jobs'."""
        found = self.conclusions.values()
        return next((word for word in ("failure", "waiting") if word in found), "success")

    @property
    def text(self) -> str:
        """All that a person sees in the logs."""
        return "".join(f"--- {s.name}\n{s.text}" for steps in self.steps.values() for s in steps)

    def outcomes(self, job: str) -> dict[str, str]:
        """The steps of a job with their outcomes."""
        return {step.name: step.outcome for step in self.steps[job]}


@dataclass
class Environment:
    """An environment of the repository; without `approved` its jobs wait."""

    secrets: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    approved: bool = True


@dataclass
class GitHub:
    """A repository on GitHub, with what is configured there.

    `venv` holds the packages, `store` the artefacts; `machine` are the machine's variables, and
    `signed_in` those with which a task finds Azure after azure/login; `api` answers for
    GitHub's API. Commands that are `taken_for_granted` succeed without being run.
    """

    repo: Path
    venv: Path
    store: Path
    machine: Mapping[str, str]
    signed_in: Mapping[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    environments: dict[str, Environment] = field(default_factory=dict)
    artefacts: dict[tuple[str, str], Path] = field(default_factory=dict)
    api: str = "http://127.0.0.1:9"
    token: str = "secret-of-the-bot"
    fork_token: str = "secret-of-a-fork"
    taken_for_granted: frozenset[str] = frozenset()
    runs: int = 0

    def run(self, workflow: str, event: Event) -> Run:
        """Run a workflow at the event's ref."""
        self.runs += 1
        run = Run(self.runs)
        with tempfile.TemporaryDirectory(prefix="actions-") as place:
            scope = _Scope(self, run, event, Path(place))
            text = scope.show(f".github/workflows/{workflow}")
            document = load(text)
            assert event.name in document["on"], f"{workflow} is not started by {event.name}"
            _check_inputs(document["on"][event.name], event.inputs)
            scope.workflow(document, dict(event.inputs), self.secrets_of(event))
        return run

    def secrets_of(self, event: Event) -> dict[str, str]:
        """What the event's jobs may see of the repository's secrets."""
        return {} if event.fork else self.secrets


def load(text: str) -> Json:
    """A workflow; `on` is a key and not the boolean that YAML 1.1 takes it for."""
    document: Json = YAML(typ="safe", pure=True).load(text)
    return document


def starts(workflow: Json, changed: list[str]) -> bool:
    """Whether a push or pull request that changes these files starts the workflow."""
    filters = [(body or {}).get("paths", ["**"]) for body in workflow["on"].values()]
    patterns = [re.escape(p).replace(r"\*\*", ".*").replace(r"\*", "[^/]*") for p in filters[0]]
    return any(re.fullmatch(pattern, name) for pattern in patterns for name in changed)


def _check_inputs(event: Any, given: Mapping[str, str]) -> None:
    rules_of = event.get("inputs", {}) if isinstance(event, dict) else {}
    for name, rules in rules_of.items():
        assert name in given or not rules.get("required"), f"input {name} is required"
        if rules["type"] == "choice" and name in given:
            assert given[name] in rules["options"], f"input {name}: {given[name]}"


@dataclass
class _Scope:
    """A workflow that is run: what called it, and what that grants."""

    hub: GitHub
    done: Run
    event: Event
    place: Path
    prefix: str = ""
    granted: Json | None = None  # null: everything, which a workflow then narrows

    def show(self, path: str) -> str:
        """A file of the repository at the event's ref."""
        return git(self.hub.repo, "show", f"{self.event.ref}:{path}")

    def workflow(self, document: Json, inputs: Json, secrets: Mapping[str, str]) -> str:
        """Run the jobs in the order of their needs."""
        assert document["permissions"] == {}, "a job asks for what it needs"
        results: dict[str, str] = {}
        for name, job in document["jobs"].items():
            assert set(job) <= JOB_KEYS, set(job) - JOB_KEYS
            needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
            job_scope = Job(self, name, job, inputs, dict(secrets))
            ready = all(results[need] == "success" for need in needs)
            wanted = ready and job_scope.holds(str(job.get("if", "true")), {"status": "success"})
            results[name] = job_scope.run() if wanted else "skipped"
            self.done.conclusions.setdefault(f"{self.prefix}{name}", results[name])
        found = set(results.values())
        return next((word for word in ("failure", "waiting") if word in found), "success")


class Job:
    """One job: its contexts, its workspace and its steps."""

    def __init__(self, scope: _Scope, name: str, job: Json, inputs: Json, secrets: Json) -> None:
        self.scope, self.name, self.job = scope, f"{scope.prefix}{name}", job
        self.hub, self.event = scope.hub, scope.event
        self.inputs, self.secrets = inputs, secrets
        self.variables = dict(self.hub.variables)
        self.workspace = scope.place / self.name.replace("/", "-")
        self.workspace.mkdir()
        self.extra: dict[str, str] = {}
        self.outcomes: dict[str, Json] = {}
        self.permissions = self._permissions()

    def _permissions(self) -> Json:
        asked = self.job.get("permissions", {})
        for what, level in asked.items():
            held = "write" if self.scope.granted is None else self.scope.granted.get(what, "none")
            assert LEVELS[level] <= LEVELS[held], f"{self.name}: {what}: {level}, granted {held}"
        return dict(asked)

    def run(self) -> str:
        """Run it; success, failure or waiting."""
        if "uses" in self.job:
            return self._call()
        assert self.job["timeout-minutes"] and self.job["concurrency"] and self.job["name"]
        if name := self.value(self.job.get("environment", "")):
            environment = self.hub.environments.setdefault(name, Environment())
            if not environment.approved:
                return "waiting"
            self.variables |= environment.variables
            self.secrets |= {} if self.event.fork else environment.secrets
        status, steps = "success", self.scope.done.steps.setdefault(self.name, [])
        for step in self.job["steps"]:
            assert set(step) <= STEP_KEYS, set(step) - STEP_KEYS
            title = step.get("run") or step["uses"].split("@")[0]
            condition = str(step.get("if", "success()"))
            if "()" not in condition.replace("hashFiles(", ""):
                condition = f"success() && ({bare(condition)})"
            if not self.holds(condition, {"status": status}):
                outcome, text = "skipped", ""
            else:
                outcome, text = self._step(step)
            steps.append(Step(title, outcome, text))
            self.outcomes[step.get("id", "")] = {"outcome": outcome}
            status = "failure" if outcome == "failure" else status
        return status

    def _call(self) -> str:
        path = self.job["uses"]
        assert path.startswith("./"), f"not of this repository: {path}"
        document = load(self.scope.show(path[2:]))
        rules = document["on"]["workflow_call"]["inputs"]
        given = {name: self.value(text) for name, text in self.job.get("with", {}).items()}
        assert set(given) <= set(rules), f"{path} has no input {set(given) - set(rules)}"
        assert {n for n, rule in rules.items() if rule.get("required")} <= set(given)
        secrets = self.secrets if self.job.get("secrets") == "inherit" else {}
        inner = _Scope(
            *(self.hub, self.scope.done, self.event, self.scope.place),
            *(f"{self.name}/", self.permissions),
        )
        return inner.workflow(document, dict.fromkeys(rules, "") | given, secrets)

    # --- steps

    def _step(self, step: Json) -> tuple[str, str]:
        given = {name: self.value(text) for name, text in (step.get("with") or {}).items()}
        if "uses" in step:
            found = PINNED.fullmatch(step["uses"])
            assert found and found[1] in ACTIONS, f"no stand-in for {step['uses']}"
            try:
                ACTIONS[found[1]](self, given)
            except StepError as error:
                return "failure", f"{error}\n"
            return "success", ""
        assert "${{" not in step["run"], "an expression inside of run"
        if step["run"] in self.hub.taken_for_granted:
            return "success", "taken for granted\n"
        return self._bash(step["run"], self._env(self.job) | self._env(step))

    def _env(self, holder: Json) -> dict[str, str]:
        return {name: self.value(text) for name, text in (holder.get("env") or {}).items()}

    def _bash(self, command: str, variables: dict[str, str]) -> tuple[str, str]:
        folder = self.value(
            self.job.get("defaults", {}).get("run", {}).get("working-directory", "")
        )
        page, event = self.scope.place / "page.md", self.scope.place / "event.json"
        page.write_text("")
        event.write_text(json.dumps(self._payload()))
        env = {**self.hub.machine, **self._runner(page, event), **self.extra, **variables}
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=self.workspace / folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.scope.done.summary += page.read_text()
        return "failure" if done.returncode else "success", done.stdout

    def _payload(self) -> Json:
        if self.event.name != "pull_request":
            return {}
        owner = "somebody/fork" if self.event.fork else REPOSITORY
        head = {"sha": git(self.hub.repo, "rev-parse", self.event.ref).strip()}
        return {
            "pull_request": {"number": PULL_REQUEST, "head": {**head, "repo": {"full_name": owner}}}
        }

    def _runner(self, page: Path, event: Path) -> dict[str, str]:
        return {
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTOR": "octavia",
            "GITHUB_API_URL": f"{self.hub.api}/api/v3",
            "GITHUB_GRAPHQL_URL": f"{self.hub.api}/api/graphql",
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": str(self.scope.done.id),
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_STEP_SUMMARY": str(page),
            "GITHUB_WORKSPACE": str(self.workspace),
        }

    # --- expressions

    def value(self, text: Any) -> str:
        """A text with its expressions replaced."""
        found = re.sub(r"\$\{\{(.*?)\}\}", lambda m: shown(self._evaluate(m[1], {})), str(text))
        return "" if text is None else found

    def holds(self, condition: str, more: Json) -> bool:
        """Whether an `if` holds."""
        return bool(self._evaluate(bare(condition), more))

    def _evaluate(self, source: str, more: Json) -> Any:
        status = more.get("status", "success")
        secrets = {} if "status" in more else {"secrets": self.secrets}  # no condition sees them
        contexts = {
            "github": {
                "event_name": self.event.name,
                "ref": f"refs/heads/{self.event.ref}",
                "ref_name": self.event.ref,
                "base_ref": self.event.base,
                "run_id": str(self.scope.done.id),
                "token": self.hub.fork_token if self.event.fork else self.hub.token,
            },
            "inputs": self.inputs,
            "vars": self.variables,
            "steps": self.outcomes,
            **secrets,
        }
        functions = {
            "success": lambda: status == "success",
            "failure": lambda: status == "failure",
            "cancelled": lambda: False,
            "format": lambda text, *rest: re.sub(r"{(\d)}", lambda m: rest[int(m[1])], text),
            "contains": lambda where, what: shown(what) in shown(where),
            "startsWith": lambda text, start: shown(text).startswith(shown(start)),
            "hashFiles": self._hash,
        }
        return Expression(source, contexts, functions).value

    def _hash(self, pattern: str) -> str:
        names = sorted(self.workspace.glob(pattern))
        data = b"".join(path.read_bytes() for path in names)
        return hashlib.sha256(data).hexdigest() if names else ""
