"""What an agent of Azure Pipelines does for a step, on this machine: scripts run, tasks stand in.

A task, a key or an input that is not known here fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from azure_expressions import UnknownError

Json = dict[str, Any]
Done = tuple[int, str]
MACRO = re.compile(r"\$\(([\w.]+)\)")
STEP = {"displayName", "condition", "env"}
SESSION = {"scriptType": "bash", "scriptLocation": "inlineScript", "visibleAzLogin": "false"}
SIGN_IN = {"azureSubscription", "inlineScript", "workingDirectory", "keepAzSessionActive"}


class Secret(str):
    """The value of a variable that is secret."""


@dataclass
class Service:
    """What the project in Azure DevOps holds.

    `origin` is the repository, `groups` the variable groups, `connections` the variables that a
    service connection gives what AzureCLI@2 runs, `environments` those whose checks said yes.
    `agent` is the environment of every process, `venv` a prepared one for the repo's tasks.
    """

    origin: Path
    artifacts: Path
    agent: Mapping[str, str]
    venv: Path
    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    connections: dict[str, dict[str, str]] = field(default_factory=dict)
    environments: set[str] = field(default_factory=set)


class Variables(dict[str, str]):
    """Variables by their name, whose letters' case makes no difference."""

    def __init__(self, given: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__({name.casefold(): value for name, value in given.items()})

    def get(self, name: str, default: Any = None) -> Any:  # type: ignore[override]
        """A variable's value."""
        return super().get(name.casefold(), default)

    def expand(self, text: str) -> str:
        """The text with its macros; that of an unknown variable stays as it is."""
        known = MACRO.sub(lambda found: self.get(found[1], found[0]), text)
        return known if known == text else self.expand(known)

    @property
    def environment(self) -> dict[str, str]:
        """What every process gets: the variables that are not secret."""
        return {
            re.sub(r"[. ]", "_", name).upper(): self.expand(value)
            for name, value in self.items()
            if not isinstance(value, Secret)
        }

    @property
    def secrets(self) -> list[str]:
        """The values that may stand in no text of a pipeline."""
        return [value for value in self.values() if isinstance(value, Secret) and value]


class Agent:
    """One job's agent; `sources` maps the aliases of other pipelines to their names."""

    def __init__(
        self,
        service: Service,
        pipeline: str,
        place: Path,
        variables: Variables,
        sources: Mapping[str, str],
        without: Collection[str],
    ) -> None:
        self.service, self.pipeline, self.place = service, pipeline, place
        self.variables, self._from, self._without = variables, sources, without
        self.sources = place / "s"
        self._published: set[str] = set()

    def do(self, step: Json) -> Done:
        """Its exit code, and all that it said."""
        kind = next(iter(step))
        act: Callable[[Json], Done] = getattr(self, f"_do_{kind}", self._unknown)
        return act(step)

    def _unknown(self, step: Json) -> Done:
        raise UnknownError(f"unknown step: {step}")

    def _do_checkout(self, step: Json) -> Done:
        if step.get("persistCredentials") != "false" or step["checkout"] != "self":
            raise UnknownError(f"the checkout leaves its token behind: {step}")
        depth = step.get("fetchDepth", "1")
        self.sources.mkdir()
        git(self.sources, "init", "--quiet")
        git(self.sources, "remote", "add", "origin", f"file://{self.service.origin}")
        short = (
            self.variables.get("Build.SourceBranch")
            .removeprefix("refs/heads/")
            .removeprefix("refs/")
        )
        own = f"+{self.variables.get('Build.SourceBranch')}:refs/remotes/origin/{short}"
        every = ("+refs/heads/*:refs/remotes/origin/*", own) if depth == "0" else (own,)
        shallow = () if depth == "0" else (f"--depth={depth}",)
        git(self.sources, "fetch", "--quiet", "--no-tags", "--force", *shallow, "origin", *every)
        git(self.sources, "checkout", "--quiet", "--force", f"refs/remotes/origin/{short}")
        folder = self.sources / self.variables.get("folder")
        (folder / ".venv").symlink_to(self.service.venv)
        os.utime(self.service.venv / "bin" / "nox")  # newer than the lock, or make makes it anew
        return 0, ""

    def _do_bash(self, step: Json) -> Done:
        _only(step, STEP | {"bash", "workingDirectory"})
        return self._script(step["bash"], step, step.get("workingDirectory", str(self.sources)))

    def _script(
        self, script: str, step: Json, folder: str, more: Mapping[str, str] | None = None
    ) -> Done:
        script, folder = self.variables.expand(script), self.variables.expand(folder)
        if any(secret in script + folder for secret in self.variables.secrets):
            raise UnknownError(f"a secret would be in a process's arguments: {step}")
        if script.removeprefix("make ") in self._without:
            return 0, f"({script} is not run here)\n"
        mapped = {name: self.variables.expand(text) for name, text in step.get("env", {}).items()}
        env = {**self.service.agent, **self.variables.environment, **(more or {}), **mapped}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", script],
            **{"cwd": folder, "env": env, "stdin": subprocess.DEVNULL},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True},
            check=False,
        )
        return done.returncode, done.stdout

    def _do_download(self, step: Json) -> Done:
        _only(step, STEP | {"download", "artifact"})
        found = self.service.artifacts / self._from[step["download"]] / step["artifact"]
        if not found.is_dir():
            return 1, f"no artifact {found}\n"
        shutil.copytree(found, self.place / step["download"] / step["artifact"])
        return 0, ""

    def _do_publish(self, step: Json) -> Done:
        _only(step, STEP | {"publish", "artifact"})
        source = Path(self.variables.expand(step["publish"]))
        name = self.variables.expand(step["artifact"])
        if name in self._published or not source.is_dir():
            return 1, f"published before, or path does not exist: {source}\n"
        self._published.add(name)
        to = self.service.artifacts / self.pipeline / name
        shutil.rmtree(to, ignore_errors=True)  # those of the last run are taken
        shutil.copytree(source, to)
        return 0, ""

    def _do_task(self, step: Json) -> Done:
        _only(step, STEP | {"task", "inputs"})
        stand_in = getattr(self, "_task_" + re.sub(r"\W", "_", step["task"]).lower(), None)
        if stand_in is None:
            raise UnknownError(f"unknown task {step['task']}")
        found: Done = stand_in(step, dict(step["inputs"]))
        return found

    def _task_usepythonversion_0(self, step: Json, inputs: Json) -> Done:
        _only(inputs, {"versionSpec"})
        return int(re.fullmatch(r"3\.1[123]", inputs["versionSpec"]) is None), ""

    def _task_cache_2(self, step: Json, inputs: Json) -> Done:
        """Finds nothing, as a first run; the files of the key must be there."""
        _only(inputs, {"key", "restoreKeys", "path"})
        key = self.variables.expand(inputs["key"])
        *_, files = key.split(" | ")
        places = [
            self.variables.expand(self.variables.get(n)) for n in ("PIP_CACHE_DIR", "UV_CACHE_DIR")
        ]
        path = self.variables.expand(inputs["path"])
        kept = all(place.startswith(path) for place in places)
        starts = key.startswith(self.variables.expand(inputs["restoreKeys"]))
        return int(not (kept and starts and list(self.sources.glob(files)))), key + "\n"

    def _task_azurecli_2(self, step: Json, inputs: Json) -> Done:
        """A session of az, which only what this step runs can use."""
        _only(inputs, SESSION.keys() | SIGN_IN)
        if any(inputs[name] != value for name, value in SESSION.items()):
            raise UnknownError(f"AzureCLI@2 in another way: {inputs}")
        name = self.variables.expand(inputs["azureSubscription"])
        if name not in self.service.connections:
            raise UnknownError(f"there is no service connection {name}")
        session = self.service.connections[name]
        return self._script(inputs["inlineScript"], step, inputs["workingDirectory"], session)


def _only(given: Json, known: set[str]) -> None:
    if more := set(given) - known:
        raise UnknownError(f"unknown key {more} in {given}")


def git(folder: Path, *command: str) -> None:
    subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
