"""A use case as the template of 2023 had it: llmops_config, data_config and mapping_config.

Each may be JSON (also with comments) or YAML, or all three stand in one configs/config.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.config import DEFAULT_ENV
from llmops.deploying import deployment
from llmops.errors import UserError
from llmops.explain import quoted
from llmops.files import slug
from llmops.flows import Flow
from llmops.onboarding import old_keys, repairs, source_files, upstream
from llmops.onboarding.proposal import Document, Proposal
from llmops.onboarding.upstream import UseCase

KIND = "use case of 2023"
_MAIN = ("llmops_config", "config")
_DATA, _MAPPING = "data_config", "mapping_config"
_CONFIGS = upstream.CONFIGS
_SCORED = ("test_data", "eval_data", "evaluation_data")
_DATA_KEYS = {
    "ENV_NAME",
    "DATA_PURPOSE",
    "DATA_PATH",
    "DATASET_NAME",
    "RELATED_EXP_DATASET",
    "DATASET_DESC",
    "PROMPT_FLOW_CONFIG_NAME",
    "ML_MODEL_CONFIG_NAME",
}


@dataclass(frozen=True)
class Trio:
    """The three files of a use case, with the paths they were read from."""

    folder: Path
    main: Path
    envs: list[Document]
    datasets: list[Document]
    mapping: Document
    data_file: Path
    mapping_file: Path
    deployments: Document = field(default_factory=dict)


def recognise(folder: Path) -> bool:
    """Whether the folder holds a configuration of 2023."""
    return _main(folder) is not None


def files(folder: Path) -> list[Path]:
    """The files of the configuration."""
    main = _main(folder)
    parts = [source_files.find(folder, stem, *_CONFIGS) for stem in (_DATA, _MAPPING)]
    stale = source_files.find(folder, _MAIN[0], *_CONFIGS)
    return [path for path in dict.fromkeys([main, stale, *parts]) if path is not None]


def read(folder: Path) -> UseCase:
    """The use case that the three files describe.

    Raises:
        UserError: a file cannot be read, or names no environment.
    """
    trio = _read(folder)
    names = [_env(trio, block) for block in trio.envs]
    if not names:
        raise UserError(f"{trio.main}: envs: none. Nothing says which flow to import.")
    first = upstream.first_env(names)
    case = UseCase(folder, Proposal(_name(trio), KIND), {})
    documents = {
        name: environment_document(case, trio, block)
        for name, block in zip(names, trio.envs, strict=True)
    }
    case.base = {"name": case.proposal.name, **documents.pop(first)}
    if first != DEFAULT_ENV:
        case.overlays[first] = {}
    for name, document in documents.items():
        case.overlays[name] = difference(document, case.base)
    for block in trio.envs:
        old_keys.tell(case, block, trio.main, str(block["ENV_NAME"]))
    case.proposal.notes += _unused_data(trio, names)
    write_deployments(case, trio.deployments, trio.main)
    return case


def write_deployments(case: UseCase, sections: Mapping[str, Any], path: Path) -> None:
    """Write deployment_config.json from the sections that a larger file holds."""
    if not sections:
        return
    lists: Document = {}
    for section, entries in sections.items():
        entries = list(entries.values()) if isinstance(entries, dict) else list(entries or [])
        lists[section] = [_entry(entry) for entry in entries]
    text = json.dumps(lists, indent=2, ensure_ascii=False) + "\n"
    case.proposal.texts[deployment.CONFIG] = text
    case.proposal.notes.append(f"{deployment.CONFIG}: written from {path.name}.")


def _main(folder: Path) -> Path | None:
    """The file with `envs`, or with llmops_config as one block of a larger file."""
    for stem in _MAIN:
        for place in ("", *_CONFIGS):
            path = source_files.find(folder, stem, place)
            if path and (stem != _MAIN[1] or _is_main(path)):
                return path
    return None


def _is_main(path: Path) -> bool:
    """Whether a file of a name that many have holds the environments."""
    try:
        document = source_files.read(path)
    except UserError:
        return False
    return isinstance(document.get("envs"), list) or "llmops_config" in document


def _read(folder: Path) -> Trio:
    main = _main(folder)
    if main is None:
        raise UserError(f"{folder}: no llmops_config.json with `envs` is there.")
    document = source_files.read(main)
    if "llmops_config" in document:
        return _read_one(folder, main, document)
    data, mapping = (source_files.find(folder, stem, *_CONFIGS) for stem in (_DATA, _MAPPING))
    return Trio(
        folder,
        main,
        source_files.objects(document, "envs", main),
        source_files.objects(source_files.read(data), "datasets", data) if data else [],
        source_files.read(mapping) if mapping else {},
        data or folder / "configs" / f"{_DATA}.json",
        mapping or folder / "configs" / f"{_MAPPING}.json",
    )


def _read_one(folder: Path, main: Path, document: Document) -> Trio:
    """All of it in one file, by environment."""
    blocks = ("llmops_config", "datasets_config", "mapping_config", "deployment_configs")
    by_env, rows, mapping, deployments = (source_files.block(document, b, main) for b in blocks)
    envs = list(by_env.values())
    data = [row for env in rows for row in source_files.objects(rows, env, main)]
    if not all(isinstance(item, dict) for item in envs):
        raise UserError(f"{main}: llmops_config: expected an object an environment.")
    return Trio(folder, main, envs, data, mapping, main, main, deployments)


def _name(trio: Trio) -> str:
    """The name that all datasets give the use case, else that of its folder."""
    keys = ("PROMPT_FLOW_CONFIG_NAME", "ML_MODEL_CONFIG_NAME")
    found = {str(one[key]) for one in trio.datasets for key in keys if one.get(key)}
    return found.pop() if len(found) == 1 else trio.folder.name


def _env(trio: Trio, block: Document) -> str:
    name = str(block.get("ENV_NAME") or "").strip()
    if not name:
        raise UserError(f"{trio.main}: envs: one has no ENV_NAME. Name each environment.")
    return name


def environment_document(case: UseCase, trio: Trio, block: Document) -> Document:
    """What an environment runs, as an experiment without its name."""
    env = str(block["ENV_NAME"])
    flow = flow_path(trio.folder, block.get("STANDARD_FLOW_PATH"))
    if not flow:
        raise UserError(f"{trio.main}: envs: '{env}': STANDARD_FLOW_PATH: missing.")
    rows = [one for one in trio.datasets if str(one.get("ENV_NAME")) == env]
    mappings = source_files.block(trio.mapping, "experiment", trio.mapping_file)
    standard = [_dataset(trio.folder, one, mappings) for one in rows if not is_scored(one)]
    document: Document = {"flow": flow}
    if block.get("RUNTIME_NAME"):
        document["runtime"] = str(block["RUNTIME_NAME"])
    document["datasets"] = standard
    scored = [one for one in rows if is_scored(one)]
    paths = [
        flow_path(trio.folder, path)
        for path in source_files.words(block.get("EVALUATION_FLOW_PATH"))
    ]
    document["evaluators"] = list(_evaluators(case, trio, document, scored, paths))
    if paths and not scored:
        case.proposal.notes.append(
            f"{upstream.experiment_file(env)}: evaluators: none: {trio.main.name} names "
            f"{', '.join(paths)}, but no dataset of environment '{env}' is for evaluation."
        )
    return document


def flow_path(folder: Path, text: Any) -> str:
    """The path of a flow in the folder: the folder itself where its file is named."""
    path = str(text or "").strip()
    found = source_files.locate(folder, path, "flows") if path else None
    for candidate in (found, path):
        if candidate and Path(candidate).name in ("flow.dag.yaml", "flow.flex.yaml"):
            return Path(candidate).parent.as_posix()
    return found or path


def data_path(folder: Path, text: Any) -> str:
    """The path of a file of data in the folder, where it is there; else as it is written."""
    return source_files.locate(folder, str(text or ""), "data") or str(text or "")


def is_scored(one: Document) -> bool:
    """Whether a dataset is for evaluation flows: it belongs to another, or says so."""
    return bool(one.get("RELATED_EXP_DATASET")) or one.get("DATA_PURPOSE") in _SCORED


def _dataset(folder: Path, one: Document, mappings: Mapping[str, Any]) -> Document:
    """A dataset; its purpose stands in the description, where there is none."""
    found: Document = {
        "name": str(one.get("DATASET_NAME") or one.get("DATA_PURPOSE") or "data"),
        "source": data_path(folder, one.get("DATA_PATH")),
    }
    if text := one.get("DATASET_DESC") or one.get("DATA_PURPOSE"):
        found["description"] = str(text)
    return {**found, "mappings": dict(mappings)}


def _evaluators(
    case: UseCase, trio: Trio, document: Document, scored: list[Document], paths: Iterable[str]
) -> Iterator[Document]:
    """One evaluator an evaluation flow, each over all datasets for evaluation."""
    names: set[str] = set()
    for path in paths if scored else ():
        name = slug(Path(path).name)
        name = name if name not in names else slug(path.replace("/", "_"))
        names.add(name)
        flow = repairs.find_flow(trio.folder, path)
        datasets = [_scored(case, trio, document, one, path, flow) for one in scored]
        yield {"name": name, "flow": path, "datasets": datasets}


def _scored(
    case: UseCase, trio: Trio, document: Document, one: Document, path: str, flow: Flow | None
) -> Document:
    found = _dataset(trio.folder, one, {})
    related = _related(case, trio, document, one)
    mappings = _evaluation_mappings(trio, path)
    if mappings is None:
        mappings = _proposed(case, trio, document, found, path, flow)
    reference = {"reference": related} if related else {}
    return {"name": found.pop("name"), **reference, **found, "mappings": dict(mappings)}


def _related(case: UseCase, trio: Trio, document: Document, one: Document) -> str:
    """The dataset whose runs are scored; where none is named, the only one that there is."""
    names = [str(dataset["name"]) for dataset in document["datasets"]]
    related = str(one.get("RELATED_EXP_DATASET") or "")
    if related in names or not names:
        return related
    where = f"{trio.data_file.name}: {one.get('DATASET_NAME')}: RELATED_EXP_DATASET"
    case.proposal.notes.append(
        f"{where}: {f'{related!r} is no dataset of its environment' if related else 'not set'}: "
        f"taken as '{names[0]}' (of {quoted(names)})."
    )
    return names[0]


def _evaluation_mappings(trio: Trio, path: str) -> Document | None:
    """The mappings of an evaluation flow, by the name of its folder, or the same for all."""
    blocks = source_files.block(trio.mapping, "evaluation", trio.mapping_file)
    own = blocks.get(Path(path).name)
    if isinstance(own, dict):
        return own
    flat = blocks and not any(isinstance(value, dict) for value in blocks.values())
    return blocks if flat else None


def _proposed(
    case: UseCase, trio: Trio, document: Document, found: Document, path: str, flow: Flow | None
) -> Document:
    """Mappings by name, for an evaluation flow that the file has none for."""
    known = ", ".join(trio.mapping.get("evaluation") or {}) or "none"
    case.proposal.notes.append(
        f"{trio.mapping_file.name}: evaluation: nothing for {Path(path).name} (found {known}): "
        "its inputs are mapped by their names."
    )
    standard = repairs.find_flow(trio.folder, document["flow"])
    rows = repairs.table(trio.folder, found["source"])
    outputs = standard.outputs if standard else None
    return upstream.evaluator_mappings(flow, rows.columns if rows else (), outputs) if flow else {}


def difference(document: Document, base: Document) -> Document:
    """The blocks of an environment that are not those of the base."""
    if not upstream.same_flow(document["flow"], base["flow"]):
        return document
    blocks = {key: value for key, value in document.items() if value != base.get(key)}
    if "runtime" in base and "runtime" not in document:
        blocks["runtime"] = None
    return blocks


def _unused_data(trio: Trio, names: list[str]) -> Iterator[str]:
    for one in trio.datasets:
        name, env = one.get("DATASET_NAME"), one.get("ENV_NAME")
        where = f"{trio.data_file.name}: {name}"
        if str(env) not in names:
            yield f"{where}: ENV_NAME '{env}' is no environment ({quoted(names)}); not brought in."
        for key in sorted(set(one) - _DATA_KEYS):
            told = old_keys.NOT_NEEDED.get(key)
            yield f"{where}: {key}: {f'not needed: {told}' if told else 'has no place here'}."


def _entry(entry: Any) -> Any:
    """An entry of a deployment as JSON has it: an empty key is an empty text."""
    if not isinstance(entry, dict):
        return entry
    kept = {key: value for key, value in entry.items() if key != "name"}
    return {key: "" if value is None else value for key, value in kept.items()}
