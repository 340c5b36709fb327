"""A code-first repo: config/config.yaml with `flow_configs`, or config/model_config.json.

One file says for all flows and environments which flow runs over which data. The flow of the name
asked for comes in with what belongs to it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from llmops.config import DEFAULT_ENV
from llmops.connections import AZURE_API_VERSION, AZURE_OPENAI
from llmops.deploying import deployment
from llmops.errors import UserError
from llmops.explain import quoted
from llmops.files import slug
from llmops.flows import Flow
from llmops.onboarding import finishing, old_keys, repairs, source_files, upstream, use_case_2023
from llmops.onboarding.code_first_config import NAMES, Repo, choices, chosen, lower, read, recognise
from llmops.onboarding.proposal import Document, Proposal
from llmops.onboarding.upstream import UseCase
from llmops.onboarding.use_case_2023 import Trio

__all__ = ["choices", "propose", "recognise"]

KIND = "code-first repo"
_READ = {
    *NAMES,
    "env_name",
    "standard_flow_path",
    "evaluation_flow_path",
    "data_path",
    "eval_data_path",
    "column_mapping",
    "eval_column_mapping",
    "connection_name",
    "deployment_name",
    "data_config_path",
    "data_mapping_config",
    "realtime_deployment_config",
    "runtime_name",
    "api_base",
    "api_key",
    "api_type",
    "api_version",
    "aoai_api_version",
}
_OLD_DEPLOYMENT = {
    "DEPLOYMENT_NAME": "CURRENT_DEPLOYMENT_NAME",
    "DEPLOYMENT_TRAFFIC_ALLOCATION": "CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION",
}


def propose(folder: Path, flow: str = "") -> Proposal:
    """What importing one flow would do; `flow` may be left out where there is only one.

    Raises:
        UserError: FLOW is missing or names no flow; a file cannot be read; no path leads to a flow.
    """
    repo = read(folder.resolve())
    name = chosen(repo, flow)
    entries = {env: lower(entry) for env, entry in repo.flows[name].items()}
    first = upstream.first_env(entries)
    case = UseCase(repo.folder, Proposal(name, KIND), {})
    documents = {env: _document(case, repo, env, entry) for env, entry in entries.items()}
    case.base = {"name": name, **documents.pop(first)}
    connections = _connections(case, repo, entries[first])
    if connections:
        case.base["connections"] = connections
    for env, document in {**({first: {}} if first != DEFAULT_ENV else {}), **documents}.items():
        case.overlays[env] = use_case_2023.difference(document, case.base) if document else {}
    for env, entry in repo.flows[name].items():
        _tell(case, repo, env, entry)
    _take(case, entries.values())
    _deployment(case, entries)
    old_keys.tell_tracking(case, {**repo.common, **entries[first]})
    return finishing.finish(case)


def _document(case: UseCase, repo: Repo, env: str, entry: Document) -> Document:
    """What an environment runs, as an experiment without its name."""
    where = f"{repo.file.relative_to(repo.folder)}: {case.proposal.name} ({env})"
    path = str(entry.get("standard_flow_path") or "")
    if repairs.find_flow(repo.folder, use_case_2023.flow_path(repo.folder, path)) is None:
        raise UserError(
            f"{where}: standard_flow_path: '{path}' leads to no flow. Correct the path."
        )
    scoring = _evaluation_flows(case, repo, entry)
    rows = _rows(repo, entry, env, bool(scoring))
    if not rows:
        case.proposal.notes.append(f"{where}: names no data for the flow: add a dataset.")
    trio = Trio(
        repo.folder,
        main=repo.file,
        envs=[],
        datasets=rows,
        mapping=_mapping(repo, entry, scoring),
        data_file=repo.file,
        mapping_file=repo.file,
    )
    block = {"ENV_NAME": env, "STANDARD_FLOW_PATH": path, "EVALUATION_FLOW_PATH": scoring}
    document = use_case_2023.environment_document(
        case, trio, {**block, "RUNTIME_NAME": entry.get("runtime_name")}
    )
    if not scoring:
        document["evaluators"] = []
        _tell_unread(case, repo, [row for row in rows if use_case_2023.is_scored(row)])
    return document


def _evaluation_flows(case: UseCase, repo: Repo, entry: Document) -> list[str]:
    """The evaluation flows; a path to scripts is told instead."""
    found = []
    for text in source_files.words(entry.get("evaluation_flow_path")):
        path = use_case_2023.flow_path(repo.folder, text)
        if repairs.find_flow(repo.folder, path) is not None:
            found.append(path)
        else:
            _tell_once(case, f"evaluation_flow_path: '{path}' is no flow: it scores nothing here.")
    return found


def _rows(repo: Repo, entry: Document, env: str, scoring: bool) -> list[Document]:
    """The datasets of an environment: those of the file that the entry names, or its own paths."""
    if rows := _data_config(repo, entry, env):
        return rows
    data, test = (str(entry.get(key) or "") for key in ("data_path", "eval_data_path"))
    name, other = slug(Path(data).stem), slug(Path(test).stem)
    rows = [_row(env, data, name)] if data else []
    if scoring and not test:
        test = data  # the same rows hold what is expected
    if test:
        row = _row(env, test, f"{name}_test" if test == data or other == name else other)
        rows.append({**row, "DATA_PURPOSE": "test_data", "RELATED_EXP_DATASET": name})
    return rows


def _row(env: str, path: str, name: str) -> Document:
    return {"ENV_NAME": env, "DATA_PATH": path, "DATASET_NAME": name}


def _data_config(repo: Repo, entry: Document, env: str) -> list[Document]:
    """The datasets of this flow and environment in the file that the entry names."""
    found = source_files.locate(repo.folder, str(entry.get("data_config_path") or ""))
    if not found:
        return []
    path = repo.folder / found
    names = {entry.get(key) for key in NAMES} - {None}
    rows = []
    for item in source_files.objects(source_files.read(path), "datasets", path):
        upper = {str(key).upper(): value for key, value in item.items()}
        owners = {upper.get(key.upper()) for key in NAMES} - {None}
        if (not owners or owners & names) and str(upper.get("ENV_NAME") or env) == env:
            rows.append({**upper, "ENV_NAME": env})
    return rows


def _mapping(repo: Repo, entry: Document, scoring: list[str]) -> Document:
    """The mappings of the file that the entry names, or its own."""
    if found := source_files.locate(repo.folder, str(entry.get("data_mapping_config") or "")):
        return source_files.read(repo.folder / found)
    own = entry.get("eval_column_mapping")
    evaluation = {Path(path).name: own for path in scoring} if own else {}
    return {"experiment": entry.get("column_mapping") or {}, "evaluation": evaluation}


def _tell_unread(case: UseCase, repo: Repo, rows: list[Document]) -> None:
    for row in rows:
        source = use_case_2023.data_path(repo.folder, row.get("DATA_PATH"))
        _tell_once(
            case,
            f"{source}: data for evaluation: it came along, and no evaluator reads it. Import an "
            "evaluation flow (`make onboard EVALUATOR=<its folder>`) and name it as its `source`.",
        )


def _tell_once(case: UseCase, note: str) -> None:
    if note not in case.proposal.notes:
        case.proposal.notes.append(note)


def _connections(case: UseCase, repo: Repo, entry: Document) -> list[Document]:
    """The connection to the models, with the address and version of the configuration."""
    flow = repairs.find_flow(repo.folder, case.base["flow"])
    entries = upstream.used_connections_of(flow)[0] if flow else []
    types = {str(one["name"]): str(one.get("connection_type") or AZURE_OPENAI) for one in entries}
    name = _connection_name(case, str(entry.get("connection_name") or ""), types)
    known = name in types or bool(name and repo.common.get("api_base"))
    if not known or types.get(name, AZURE_OPENAI) != AZURE_OPENAI:
        return []
    version = entry.get("aoai_api_version") or repo.common.get("api_version") or AZURE_API_VERSION
    block: Document = {
        "name": name,
        "connection_type": AZURE_OPENAI,
        "api_base": str(repo.common.get("api_base") or "${api_base}"),
        "api_key": str(repo.common.get("api_key") or "${api_key}"),
        "api_type": str(repo.common.get("api_type") or "azure"),
        "api_version": str(version),
    }
    return [{**block, **_model(case, entry, flow)}]


def _connection_name(case: UseCase, wanted: str, types: Mapping[str, str]) -> str:
    """The name that the flow knows the connection by; "" where that cannot be said."""
    if wanted in types or not types:
        return wanted
    if wanted:
        case.proposal.notes.append(
            f"connection_name: '{wanted}': the flow names {quoted(sorted(types))} instead, so that "
            "is its name here."
        )
    models = [name for name, kind in types.items() if kind == AZURE_OPENAI]
    return models[0] if len(models) == 1 else ""


def _model(case: UseCase, entry: Document, flow: Flow | None) -> Document:
    """`model` where the configuration names another deployment than all of the flow's nodes."""
    wanted = str(entry.get("deployment_name") or "")
    nodes = [version for name in flow.nodes for version in flow.versions(name)] if flow else []
    keys = ("deployment_name", "model")
    named = {str((node.get("inputs") or {}).get(key) or "") for node in nodes for key in keys} - {
        ""
    }
    if not wanted or wanted in named:
        return {}
    if named:
        case.proposal.notes.append(
            f"deployment_name: '{wanted}': asked for instead of {quoted(sorted(named))}, which the "
            "flow names: `model` of its connection."
        )
        return {"model": wanted}
    case.proposal.notes.append(
        f"deployment_name: '{wanted}': the flow's own code names its model; to have another asked "
        "for, set `model` of its connection."
    )
    return {}


