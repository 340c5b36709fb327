"""`make image`: the context that the image is built from, checked, and the image by an engine."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmops import connections, experiment, flows, image
from llmops.answers import FOLDER as RECORDED
from llmops.config import Experiment
from llmops.errors import OK, UserError
from llmops.files import slug, unwritable
from llmops.image import PAYLOAD, rules
from llmops.indexing import upkeep
from llmops.plan import DEFAULT, Variant
from llmops.serving import bundle
from llmops.settings import Settings

STORE = Path("runs/image")
ENGINES = ("docker", "podman", "buildah")
_TAG = re.compile(r"[a-z0-9]+(?:[._/:@-]+[a-z0-9]+)*(?::[\w.-]{1,128})?", re.ASCII)
_REPRODUCIBLE = {"SOURCE_DATE_EPOCH": "0", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
"""BuildKit writes this time into the image, and no record of where and when it was built."""


@dataclass(frozen=True)
class Context:
    """What an image is built from: its folder, its content as a tar, and the tar's SHA-256."""

    folder: Path
    content: bytes
    files: int
    bundle: bundle.Bundle

    @property
    def digest(self) -> str:
        """The SHA-256 of the tar."""
        return hashlib.sha256(self.content).hexdigest()


def run(settings: Settings) -> int:
    """Write and check the context below `runs/image/`, and build the image unless CONTEXT_ONLY.

    VARIANTS names one variant; with LLM=replay the recorded answers go in, and the image needs no
    model. TAG is the image's name, by default the experiment's and the hash of its flow.

    Raises:
        UserError: the experiment or the context is not as it must be, no engine is there to build
            it, or the build failed.
    """
    tag = settings.tag
    if tag and not _TAG.fullmatch(tag):
        raise UserError(f"TAG: '{tag}' is no name of an image (expected one like words:1.2).")
    made = build_context(settings)
    tag = tag or f"{slug(made.bundle.name).lower()}:{made.bundle.flow_hash[:12]}"
    print(f"context: {made.folder} ({made.files} files, {len(made.content) / 1e6:.1f} MB), checked")
    print(f"digest:  sha256:{made.digest}", flush=True)
    if not settings.context_only:
        build_image(made, tag)
        print(f"image:   {tag}")
        print(f"Run it:  docker run --read-only --tmpfs /tmp --env-file .env -p 8080:8080 {tag}")
    return OK


def build_context(settings: Settings) -> Context:
    """Write the context, the same bytes for the same files; raises UserError, see `run`."""
    found, flow, variant = _chosen(settings)
    upkeep.require(found, flow)
    recordings = RECORDED if settings.llm == "replay" else None
    try:
        STORE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=STORE, prefix=".") as place:
            served = Path(place, bundle.FLOW)
            made = bundle.write(found, flow, variant, served, recordings=recordings)
            inside = image.below(served, f"{PAYLOAD}/bundle/")
            context = image.files(image.locks(found, flow)) | inside
            _check(context)
            content = image.pack(context)
            target = STORE / hashlib.sha256(content).hexdigest()[:16]
            image.collect(context, Path(place, "context"))
            shutil.rmtree(target, ignore_errors=True)
            Path(place, "context").rename(target)
    except OSError as error:
        raise unwritable(STORE, error) from error
    return Context(target, content, len(context), made)


def _chosen(settings: Settings) -> tuple[Experiment, flows.Flow, Variant]:
    """The experiment, its flow and the one variant that is served."""
    found, checked = experiment.load(settings, settings.variants or (DEFAULT,))
    if checked.flow is None:
        raise UserError(f"ENV: '{settings.env}' has no datasets, so no flow. Choose another.")
    variants = {cell.variant.name: cell.variant for cell in checked.cells}
    if len(variants) != 1:
        raise UserError(f"VARIANTS: name one (expected one of {'; '.join(variants)}).")
    return found, checked.flow, next(iter(variants.values()))


def _check(context: Mapping[str, Path]) -> None:
    variables = connections.environment()
    if problems := rules.problems(context, rules.hidden(variables)):
        raise UserError("\n".join(problems))


def build_image(made: Context, tag: str) -> None:
    """Let an engine build the context; its own lines are shown.

    Raises:
        UserError: there is no engine, or it failed.
    """
    name = next((name for name in ENGINES if _answers(name)), "")
    if not name:
        raise UserError(
            f"No Docker, Podman or Buildah answers here. The context is kept; where one runs: "
            f"docker build --tag {tag} {made.folder}\nFor the context alone: CONTEXT_ONLY=1."
        )
    labels = {"revision": made.bundle.commit, "version": made.bundle.flow_hash[:12]}
    words = [f"--label=org.opencontainers.image.{key}={text}" for key, text in labels.items()]
    # The format of the others knows no health check.
    fixed = () if name == "docker" else ("--timestamp=0", "--format=docker")
    command = (name, "build", "--pull", f"--tag={tag}", *words, *fixed, str(made.folder))
    if code := subprocess.run(command, env={**os.environ, **_REPRODUCIBLE}, check=False).returncode:
        raise UserError(
            f"{name} build failed ({code}); its lines above say why. The context is kept: "
            f"{made.folder}"
        )


def _answers(engine: str) -> bool:
    """Whether an engine is there and can work; Docker's client alone cannot."""
    if not shutil.which(engine):
        return False
    return subprocess.run((engine, "info"), capture_output=True, check=False).returncode == 0
