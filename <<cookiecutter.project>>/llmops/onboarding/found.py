"""What FROM and EVALUATOR name, and the import that each of them calls for."""

from __future__ import annotations

from pathlib import Path

from llmops.errors import UserError
from llmops.onboarding import bare_flow, code_first, packages, use_case
from llmops.onboarding.proposal import Proposal
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
    proposal = Proposal(Path(settings.evaluator).name, "an evaluation flow")
    if settings.source:
        proposal = _source(_there("FROM", settings.source), settings)
    if settings.evaluator:
        bare_flow.add_evaluator(proposal, _there("EVALUATOR", settings.evaluator), root=root)
    asked = packages.decide(proposal.requirements, root)
    proposal.packages = asked.new
    proposal.notes += [*asked.conflicts, *asked.unclear]
    return proposal


def _source(reference: str, settings: Settings) -> Proposal:
    """The import of FROM, by what it is."""
    folder = Path(reference)
    if settings.flow:
        return code_first.propose(folder, settings.flow)
    if use_case.recognise(folder):
        return use_case.propose(folder)
    if code_first.recognise(folder):
        return code_first.propose(folder)
    data = Path(_there("DATA", settings.data)) if settings.data else None
    return bare_flow.propose(reference, data=data)


def _there(name: str, reference: str) -> str:
    """The reference itself; behind a Python file a function may be named, as in `flow.py:run`."""
    path = reference.partition(".py:")[0] + (".py" if ".py:" in reference else "")
    if not Path(path).expanduser().exists():
        raise UserError(f"{name}: '{reference}': nothing is there. Name a path that exists.")
    return str(Path(reference).expanduser())