def _tell(case: UseCase, repo: Repo, env: str, entry: Document) -> None:
    """Keys of an entry and of the whole file that go elsewhere, or nowhere."""
    rest = {key: value for key, value in entry.items() if key.lower() not in _READ}
    common = {key: value for key, value in repo.common.items() if key not in _READ}
    old_keys.tell(case, {**common, **rest}, repo.file, env)


def _take(case: UseCase, entries: Collection[Document]) -> None:
    """Copy the flows with what lies beside them, and the data."""
    documents = [case.base, *case.overlays.values()]
    names = [str(document["flow"]) for document in documents if "flow" in document]
    names += [str(one["flow"]) for d in documents for one in repairs.blocks(d, "evaluators")]
    homes = {_home(case.folder, name) for name in names}
    for home in sorted(homes):
        upstream.take_files(case, home, ())
    known = {copied.target for copied in case.proposal.copies}
    for path in sorted({path for entry in entries for path in _data_files(case, entry)}):
        if path.is_file() and path.relative_to(case.folder) not in known:
            upstream.take_file(case, path)
    _tell_scripts(case)


def _home(folder: Path, flow: str) -> Path:
    """The folder that holds the flow and its evaluation; the flow's own where that holds others."""
    path = folder / flow.partition(":")[0]
    path = path.parent if path.is_file() else path
    shared = path.parent in (folder, folder / "flows")
    return path if shared else path.parent


