"""The flow as it is served: one folder that holds one variant and needs nothing beside it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmops import flows
from llmops.errors import UserError
from llmops.flows import Flow
from llmops.plan import Variant

IGNORE_FILES = {".gitignore", ".amlignore"}
"""Uploads would leave out what these name."""


def package(flow: Flow, variant: Variant, folder: Path) -> Flow:
    """Write a flow in one variant into `folder`; returns the flow as it stands there.

    The files of `additional_includes` come beside the flow's own. Caches, `.env` files and prompts
    that only other variants use stay behind. Of a DAG the variant and its parameters become the
    definition; a parameter that is an input of the flow becomes that input's default, of a Python
    flow in its packed.json. The arguments of a flex flow's class become those of its sample, of a
    Python class its init.json.

    Raises:
        UserError: the variant sets an input of a flex flow or a prompty, where it has no place.
    """
    if variant.inputs and flow.kind not in ("dag", "python"):
        raise UserError(
            f"{flow.path}: parameters: {', '.join(variant.inputs)}: the files of a {flow.kind} "
            "flow cannot carry the value. Make it the default in the flow's code, and take it out "
            "of experiment.yaml."
        )
    left = flows.other_prompts(flow, variant.definition)
    for name, source in list(flows.files(flow)):  # `folder` may lie below
        if name not in left and not _stays(Path(name).name):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    file = flow.file
    if flow.kind in ("dag", "flex"):
        (folder / flow.file).unlink(missing_ok=True)  # it may have a name that no service looks for
        file = f"flow.{flow.kind}.yaml"
        _write_yaml(folder / file, _definition(flow, variant))
    function = flow.entry.partition(":")[2] if flow.kind == "python" else ""
    if flow.kind == "python" and variant.inputs:
        values = json.dumps({flows.VARIANT: variant.inputs}, indent=1, sort_keys=True)
        (folder / flows.PACKED).write_text(values, encoding="utf-8")
    if function and flow.init:
        (folder / "init.json").write_text(json.dumps(flow.init), encoding="utf-8")
    packed = flows.describe(f"{file}:{function}", folder)
    return replace(packed, init=flow.init) if flow.kind == "python" else packed


def flow_hash(packed: Flow) -> str:
    """A hash over what a packed flow holds; line endings and the order of files do not count."""
    return flows.digest(packed, flows.overlay(packed, {}, {}))


def file_hash(path: Path) -> str:
    """A hash over a file's bytes; line endings do not count."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _stays(name: str) -> bool:
    return name in IGNORE_FILES or name == ".env" or name.startswith(".env.")


def _definition(flow: Flow, variant: Variant) -> dict[str, Any]:
    """What the flow's YAML says once variant, parameters and includes are settled."""
    settled = variant.definition if flow.kind == "dag" else flow.definition
    definition = {key: value for key, value in settled.items() if key != "additional_includes"}
    if flow.init:
        # Prompt flow takes these where it is given none, on a served flow too.
        definition["sample"] = {**_sample(flow), "init": flow.init}
    if variant.inputs:
        inputs = {**(definition.get("inputs") or {})}
        for name, value in variant.inputs.items():
            inputs[name] = {**(inputs.get(name) or {}), "default": value}
        definition["inputs"] = inputs
    return definition


def _sample(flow: Flow) -> dict[str, Any]:
    sample = flows.referred(flow.definition.get("sample"), flow.folder)
    return sample if isinstance(sample, dict) else {}


def _write_yaml(path: Path, document: dict[str, Any]) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096
    with path.open("w", encoding="utf-8", newline="\n") as file:
        yaml.dump(document, file)
