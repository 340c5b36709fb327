"""Deploy, roll back and check: to each kind of deployment the module that can do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llmops.deploying import deployment
from llmops.errors import UserError
from llmops.settings import Settings

Task = Callable[[Settings], int]


class Tasks(NamedTuple):
    """What a kind of deployment can do; each raises UserError."""

    deploy: Task
    rollback: Task
    check: Task
    cutover: Task


def deploy(settings: Settings) -> int:
    """Roll the flow out to where ENV and KIND say; raises UserError."""
    return _tasks(settings).deploy(settings)


def rollback(settings: Settings) -> int:
    """Lead it back to what was there before; raises UserError."""
    return _tasks(settings).rollback(settings)


def check(settings: Settings) -> int:
    """Send the sample request to it; 2 if an answer is not as it must be; raises UserError."""
    return _tasks(settings).check(settings)


def cutover(settings: Settings) -> int:
    """Lead its traffic one step on to the current deployment; 2 as above; raises UserError."""
    return _tasks(settings).cutover(settings)


def _tasks(settings: Settings) -> Tasks:
    """The tasks of a kind, of which only its own part is imported."""
    kind, _ = deployment.choose(settings.env, settings.kind)
    if kind == "local":
        from llmops.local import tasks

        return Tasks(tasks.deploy, tasks.rollback, tasks.check, tasks.cutover)
    if settings.status or settings.down:
        word = "STATUS" if settings.status else "DOWN"
        raise UserError(f"{word}: only with KIND=local; Azure's portal shows and ends '{kind}'.")
    if kind == "webapp":
        from llmops.azure import webapp

        return Tasks(webapp.deploy, webapp.rollback, webapp.check, _no_cutover)
    from llmops.azure import check, cutover, deploy

    return Tasks(deploy.deploy, deploy.rollback, check.check, cutover.cutover)


def _no_cutover(settings: Settings) -> int:
    raise UserError(
        "KIND: 'webapp': a web app has no deployments to split its traffic between (expected one "
        "of managed, kubernetes, local). `make deploy` swaps its slots after the test."
    )
