"""Deploy, roll back and check: to each kind of deployment the module that can do it."""

from __future__ import annotations

from llmops import deployment
from llmops.azure import check as endpoints_check
from llmops.azure import deploy as endpoints
from llmops.azure import webapp
from llmops.settings import Settings


def deploy(settings: Settings) -> int:
    """Roll the registered flow out to where ENV and KIND say; raises UserError."""
    return (webapp.deploy if _is_web_app(settings) else endpoints.deploy)(settings)


def rollback(settings: Settings) -> int:
    """Lead it back to what was there before; raises UserError."""
    return (webapp.rollback if _is_web_app(settings) else endpoints.rollback)(settings)


def check(settings: Settings) -> int:
    """Send the sample request to it; 2 if an answer is not as it must be; raises UserError."""
    return (webapp.check if _is_web_app(settings) else endpoints_check.check)(settings)


def _is_web_app(settings: Settings) -> bool:
    return deployment.choose(settings.env, settings.kind)[0] == "webapp"