def _data_files(case: UseCase, entry: Document) -> Iterator[Path]:
    for document in (case.base, *case.overlays.values()):
        for _, dataset in upstream.every_dataset(document):
            yield case.folder / str(dataset.get("source") or "")
    for text in (entry.get("data_path"), entry.get("eval_data_path")):
        if found := source_files.locate(case.folder, str(text or ""), "data"):
            yield case.folder / found
    for value in (entry.get("column_mapping") or {}).values():
        if isinstance(value, str) and "/" in value and not value.startswith("$"):
            yield case.folder / value


def _tell_scripts(case: UseCase) -> None:
    """Scripts that evaluate and are no flow: they came along, and no task calls them."""
    flows = {flow.folder for flow in upstream.flows_of(case)}
    for copied in case.proposal.copies:
        folder = copied.source.parent
        inside = any(folder.is_relative_to(flow) for flow in flows)
        if copied.source.suffix == ".py" and not inside and "eval" in copied.target.as_posix():
            case.proposal.notes.append(
                f"{copied.target} is a script and no flow: it came along, and no task calls it. "
                "Put what it measures into a function (flows/evaluation/flow.py: run) and import "
                "that: `make onboard EVALUATOR=flows/evaluation/flow.py`."
            )


def _deployment(case: UseCase, entries: Mapping[str, Document]) -> None:
    """The deployments of the flow, in the sections and keys of deployment_config.json."""
    texts = {str(entry.get("realtime_deployment_config") or "") for entry in entries.values()}
    for found in filter(None, (source_files.locate(case.folder, text) for text in sorted(texts))):
        path, document = case.folder / found, source_files.read(case.folder / found)
        if set(document) <= set(deployment.SECTIONS.values()):
            upstream.take_file(case, path, deployment.CONFIG)
        else:
            items = [one for block in document.values() if isinstance(block, list) for one in block]
            sections = {
                deployment.SECTIONS["managed"]: [_renamed(case, found, one) for one in items]
            }
            text = json.dumps(sections, indent=2, ensure_ascii=False) + "\n"
            case.proposal.texts[deployment.CONFIG] = text
        return


def _renamed(case: UseCase, file: str, entry: Document) -> Document:
    """An entry of an older deployment file with the keys of ours."""
    named = {_OLD_DEPLOYMENT.get(key, key): value for key, value in entry.items()}
    known = deployment.Endpoint.model_fields
    for key in sorted(set(named) - set(known)):
        case.proposal.notes.append(f"{file}: {key}: has no place in {deployment.CONFIG}; left out.")
    return {key: value for key, value in named.items() if key in known}
