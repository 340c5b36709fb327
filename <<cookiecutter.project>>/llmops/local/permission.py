"""Whether a flow may be deployed here: what the last experiment says of it is shown, and holds.

Nothing is registered for this machine, so the experiment itself decides. Where its gate stops the
variant, a reason is needed, also when the files have changed since. Where an approval is required,
it must be one of the last run, and that a run of exactly these files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llmops import experiment, registration, summary
from llmops.config import DEFAULT_ENV
from llmops.deploying.deployment import Endpoint
from llmops.deploying.subject import Subject
from llmops.errors import UserError
from llmops.settings import Settings
from llmops.summary import SUMMARY, Summary
from llmops.verdict import approval
from llmops.verdict.approval import APPROVAL, SHORT, run_of


@dataclass(frozen=True)
class _Known:
    """The last experiment, if it is about this variant, and why it may say nothing of it now."""

    last: Summary | None
    doubt: str = ""


def check(case: Subject[Endpoint], variant: str, settings: Settings) -> None:
    """Print what is known of the variant; with PLAN=1 a refusal is only told.

    Raises:
        UserError: the gate stops it and FORCE gives no reason, or an approval is required and there
            is none of exactly these files.
    """
    known = _known(case, variant, settings)
    try:
        print(_gate(known, variant, settings), flush=True)
        if case.experiment.approval == "required":
            print(_approved(case, known), flush=True)
    except UserError as error:
        if not settings.plan:
            raise
        print(f"`make deploy` would be refused: {error}", flush=True)


def _known(case: Subject[Endpoint], variant: str, settings: Settings) -> _Known:
    if not SUMMARY.exists():
        return _Known(None, "there was no `make experiment` yet")
    last = summary.load()
    own = Path(f"experiment.{case.env}.yaml").is_file()
    env = case.env if own else DEFAULT_ENV
    if (last.experiment, last.env) != (case.experiment.name, env):
        return _Known(None, f"the last experiment was '{last.experiment}' in '{last.env}'")
    if all(run.variant != variant for run in last.runs):
        return _Known(None, f"the last experiment did not run '{variant}'")
    try:
        found, checked = experiment.load(replace(settings, env=env), (variant.partition(" [")[0],))
        registration.check_unchanged(last, variant, found, checked)
    except UserError as error:
        return _Known(last, str(error))
    return _Known(last)


def _gate(known: _Known, variant: str, settings: Settings) -> str:
    if known.last is None:
        return f"gate: unknown, as {known.doubt}."
    gate = registration.judged(known.last, variant if settings.variants else None)
    reason = registration.forced(gate, variant, settings.force, "deployed")
    forced = f", forced: {reason}" if reason else ""
    text = f"gate: {gate.verdict}{forced} ('{variant}', llm {known.last.llm.mode})"
    return f"{text}. But {known.doubt}" if known.doubt else text


def _approved(case: Subject[Endpoint], known: _Known) -> str:
    """Who approved it; raises UserError where nobody approved exactly this."""
    found, again = approval.load(), f"`make approve ENV={case.env}`"
    asks = f"{case.experiment.file('approval')}: approval: required"
    if known.last is None or known.doubt:
        raise UserError(f"{asks}, but {known.doubt.rstrip('.')}. Then run {again}.")
    if found is None:
        raise UserError(f"{APPROVAL}: not found, but {asks}. Run {again}, in a terminal.")
    given = f"{found.who} approved run {found.run[:SHORT]} of '{found.env}' at {found.when}"
    wanted = run_of(known.last)
    if (found.env, found.run) != (case.env, wanted):
        raise UserError(
            f"{APPROVAL}: {given}, but the last one is run {wanted[:SHORT]} of '{case.env}'. "
            f"Run {again}."
        )
    return f"approval: {given}"
