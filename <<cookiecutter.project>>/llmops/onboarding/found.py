"""What FROM and EVALUATOR name, and the import that each of them calls for."""

from __future__ import annotations

from pathlib import Path

from llmops.config import EXPERIMENT
from llmops.errors import UserError
from llmops.onboarding import bare_flow, code_first, use_case
from llmops.onboarding.proposal import Proposal
from llmops.onboarding.questions import existing
from llmops.settings import Settings


def propose(settings: Settings, root: Path) -> Proposal:
    """The import of FROM, with the evaluation flow of EVALUATOR where that is set.

    Raises:
        UserError: neither is set, or what they name is not there or cannot be read.
    """
    if not (settings.source or settings.evaluator):
        raise UserError(
            "FROM: not set. Name a flow, a use case or a repo, for example "
            "`make onboard FROM=../my-flow`; EVALUATOR=<path> brings in an evaluation flow."
        )
    proposal = _source(settings) if settings.source else _experiment(root)
    if settings.evaluator:
        bare_flow.add_evaluator(proposal, _there("EVALUATOR", settings.evaluator), root)
    return proposal
