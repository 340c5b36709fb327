"""The smallest changes that make an older experiment file one of ours; each is told in words.

A document is changed in place, so that the comments of the rest stay. What has the wrong shape
altogether is left as it is: `make validate` names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from llmops import config
from llmops.connections import variable
from llmops.data import REFERENCE, Table
from llmops.errors import UserError
from llmops.explain import shown
from llmops.files import slug
from llmops.flows import Flow, describe
from llmops.onboarding import source_files
from llmops.onboarding.proposal import Document

SECRET = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)
_OTHER_NAMES = {"connection": "name", "type": "connection_type", "key": "api_key"}
_VARIABLE = re.compile(r"\$\{\s*\w+\s*\}|<.*>")
_DATA = "data"


def repair(document: Document, file: str, folder: Path) -> list[str]:
    """Make a document fit the format and its files; returns a sentence for each change."""
    return [
        *_known_keys(document, config.Experiment, file),
        *_connections(document, file),
        *_datasets(document, file, folder),
        *_evaluators(document, file, folder),
    ]


def blocks(document: Document, key: str) -> list[Document]:
    """The objects of a list in a document; none where it has another shape."""
    found = document.get(key)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def mappings(dataset: Document) -> Document:
    """The mappings of a dataset; none where they have another shape."""
    found = dataset.get("mappings")
    return found if isinstance(found, dict) else {}


def stale_mappings(document: Document, file: str, folder: Path, flow: str) -> Iterator[str]:
    """Remove mappings to what is no input of the flow, from a column that is not there."""
    for dataset in blocks(document, "datasets"):
        where = f"{file}: datasets[{dataset.get('name')}].mappings"
        yield from _stale(where, dataset, dataset.get("source"), folder, flow)
    sources = {str(one.get("name")): one.get("source") for one in blocks(document, "datasets")}
    for evaluator in blocks(document, "evaluators"):
        own = str(evaluator.get("flow") or evaluator.get("name") or "")
        for dataset in blocks(evaluator, "datasets"):
            source = dataset.get("source") or sources.get(str(dataset.get("name")))
            where = f"{file}: evaluators[{evaluator.get('name')}].datasets[{dataset.get('name')}]"
            yield from _stale(f"{where}.mappings", dataset, source, folder, own)


def unanswered(overlay: Document, base: Document, file: str) -> Iterator[str]:
    """Give an overlay the evaluators that still have the runs that they score.

    It replaces the datasets; those of the base's evaluators that refer to others have no runs here.
    """
    if "datasets" not in overlay or "evaluators" in overlay or not base.get("evaluators"):
        return
    names = {str(dataset.get("name")) for dataset in blocks(overlay, "datasets")}
    kept = []
    for evaluator in blocks(base, "evaluators"):
        scored = [
            dict(dataset)
            for dataset in blocks(evaluator, "datasets")
            if str(dataset.get("reference") or dataset.get("name")) in names
        ]
        if scored:
            kept.append({**evaluator, "datasets": scored})
    if kept != blocks(base, "evaluators"):
        overlay["evaluators"] = kept
        count = f"{len(kept)} of the {len(blocks(base, 'evaluators'))} evaluators" if kept else "no"
        yield (
            f"{file}: evaluators: added ({count if kept else 'none'}): those of experiment.yaml "
            "score datasets that this environment does not run."
        )


def find_flow(folder: Path, reference: Any) -> Flow | None:
    """The flow that a document names, where it can be read."""
    try:
        return describe(str(reference), folder) if reference else None
    except UserError:
        return None


def table(folder: Path, source: Any) -> Table | None:
    """The rows of a dataset, where they can be read."""
    path = folder / source if isinstance(source, str) and source else folder
    if not path.is_file():
        return None
    status = path.stat()
    return _table(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _table(path: Path, *version: int) -> Table | None:
    """The rows of a file, which many ask for, read once for each `version` of it."""
    try:
        return Table(path)
    except UserError:
        return None


def _known_keys(block: Document, model: type[BaseModel], where: str) -> Iterator[str]:
    for key in [key for key in block if key not in model.model_fields]:
        value = block.pop(key)
        told = "" if SECRET.search(str(key)) else f" ({shown(value)})"
        yield f"{where}: {key}{told}: has no place here; taken out."


def _connections(document: Document, file: str) -> Iterator[str]:
    for at, block in enumerate(blocks(document, "connections")):
        name = block.get("name") or block.get("connection") or at
        where = f"{file}: connections[{name}]"
        yield from _renamed(block, where)
        yield from _moved(block, where)
        yield from _without_secrets(block, where)
        yield from _as_texts(block, where)


def _renamed(block: Document, where: str) -> Iterator[str]:
    for old, new in _OTHER_NAMES.items():
        if old in block and new not in block:
            block[new] = block.pop(old)
            yield f"{where}: {old} is called {new} here."


def _moved(block: Document, where: str) -> Iterator[str]:
    """Properties that have no key of their own go to `configs`, or to `secrets`."""
    for key in [key for key in block if key not in config.Connection.model_fields]:
        value, place = block.pop(key), "secrets" if SECRET.search(str(key)) else "configs"
        if value is None or isinstance(value, dict | list):
            yield f"{where}: {key}: has no place here; taken out."
            continue
        block[place] = {**(block.get(place) or {}), str(key): value}
        yield f"{where}: {key} stands under {place} here."


def _without_secrets(block: Document, where: str) -> Iterator[str]:
    name = str(block.get("name") or "")
    secrets = block["secrets"] if isinstance(block.get("secrets"), dict) else {}
    for holder, key in [(block, "api_key"), *((secrets, key) for key in secrets)]:
        value = holder.get(key)
        if value and not _VARIABLE.fullmatch(str(value)):
            holder[key] = f"${{{key}}}"
            yield (
                f"{where}: {key}: the secret itself is not brought in. Set it as "
                f"{variable(name, key)}, and make a new one: this one stood in a file."
            )


def _as_texts(block: Document, where: str) -> Iterator[str]:
    configs = block["configs"] if isinstance(block.get("configs"), dict) else {}
    for holder, key in [*((block, key) for key in block), *((configs, key) for key in configs)]:
        value = holder[key]
        if isinstance(value, int | float) and not isinstance(value, bool):
            holder[key] = str(value)
            yield f"{where}: {key}: written as a text ('{value}')."


def _datasets(document: Document, file: str, folder: Path) -> Iterator[str]:
    for dataset in blocks(document, "datasets"):
        where = f"{file}: datasets[{dataset.get('name')}]"
        yield from _known_keys(dataset, config.Dataset, where)
        yield from _source(dataset, where, folder)


def _evaluators(document: Document, file: str, folder: Path) -> Iterator[str]:
    for evaluator in blocks(document, "evaluators"):
        where = f"{file}: evaluators[{evaluator.get('name')}]"
        yield from _known_keys(evaluator, config.Evaluator, where)
        for dataset in blocks(evaluator, "datasets"):
            inner = f"{where}.datasets[{dataset.get('name')}]"
            yield from _known_keys(dataset, config.EvaluatorDataset, inner)
            yield from _source(dataset, inner, folder)
    yield from _one_score_each(document, file)


def _source(dataset: Document, where: str, folder: Path) -> Iterator[str]:
    source = dataset.get("source")
    if not isinstance(source, str) or source.startswith("azureml:") or (folder / source).is_file():
        return
    found = source_files.locate(folder, source, _DATA)
    if found and (folder / found).is_file():
        dataset["source"] = found
        yield f"{where}.source: '{source}' is '{found}' here."


def _one_score_each(document: Document, file: str) -> Iterator[str]:
    """An evaluator scores a run once: further datasets over the same run get a copy of it."""
    more = []
    for evaluator in blocks(document, "evaluators"):
        seen: set[str] = set()
        kept = []
        for dataset in blocks(evaluator, "datasets"):
            run = str(dataset.get("reference") or dataset.get("name"))
            if run not in seen:
                kept.append(dataset)
            else:
                name = f"{evaluator.get('name')}_{slug(str(dataset.get('name')))}"
                flow = evaluator.get("flow") or evaluator.get("name")
                more.append({**evaluator, "name": name, "flow": flow, "datasets": [dataset]})
                yield (
                    f"{file}: evaluators[{evaluator.get('name')}]: dataset '{dataset.get('name')}' "
                    f"scores the runs over '{run}' a second time; evaluator '{name}' does that."
                )
            seen.add(run)
        if len(kept) < len(blocks(evaluator, "datasets")):
            evaluator["datasets"] = kept
    if more:
        document["evaluators"].extend(more)


def _stale(where: str, dataset: Document, source: Any, folder: Path, flow: str) -> Iterator[str]:
    described, rows = find_flow(folder, flow), table(folder, source)
    known = mappings(dataset)
    if described is None or rows is None or described.more_inputs:
        return
    for name in [name for name in known if name not in described.inputs]:
        match = REFERENCE.match(str(known[name]))
        source_of, _, column = match[1].partition(".") if match else ("", "", "")
        if source_of == _DATA and column.partition(".")[0] not in rows.columns:
            value = known.pop(name)
            yield (
                f"{where}.{name}: '{value}': taken out: {flow} has no such input, and {source} no "
                "such column."
            )
