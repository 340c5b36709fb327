"""Make a use case fit: documents, connections, sample request, deployments, and what is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from llmops.connections import variable
from llmops.data import apply_mappings, complete_mappings
from llmops.deploying import deployment
from llmops.errors import UserError
from llmops.files import slug
from llmops.flows import describe
from llmops.monitoring.monitor import DEFAULT_ENV as LOG_ENV
from llmops.onboarding import repairs, source_files, upstream
from llmops.onboarding.proposal import Document, Left, Proposal
from llmops.onboarding.upstream import UseCase
from llmops.validate import SAMPLE_REQUEST

DEPLOYMENT = "deployment_config"
UNCHANGED = "# Nothing differs from experiment.yaml.\n"
_AFTER_PRODUCTION = re.compile(r"post.?prod|production.?log|monitor", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{\s*(\w+)\s*\}")
_SHAPES = {"api_base": "https://<resource>.openai.azure.com/"}
_SHAPES |= dict.fromkeys(("api_endpoint", "azure_endpoint"), _SHAPES["api_base"])


def finish(case: UseCase) -> Proposal:
    """The proposal with every document, connection, sample request and deployment."""
    before = _ours(case)
    told = _repaired(case)
    proposal = case.proposal
    _connections(case, told)
    for env, document in {"": case.base, **case.overlays}.items():
        _place(case, env, document, bool(told[env]) or env in before)
        proposal.notes += told[env]
    proposal.notes += [*_unreadable(case), *_missing_data(case), *_different_lengths(case)]
    _sample_request(case)
    _deployment(case)
    proposal.requirements += _requirements(case)
    proposal.questions += upstream.questions(case)
    proposal.left += _outside(case)
    return proposal


def _ours(case: UseCase) -> set[str]:
    """Make overlays of environments that run a flow of their own; returns those that changed."""
    changed: set[str] = set()
    for env, document in list(case.overlays.items()):
        flow, name = document.get("flow"), document.get("name")
        if flow and not upstream.same_flow(flow, case.base.get("flow") or case.base.get("name")):
            del case.overlays[env]
            changed |= _own_flow(case, env, document)
            continue
        for key, value in (("name", name), ("flow", flow)):
            if key in document and value != case.base.get(key):
                document.pop(key)
                changed.add(env)
                case.proposal.notes.append(
                    f"{upstream.experiment_file(env)}: {key}: '{value}' is left out: an "
                    "environment has the name and the flow of experiment.yaml."
                )
    return changed


def _own_flow(case: UseCase, env: str, document: Document) -> set[str]:
    """An environment with another flow: without evaluators, that flow scores the data alone."""
    if document.get("evaluators"):
        reason = (
            f"environment '{env}' runs another flow ({document['flow']}) with evaluators of its "
            "own: it is a use case of its own. Import it into a repo of its own."
        )
        if env in case.files:
            case.proposal.left.append(Left(case.files.pop(env), reason))
        else:
            case.proposal.notes.append(reason)
        return set()
    name = LOG_ENV if _AFTER_PRODUCTION.search(env) and LOG_ENV not in case.overlays else env
    case.overlays[name] = _log(document)
    case.files.pop(env, None)
    case.proposal.notes.append(
        f"{upstream.experiment_file(name)}: environment '{env}' scores "
        f"{_sources(document) or 'its data'} alone with {document['flow']}: "
        f"`make monitor{'' if name == LOG_ENV else f' ENV={name}'}`."
    )
    return {name}


def _log(document: Document) -> Document:
    """`datasets: []` and one evaluator, as an overlay that scores a log has them."""
    flow = str(document["flow"])
    evaluator = {
        "name": slug(Path(upstream.bare(flow)).name),
        "flow": flow,
        "datasets": [{**dataset} for dataset in repairs.blocks(document, "datasets")],
    }
    rest = {
        k: v for k, v in document.items() if k not in ("name", "flow", "datasets", "evaluators")
    }
    return {"datasets": [], "evaluators": [evaluator], **rest}


def _sources(document: Document) -> str:
    return ", ".join(str(one.get("source")) for one in repairs.blocks(document, "datasets"))


def _repaired(case: UseCase) -> dict[str, list[str]]:
    """What was changed in each document, by environment."""
    folder, flow = case.folder, str(case.base.get("flow") or case.base.get("name") or "")
    told: dict[str, list[str]] = {}
    for env, document in {"": case.base, **case.overlays}.items():
        file = upstream.experiment_file(env).name
        told[env] = repairs.repair(document, file, folder)
        if env:
            told[env] += repairs.unanswered(document, case.base, file)
        told[env] += repairs.stale_mappings(document, file, folder, flow)
    return told


def _connections(case: UseCase, told: dict[str, list[str]]) -> None:
    """Add entries for connections that flows use and no file names, and lines for variables."""
    for env, document in {"": case.base, **case.overlays}.items():
        if env and "connections" not in document:
            continue
        named = {str(one.get("name")) for one in repairs.blocks(document, "connections")}
        missing, lines = _used(case, named)
        if missing:
            _add_connections(document, missing)
            names = ", ".join(str(entry["name"]) for entry in missing)
            told[env].append(
                f"{upstream.experiment_file(env)}: connections: added {names}, as flows use it."
            )
        upstream.add_lines(case, [*_variables(document), *lines])


def _used(case: UseCase, named: set[str]) -> tuple[list[Document], list[str]]:
    """Entries of the connections that the flows use beyond `named`, and their variables."""
    missing: dict[str, Document] = {}
    lines: list[str] = []
    for flow in upstream.flows_of(case):
        entries, more = upstream.used_connections_of(flow)
        found = {str(entry["name"]): entry for entry in entries if entry["name"] not in named}
        missing = {**found, **missing}
        lines += more if found else []
    return list(missing.values()), lines


def _add_connections(document: Document, entries: list[Document]) -> None:
    if isinstance(document.get("connections"), list):
        document["connections"].extend(entries)
    elif hasattr(document, "insert") and "connections" not in document:
        at = [*document].index("flow") + 1 if "flow" in document else len(document)
        document.insert(at, "connections", entries)
    else:
        rest = {key: document.pop(key) for key in list(document) if key not in ("name", "flow")}
        document.update(
            {"connections": entries, **{k: v for k, v in rest.items() if v is not None}}
        )


def _variables(document: Document) -> Iterator[str]:
    """A line of .env.example for each variable that a connection asks for."""
    for block in repairs.blocks(document, "connections"):
        for holder in (block, block.get("configs"), block.get("secrets")):
            for key, value in holder.items() if isinstance(holder, dict) else ():
                match = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
                if match:
                    name = match[1]
                    name = name if name.isupper() else variable(str(block.get("name")), name)
                    yield f"#{name}={_SHAPES.get(key, '<key>' if key == 'api_key' else f'<{key}>')}"


def _place(case: UseCase, env: str, document: Document, changed: bool) -> None:
    target, source = upstream.experiment_file(env), case.files.get(env)
    if source is not None and not changed:
        upstream.take_file(case, source, target)
    elif document:
        case.proposal.documents[target] = document
    else:
        case.proposal.texts[target] = UNCHANGED


def _unreadable(case: UseCase) -> Iterator[str]:
    """Flows that are named and cannot be read, with the reason."""
    for name in upstream.flow_names(case):
        try:
            describe(name, case.folder)
        except UserError as error:
            told = str(error).replace(f"{case.folder}/", "")
            yield f"a flow that the experiment names cannot be read: {told}"


def _missing_data(case: UseCase) -> Iterator[str]:
    """Sources that a run on this machine cannot read."""
    for env, document in {"": case.base, **case.overlays}.items():
        for where, dataset in upstream.every_dataset(document):
            source = dataset.get("source")
            if not isinstance(source, str) or repairs.table(case.folder, source) is not None:
                continue
            words = "is not there. Put the file there, or name another."
            if (case.folder / source).is_file():
                words = "does not hold a JSON object a line, which is what a run reads."
            if source.startswith("azureml:"):
                words = (
                    "is a data asset in Azure ML, which only TARGET=azure reads. For runs on this "
                    "machine download it and name the .jsonl file."
                )
            yield f"{upstream.experiment_file(env)}: {where}.source: '{source}' {words}"


def _different_lengths(case: UseCase) -> Iterator[str]:
    for env, document in {"": case.base, **case.overlays}.items():
        sources = {
            str(d.get("name")): d.get("source") for d in repairs.blocks(document, "datasets")
        }
        for where, dataset in upstream.every_dataset(document):
            own = repairs.table(case.folder, dataset.get("source"))
            other = repairs.table(case.folder, sources.get(str(dataset.get("reference"))))
            if own is not None and other is not None and len(own) != len(other):
                yield (
                    f"{upstream.experiment_file(env)}: {where}: {len(own)} rows, but dataset "
                    f"'{dataset['reference']}' has {len(other)}: they are matched line by line, so "
                    "one of the files has to follow the other."
                )


def _sample_request(case: UseCase) -> None:
    """A request with the first row's inputs where there is none, or where one lacks an input."""
    flow = repairs.find_flow(case.folder, case.base.get("flow") or case.base.get("name"))
    first = next(iter(repairs.blocks(case.base, "datasets")), None)
    rows = repairs.table(case.folder, first.get("source")) if first else None
    path = _copied(case, Path(SAMPLE_REQUEST))
    request = _request(path) if path else {}
    if flow is None or first is None or rows is None or request is None:
        return
    lacking = [name for name, required in flow.inputs.items() if required and name not in request]
    if path and not lacking:
        return
    mappings = complete_mappings(repairs.mappings(first), flow.inputs)
    wanted = {k: v for k, v in mappings.items() if k in flow.inputs or not flow.inputs}
    try:
        filled = {**apply_mappings(wanted, {"data": rows[0]}), **request}
    except KeyError:
        return
    case.proposal.copies = [c for c in case.proposal.copies if c.target != Path(SAMPLE_REQUEST)]
    text = json.dumps(filled, indent=2, ensure_ascii=False) + "\n"
    case.proposal.texts[Path(SAMPLE_REQUEST)] = text
    told = f"lacks {', '.join(lacking)}; filled in" if path else "written"
    case.proposal.notes.append(f"{SAMPLE_REQUEST}: {told} from the first row of {first['source']}.")


