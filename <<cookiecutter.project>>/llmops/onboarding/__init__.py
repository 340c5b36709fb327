"""`make onboard`: an existing flow or use case comes into this repo, unchanged.

FROM is a flow, a use case of Microsoft's template, or a code-first repo. Everything that would be
done is shown first; what is copied stays where it is, and a file that is there already is replaced
only after a yes.
"""

from __future__ import annotations

from pathlib import Path

from llmops.config import EXPERIMENT
from llmops.errors import OK, UserError
from llmops.onboarding import preview, questions, writing
from llmops.onboarding.found import propose
from llmops.settings import Settings

NEXT = (
    "Next: `make validate` and `make try`; `make record` asks a model and keeps its answers (put a "
    "key into .env, see .env.example); `make experiment` then works with and without a key."
)


def run(settings: Settings, root: Path = Path()) -> int:
    """Bring in what FROM and EVALUATOR name; PLAN=1 shows it and writes nothing.

    Raises:
        UserError: there is nothing to bring in, it cannot be read, or a file that is there would
            be replaced and nobody said yes.
    """
    proposal = propose(settings, root)
    questions.keep_answers(proposal, root)
    if not settings.plan:
        questions.ask(proposal)
    planned = writing.plan(proposal, root)
    print(preview.text(proposal, planned))
    if settings.plan:
        return OK
    if all(file.state == "same" for file in planned):
        print("Everything is here already; nothing was changed.")
        return OK
    _confirm(planned, settings.yes)
    before = questions.existing(root / EXPERIMENT)
    writing.write(planned, root)
    if left := writing.unused(before, proposal.documents.get(Path(EXPERIMENT))):
        print(f"No longer used by {EXPERIMENT}, remove it when you like: {', '.join(left)}.")
    print(NEXT)
    return OK


def _confirm(planned: list[writing.Planned], yes: bool) -> None:
    """Raises UserError unless nothing is replaced, YES=1 is set, or a person says yes."""
    replaced = [str(file.target) for file in planned if file.state == "replace"]
    if yes or not (replaced or questions.terminal()):
        return
    what = f"Replace {', '.join(replaced)} and write the rest?" if replaced else "Write these?"
    if not questions.agreed(what):
        raise UserError(
            f"Nothing was written. {', '.join(replaced)} would be replaced: YES=1 says yes."
            if replaced
            else "Nothing was written."
        )
