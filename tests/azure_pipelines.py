"""Runs the pipelines of a generated repo as Azure Pipelines would, on this machine.

    run = Run(service, "ci", ".azure-pipelines/ci.yml", tmp_path)
    assert run.go().green

Templates, parameters, conditions and variables are Azure's; scripts really run, in a clone, with
the environment that Azure gives them. Tasks are stand-ins (`azure_agent.py`), and an unknown one
fails, as does a key, an input or an expression that nothing here understands. Texts stay texts, as
in Azure: `on`, `3.10` and `true` are read as they are written.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from azure_agent import Agent, Json, Secret, Service, Variables, git
from azure_expressions import UnknownError, evaluate, expand, holds

AT_START = re.compile(r"\$\[(.*)\]")
COMMAND = re.compile(r"##vso\[([\w.]+)([^\]]*)\](.*)")
STATE = ("succeeded", "failed", "always", "succeededOrFailed")
AT_COMPILE_TIME = ("Build.SourceBranch", "Build.SourceBranchName", "Build.Reason")


@dataclass(frozen=True)
class Step:
    """How a step ended: succeeded, failed or skipped; with all that it said, and its time."""

    name: str
    outcome: str
    said: str = ""
    seconds: float = 0.0


class Run:
    """One run of a pipeline.

    `branch` is the ref that is checked out, `predefined` adds to Azure's own variables. `without`
    are tasks of the repo that are not run, and succeed; `before` is done right before the step of a
    name.
    """

    def __init__(
        self,
        service: Service,
        pipeline: str,
        file: str,
        place: Path,
        *,
        branch: str = "refs/heads/main",
        parameters: Mapping[str, str] | None = None,
        predefined: Mapping[str, str] | None = None,
        without: Collection[str] = (),
        before: Mapping[str, Callable[[], object]] | None = None,
    ) -> None:
        self.service, self.pipeline, self.place = service, pipeline, place
        self.steps: list[Step] = []
        self.summaries: list[str] = []
        self._branch, self._without, self._before = branch, set(without), before or {}
        self._predefined = self._known() | dict(predefined or {})
        self._file = self._checked_out_file(file)
        self.document = self._compiled(parameters or {})

    @property
    def green(self) -> bool:
        """Whether no step failed."""
        return not any(step.outcome == "failed" for step in self.steps)

    @property
    def said(self) -> str:
        """All that was said, step by step."""
        return "".join(
            f"--- {one.name}: {one.outcome}, {one.seconds:.1f} s\n{one.said}" for one in self.steps
        )

    def outcome(self, name: str) -> str:
        """How the step of a name ended."""
        return next(step.outcome for step in self.steps if step.name == name)

    def go(self) -> Run:
        """Run the jobs; there are only pipelines of one job."""
        (job,) = self.document["jobs"]
        self.variables = Variables(self._predefined)
        for name, value in self._variables():
            at_start = AT_START.fullmatch(value)
            own = evaluate(at_start[1], {"variables": self.variables}) if at_start else value
            self.variables[name.casefold()] = own
        others = self.document.get("resources", {}).get("pipelines", [])
        self._agent = Agent(
            self.service,
            self.pipeline,
            self.place,
            self.variables,
            {one["pipeline"]: one["source"] for one in others},
            self._without,
        )
        for step in self._steps(job):
            self.steps.append(self._step(step))
        return self

    # --- reading

    def _known(self) -> dict[str, str]:
        workspace = str(self.place)
        return {
            "TF_BUILD": "True",
            "Agent.OS": "Linux",
            "Build.SourceBranch": self._branch,
            "Build.SourceBranchName": self._branch.rpartition("/")[2],
            "Build.Reason": "Manual",
            "Build.BuildId": "41",
            "Build.BuildNumber": "20261120.1",
            "Build.RequestedFor": "Robin Q. O'Neil",
            "Build.SourcesDirectory": f"{workspace}/s",
            "System.DefaultWorkingDirectory": f"{workspace}/s",
            "System.JobAttempt": "1",
            "System.AccessToken": Secret("a-token-of-the-job"),
            "Pipeline.Workspace": workspace,
        }

    def _checked_out_file(self, file: str) -> Path:
        """The pipeline as it is in the commit that runs, which Azure reads before any checkout."""
        place = self.place / "definition"
        git(self.place, "clone", "--quiet", "--no-checkout", str(self.service.origin), str(place))
        git(place, "fetch", "--quiet", "origin", self._branch)
        git(place, "checkout", "--quiet", "FETCH_HEAD")
        return place / file

    def _compiled(self, given: Mapping[str, str]) -> Json:
        raw = _read(self._file)
        parameters = _bound(raw.pop("parameters", []), given, self._file)
        known = {n: self._predefined.get(n, "") for n in AT_COMPILE_TIME}
        scope = {"parameters": parameters, "variables": Variables(known)}
        self._given = self._listed(expand(raw.pop("variables"), scope), self._file)
        own = {one["name"]: one["value"] for one in self._given if "name" in one}
        scope["variables"] = Variables(known | own)
        found: Json = expand(raw, scope)
        return found

    def _listed(self, variables: list[Json], file: Path) -> list[Json]:
        """Variables with their templates laid in."""
        found: list[Json] = []
        for one in variables:
            if "template" in one:
                path, made = self._template(one, file)
                found += self._listed(made["variables"], path)
            elif set(one) in ({"group"}, {"name", "value"}):
                found.append(one)
            else:
                raise UnknownError(f"{file}: a variable of another form: {one}")
        return found

    def _template(self, use: Json, file: Path) -> tuple[Path, Json]:
        path = file.parent / use["template"]
        raw = _read(path)
        parameters = _bound(raw.pop("parameters", []), use.get("parameters", {}), path)
        return path, expand(raw, {"parameters": parameters, "variables": Variables()})

    def _variables(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for one in self._given:
            if "group" not in one:
                found.append((one["name"], one["value"]))
            elif one["group"] in self.service.groups:
                found += self.service.groups[one["group"]].items()
            else:
                raise UnknownError(f"variable group {one['group']} does not exist")
        return found

    def _steps(self, job: Json) -> list[Json]:
        if not int(job["timeoutInMinutes"]):
            raise UnknownError("a job without an end")
        if "deployment" not in job:
            return self._laid_in(job["steps"], self._file)
        if job["environment"] not in self.service.environments:
            raise UnknownError(f"the checks of environment {job['environment']} did not say yes")
        return self._laid_in(job["strategy"]["runOnce"]["deploy"]["steps"], self._file)

    def _laid_in(self, steps: list[Json], file: Path) -> list[Json]:
        found: list[Json] = []
        for step in steps:
            if "template" in step:
                path, made = self._template(step, file)
                found += self._laid_in(made["steps"], path)
            else:
                found.append(step)
        return found

    # --- running

    def _step(self, step: Json) -> Step:
        name = self.variables.expand(step.get("displayName", next(iter(step))))
        if not holds(step.get("condition", "succeeded()"), self._state()):
            return Step(name, "skipped")
        self._before.get(name, lambda: None)()
        began = time.monotonic()
        code, said = self._agent.do(step)
        self._obey(said)
        return Step(name, "failed" if code else "succeeded", said, time.monotonic() - began)

    def _state(self) -> Json:
        green = self.green
        answers = dict(zip(STATE, (green, not green, True, True), strict=True))
        functions = {name: (lambda answer=answer: answer) for name, answer in answers.items()}
        return {**functions, "variables": self.variables}

    def _obey(self, said: str) -> None:
        """Do what a script told the agent by lines of its output."""
        for line in said.splitlines():
            if (found := COMMAND.match(line)) is None:
                continue
            what, options, value = found[1], found[2].strip(), found[3]
            if what == "task.setvariable" and options.startswith("variable="):
                self.variables[options.removeprefix("variable=").casefold()] = value
            elif what == "task.uploadsummary":
                self.summaries.append(Path(value).read_text(encoding="utf-8"))
            else:
                raise UnknownError(f"unknown command to the agent: {line}")


def _read(path: Path) -> Json:
    found: Json = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    return found


def _bound(declared: list[Json], given: Mapping[str, Any], file: Path) -> Json:
    """The parameters of a file with what is given for them."""
    names = {one["name"] for one in declared}
    if unknown := set(given) - names:
        raise UnknownError(f"{file.name}: no such parameter: {unknown}")
    bound = {}
    for one in declared:
        if one["name"] not in given and "default" not in one:
            raise UnknownError(f"{file.name}: parameter {one['name']} is not given")
        value = given.get(one["name"], one.get("default"))
        if value not in one.get("values", [value]):
            raise UnknownError(f"{file.name}: {one['name']}: {value!r} is not one of its values")
        if isinstance(value, str) != (one["type"] != "object"):
            raise UnknownError(f"{file.name}: {one['name']}: {value!r} is no {one['type']}")
        bound[one["name"]] = value
    return bound