def _copied(case: UseCase, target: Path) -> Path | None:
    """The file that is copied to a place."""
    return next((c.source for c in case.proposal.copies if c.target == target), None)


def _request(path: Path) -> Document | None:
    """What a sample request holds; null where it is no object."""
    try:
        return source_files.read(path)
    except UserError:
        return None


def _deployment(case: UseCase) -> None:
    """Bring deployment_config.json as it is, and tell what `make deploy` would refuse in it."""
    path = source_files.find(case.folder, DEPLOYMENT, *upstream.CONFIGS)
    if path is None or deployment.CONFIG in case.proposal.texts:
        return
    if path.suffix != ".json":
        text = json.dumps(source_files.read(path), indent=2, ensure_ascii=False) + "\n"
        case.proposal.texts[deployment.CONFIG] = text
    elif _copied(case, deployment.CONFIG) is None:
        upstream.take_file(case, path, deployment.CONFIG)
    case.proposal.notes += _refused(path, case.folder)


def _refused(path: Path, folder: Path) -> Iterator[str]:
    try:
        found = deployment.read(path)
    except UserError as error:
        for line in str(error).replace(f"{path}", str(deployment.CONFIG)).splitlines():
            yield f"{line} The file is brought in as it is; correct it before `make deploy`."
        return
    for section in deployment.SECTIONS.values():
        for entry in getattr(found, section):
            request = entry.TEST_FILE_PATH
            if request != SAMPLE_REQUEST and not (folder / request).is_file():
                yield (
                    f"{deployment.CONFIG}: {section}: ENV_NAME '{entry.ENV_NAME}': TEST_FILE_PATH "
                    f"'{request}' is not there (expected {SAMPLE_REQUEST})."
                )


def _requirements(case: UseCase) -> list[Path]:
    places = [
        *(flow.folder for flow in upstream.flows_of(case)),
        case.folder,
        case.folder / "environment",
    ]
    lists = [place / "requirements.txt" for place in places]
    return [path for path in dict.fromkeys(lists) if path.is_file()]


def _outside(case: UseCase) -> Iterator[Left]:
    """Flows that lie outside of the folder, and what flows include from there."""
    home = case.folder.resolve()
    for flow in upstream.flows_of(case):
        if not flow.folder.resolve().is_relative_to(home):
            reason = "a flow outside of the folder. Copy it below flows/ and name it by that path."
            yield Left(flow.folder, reason)
            continue
        for include in flow.definition.get("additional_includes") or []:
            path = flow.folder / str(include)
            if not path.resolve().is_relative_to(home):
                reason = (
                    f"{flow.path.relative_to(case.folder)} includes it from outside the use case. "
                    f"Copy it to where `{include}` leads from the flow in this repo."
                )
                yield Left(path, reason)
