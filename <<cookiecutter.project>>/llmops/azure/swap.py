"""Change the image of a web app, test it, and put back what was there where it fails.

There is one container: until the new one answers, App Service leaves the old one in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from llmops.azure import search_access
from llmops.azure.site import App, Site
from llmops.deploying import probe
from llmops.deploying.deployment import WebApp
from llmops.deploying.probe import Verdict
from llmops.deploying.rolling import RejectedError
from llmops.deploying.rollout import Plan, Step
from llmops.deploying.subject import Subject
from llmops.errors import UserError


@dataclass
class Swap:
    """The way from the app `before` (null: there is none) to the one that is `wanted`.

    `granted` says that its identity was given a role just now.
    """

    case: Subject[WebApp]
    site: Site
    before: App | None
    wanted: App
    wait_s: float
    granted: bool = False

    @cached_property
    def plan(self) -> Plan:
        """One step, because the test is part of it."""
        then = "; ".join(self._changes or [self._repair or "nothing changes"])
        now = self.before.tag if self.before else "absent"
        return Plan((Step("web app", self.site.name, now, f"{then}; then test"),), {}, {}, "")

    @cached_property
    def _changes(self) -> list[str]:
        """What differs, in words."""
        if self.before is None:
            return [f"create: {self.wanted.tag}"]
        return self.before.changes(self.wanted)

    @cached_property
    def _repair(self) -> str:
        """Why the container must start again with nothing changed, as after a role was granted."""
        problem = self.before.problem() if self.before and not self._changes else ""
        return f"start anew ({problem})" if problem else ""

    def run(self) -> None:
        """Swap, then test; raises RejectedError where the app does not pass."""
        app = self.before
        try:
            if app is None or self._changes or self._repair:
                app = self.site.put(self.wanted.anew())
            self._test(app)
        except BaseException as error:  # a signal included
            self._put_back(error)
            raise

    @property
    def done(self) -> str:
        """What runs now, and where."""
        app = self.site.read()
        assert app
        return (
            f"Done: web app '{self.site.name}' runs {app.tag}.\n"
            f"Scoring address: {app.url} (open to anyone who knows it)"
        )

    def _test(self, app: App) -> None:
        name = self.site.name
        if problem := app.problem(self.wait_s):
            raise RejectedError(
                f"web app '{name}' does not become healthy: {problem}. Its log: "
                f"az webapp log tail --ids {self.site.scope}"
            )
        wait_s = self.wait_s if self.granted else 0
        if problem := search_access.patiently(lambda: ask(self.case, app), wait_s).problem:
            raise RejectedError(f"web app '{name}' did not pass its test: {problem}.")

    @property
    def _way_back(self) -> App | None:
        """What was there before; for a task that was killed before its test, the image before."""
        if self.before is None or self._changes:
            return self.before
        prior = self.before.prior
        return prior.anew() if prior and prior.image != self.before.image else None

    def _put_back(self, error: BaseException) -> None:
        if (back := self._way_back) is None:
            print("There is no other image: the web app is kept for its log.", flush=True)
            return
        try:
            problem = self.site.put(back).problem(self.wait_s)
        except Exception as other:
            problem = str(other)
        if problem:
            raise UserError(
                f"{error}\nThe previous image {back.tag} could NOT be brought back to health: "
                f"{problem}\nRun `make check-endpoint`, then `make deploy`."
            ) from error
        print(f"The previous image is back and healthy: {back.tag}.", flush=True)


def ask(case: Subject[WebApp], app: App, times: int = 1) -> Verdict:
    """The verdict on the app's answer to the sample request, with no secret in it."""
    verdict = probe.ask(app.url, {}, case.request, case.flow.outputs, times)
    return replace(verdict, problem=case.mask(verdict.problem))
