"""`make serve`: the flow of ENV in one variant as an endpoint on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from llmops import plan
from llmops.answers import FOLDER
from llmops.errors import UserError
from llmops.experiment import load
from llmops.indexing import upkeep
from llmops.plan import Variant
from llmops.serving import bundle, server
from llmops.serving.server import Place
from llmops.settings import Settings


def run(settings: Settings) -> int:
    """Serve until Ctrl-C, on 127.0.0.1 and PORT.

    Returns:
        0. Raises UserError as `make experiment` does, where VARIANTS names several, or where the
        port is taken.
    """
    experiment, checked = load(settings, settings.variants or (plan.DEFAULT,))
    if checked.flow is None:
        raise UserError(
            f"ENV: '{settings.env}' has no datasets, so no flow to serve. Choose another."
        )
    variant = _one({cell.variant.name: cell.variant for cell in checked.cells})
    upkeep.refresh(experiment, checked.flow, settings)
    with tempfile.TemporaryDirectory(prefix="serving-") as name:
        bundle.write(experiment, checked.flow, variant, Path(name), recordings=FOLDER)
        return server.run(
            Path(name), Place(port=8080 if settings.port is None else settings.port), variant.name
        )


def _one(variants: dict[str, Variant]) -> Variant:
    if len(variants) > 1:
        raise UserError(f"VARIANTS: {len(variants)} are chosen ({'; '.join(variants)}). Name one.")
    return next(iter(variants.values()))
