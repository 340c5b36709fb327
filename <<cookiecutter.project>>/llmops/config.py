"""What an experiment is: `experiment.yaml` and its overlays, as strict, frozen models.

The format is a superset of the one that Microsoft's GenAIOps template uses, so that an existing
file works unchanged. An overlay `experiment.<env>.yaml` replaces whole top-level blocks.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from llmops.errors import UserError
from llmops.explain import quoted, sentence, shown
from llmops.files import read_document

EXPERIMENT = "experiment.yaml"
SCHEMA = Path("docs/experiment.schema.json")
DEFAULT_ENV = "dev"
MOST_AT_ONCE = 256
BOUNDS = ("min", "max", "coverage", "max_drop")

Mappings = dict[str, Any]
Name = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, strict=True)]


class Strict(BaseModel):
    """A frozen block of the configuration; an empty key (`gate:`) counts as absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_empty_keys(cls, block: Any) -> Any:
        if not isinstance(block, Mapping):
            return block
        return {key: value for key, value in block.items() if value is not None}


class Measured(Strict):
    """A block of numbers: `"4"` or `true` is none."""

    model_config = ConfigDict(strict=True)


class Connection(Strict):
    """How to reach a model or a service; `${prop}` is the variable `<NAME>_<PROP>`."""

    name: Name
    connection_type: str = Field(
        "AzureOpenAIConnection", description="prompt flow's name of the type"
    )
    api_base: str | None = None
    api_endpoint: str | None = Field(None, description="the same as api_base")
    azure_endpoint: str | None = Field(None, description="the same as api_base")
    endpoint: str | None = Field(None, description="address of an Azure AI service")
    base_url: str | None = Field(None, description="address of an OpenAI-compatible endpoint")
    url: str | None = Field(None, description="address of a search service")
    api_key: str | None = Field(None, description="write ${api_key}; the key itself goes into .env")
    api_type: str | None = None
    api_version: str | None = None
    auth_mode: str | None = None
    resource_id: str | None = None
    organization: str | None = None
    model: str | None = Field(None, description="asked for instead of the model the flow names")
    configs: dict[str, str] | None = Field(None, description="CustomConnection: plain values")
    secrets: dict[str, str] | None = Field(None, description="CustomConnection: ${…} values")

    @field_validator("api_key")
    @classmethod
    def _no_literal_key(cls, value: str | None) -> str | None:
        return _no_secret(value, "${api_key}")

    @field_validator("secrets")
    @classmethod
    def _no_literal_secret(cls, secrets: dict[str, str] | None) -> dict[str, str] | None:
        for name, value in (secrets or {}).items():
            _no_secret(value, f"{name}: ${{{name}}}")
        return secrets


def _no_secret(value: str | None, instead: str) -> str | None:
    if value and not re.fullmatch(r"\$\{\s*\w+\s*\}|<.*>", value):
        raise ValueError(f"holds the secret itself. Write {instead} here and the secret into .env")
    return value


def _no_secrets_inside(value: Any) -> Any:
    """Arguments of a flow's class, at any depth: a key is a reference to a variable."""
    for key, item in value.items() if isinstance(value, Mapping) else ():
        secret = isinstance(item, str) and re.search(r"(^|_)(key|secret|password)$", str(key))
        if secret and not re.fullmatch(r"\$\{env:\w+\}", item):
            raise ValueError(
                f"{key} holds the secret itself. Name a connection, or write {key}: "
                "${env:VARIABLE} here and the secret into .env"
            )
        _no_secrets_inside(item)
    return value


Init = Annotated[dict[str, Any], BeforeValidator(_no_secrets_inside)]


class Dataset(Strict):
    """Rows for the standard flow."""

    name: Name
    source: Name = Field(description="path of a .jsonl file, or azureml:<name>:<version>")
    description: str = ""
    mappings: Mappings = Field({}, description="flow input: ${data.<column>} or a literal")


class EvaluatorDataset(Strict):
    """Rows for an evaluator, line by line beside those of the dataset it refers to.

    `name` is either that of a dataset above, or a new one: then `source` is needed and `reference`
    names the dataset above. Without a reference the rows are scored alone (a production log).
    """

    name: Name
    reference: Name | None = None
    source: Name | None = None
    description: str = ""
    mappings: Mappings = {}


class Judge(Strict):
    """Rows that people scored, to see whether an evaluator that asks a model scores as they do."""

    rubric: Name = Field(description="file with what the judge goes by; the report shows it")
    labels: Name = Field(description="path of a .jsonl file of rows that people scored")
    mappings: Mappings = Field({}, description="flow input: ${data.<column>} or a literal")
    scores: dict[str, Name] = Field(
        min_length=1, description="flow output: ${data.<column>}, the score that people gave"
    )
    min_agreement: float = Field(
        0.6, strict=True, ge=0, le=1, description="Cohen's kappa below which it is not trusted"
    )


class Evaluator(Strict):
    """A flow that scores the rows of a run and aggregates the scores into metrics."""

    name: Name
    flow: str = Field("", description="folder of the flow; default: flows/<name>")
    init: Init = Field({}, description="arguments of the class that the flow's entry names")
    datasets: tuple[EvaluatorDataset, ...] = Field(min_length=1)
    lower_is_better: tuple[Name, ...] = Field(
        (), description="metrics of which less is better; of all others more is"
    )
    margin: dict[str, Positive] = Field(
        {}, description="by metric, in its own unit: a difference that is certainly less is none"
    )
    judge: Judge | None = Field(None, description="how its agreement with people is measured")


class Check(Measured):
    """Conditions on one metric of one evaluator, in the metric's own unit."""

    evaluator: str
    metric: str
    dataset: str | None = Field(None, description="only this dataset; default: each one")
    min: float | None = None
    max: float | None = None
    coverage: float | None = Field(None, ge=0, le=1, description="least share of scored rows")
    max_drop: float | None = Field(
        None, ge=0, description="how much worse than BASE it may be, under `make compare`"
    )

    @model_validator(mode="after")
    def _has_limit(self) -> Check:
        if all(getattr(self, name) is None for name in BOUNDS):
            raise ValueError(f"has no limit (expected one of {quoted(BOUNDS)})")
        return self


class Gate(Strict):
    """What must hold before a flow goes further."""

    checks: tuple[Check, ...] = ()
    max_cost_usd: Positive | None = Field(None, description="USD for each variant over a dataset")
    max_latency_p95_s: Positive | None = Field(
        None, description="seconds that 95 % of a run's rows may take at most"
    )
    on_inconclusive: Literal["warn", "fail"] = Field(
        "warn", description="what an inconclusive verdict does: go on, or end with 2"
    )

    @model_validator(mode="after")
    def _judges_something(self) -> Gate:
        if not self.model_fields_set - {"on_inconclusive"}:
            expected = quoted(("checks", "max_cost_usd", "max_latency_p95_s"))
            raise ValueError(f"judges nothing (expected one of {expected})")
        return self


class Limits(Measured):
    """How much at once, how long and how often."""

    concurrency: int = Field(default=4, ge=1, le=MOST_AT_ONCE, description="rows at once")
    timeout_s: float = Field(
        default=120, gt=0, le=86400, description="seconds for one try of a row"
    )
    retries: int = Field(default=3, ge=0, le=20, description="further tries after a passing fault")
    max_cells: int = Field(default=100, ge=1, description="more cells than this need a decision")


class Azure(Measured):
    """Where and how runs in Azure go, for TARGET=azure and azure-pipeline."""

    instance_type: str | None = Field(default=None, description="default: Azure's choice")
    compute: str | None = Field(
        default=None,
        description="compute of the workspace; default: serverless",
    )
    timeout_s: float = Field(
        default=14400, gt=0, le=604800, description="seconds for a whole run; then it is cancelled"
    )
    instance_count: int = Field(default=1, ge=1, le=1000, description="machines, azure-pipeline")
    mini_batch_size: int = Field(default=1, ge=1, description="rows at once, azure-pipeline")


class Search(Strict):
    """An index in Azure AI Search instead of files beside the flow."""

    endpoint: Name = Field(description="write ${endpoint}: the variable SEARCH_ENDPOINT")
    index: Name = Field(description="name; each version is an index of its own, <name>-<version>")


class Index(Strict):
    """The index over documents that the flow searches; `make index` builds it."""

    documents: Name = Field(description="folder of .txt, .md, .html and .pdf files")
    folder: str = Field("", description="where the index goes; default: <flow>/index")
    connection: Name = Field(description="the connection whose endpoint embeds")
    model: Name = Field(description="model or deployment that embeds passages and questions")
    dimensions: int | None = Field(
        None, strict=True, ge=1, le=65536, description="of a vector; default: the model's own"
    )
    chunk_words: int = Field(
        120, strict=True, ge=10, le=2000, description="words of a passage, at most"
    )
    overlap_words: int = Field(
        20, strict=True, ge=0, description="words that a passage shares with the one before"
    )
    search: Search | None = None

    @model_validator(mode="after")
    def _goes_on(self) -> Index:
        if self.overlap_words >= self.chunk_words:
            raise ValueError(
                f"overlap_words ({self.overlap_words}) must be less than chunk_words "
                f"({self.chunk_words})"
            )
        return self


class Price(Measured):
    """USD for a million tokens."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)


def words(value: Any) -> Any:
    """`a,b` as a list, as VARIANTS is written on a command line; anything else unchanged."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


Selection = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(words),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Experiment(Strict):
    """What to run: flow, connections, variants, datasets, mappings, evaluators, gate."""

    name: Name
    flow: str = Field("", description="folder of the standard flow; default: flows/<name>")
    runtime: str | None = Field(None, description="Azure ML compute session; default: serverless")
    connections: tuple[Connection, ...] = ()
    index: Index | None = None
    init: Init = Field(
        {},
        description="arguments of the class that the flow's entry names, as model_config: "
        "{connection: aoai, azure_deployment: gpt-4o}; default: those of the flow's own sample",
    )
    variants: Selection = Field(
        ("all",),
        description="all: one node at a time, the others at their default; combinations: every "
        "combination across nodes; default; or a list of <node>.<variant>",
    )
    parameters: dict[str, tuple[Any, ...]] = Field(
        {}, description="grid over <node>.<input> or a flow input: a list of values each"
    )
    datasets: tuple[Dataset, ...] = ()
    repeats: int = Field(
        1, strict=True, ge=1, le=50, description="how often each row of a dataset is answered"
    )
    evaluators: tuple[Evaluator, ...] = ()
    gate: Gate | None = None
    approval: Literal["none", "required"] = Field(
        "none", description="required: `make deploy` wants `make approve` for exactly this run"
    )
    limits: Limits = Limits()
    azure: Azure = Azure()
    prices: dict[str, Price] = Field({}, description="by model or deployment name")

    _files: dict[str, str] = PrivateAttr({})

    def file(self, block: str) -> str:
        """The file that a top-level block was read from, for messages."""
        return self._files.get(block, EXPERIMENT)


@dataclass(frozen=True)
class Draft:
    """What could be understood of the files, null if too little, and every problem with the rest.

    Blocks that a problem makes useless are left out of `experiment`, so that it can be checked
    against its files all the same.
    """

    experiment: Experiment | None
    problems: tuple[str, ...]


def load(env: str = DEFAULT_ENV, folder: Path = Path()) -> Experiment:
    """Read `experiment.yaml` with the overlay of `env` laid over it.

    `env` is `dev` by default, for which an overlay may be absent; any other needs its file.

    Raises:
        UserError: every problem of the files, one a line, with file, key, value and the choices.
    """
    draft = read(env, folder)
    if draft.experiment is None or draft.problems:
        raise UserError("\n".join(draft.problems))
    return draft.experiment


def read(env: str = DEFAULT_ENV, folder: Path = Path()) -> Draft:
    """As `load`, but with the problems beside what could be understood.

    Raises:
        UserError: a file is missing or is not YAML.
    """
    blocks = _read_yaml(folder / EXPERIMENT)
    files = dict.fromkeys(blocks, EXPERIMENT)
    over = folder / f"experiment.{env}.yaml"
    problems: list[str] = []
    if over.is_file():
        overlay = _read_yaml(over)
        problems += _other_identity(over.name, overlay, blocks)
        overlay = {key: overlay[key] for key in overlay if key not in ("name", "flow")}
        blocks, files = blocks | overlay, files | dict.fromkeys(overlay, over.name)
    elif env != DEFAULT_ENV:
        raise UserError(
            f"ENV: '{env}' has no file {over.name} (expected one of {quoted(_envs(folder))})."
        )
    try:
        experiment: Experiment | None = Experiment.model_validate(blocks)
    except ValidationError as error:
        for detail in error.errors():
            block = str(detail["loc"][0]) if detail["loc"] else ""
            file = files.get(block, EXPERIMENT)
            problems.append(f"{file}: {sentence(detail, blocks, Experiment)}")
        experiment = _salvage(blocks, error.errors())
    if experiment is not None:
        problems += [*_duplicates(experiment, files), *_references(experiment, blocks, files)]
        experiment = _with_known_references(experiment)
        experiment._files = files
    return Draft(experiment, tuple(dict.fromkeys(problems)))


def schema() -> str:
    """The JSON Schema of experiment.yaml, for editors; an overlay needs no key of its own."""
    document = Experiment.model_json_schema()
    document.pop("required", None)
    document["title"] = "experiment.yaml and its overlays"
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _read_yaml(path: Path) -> dict[str, Any]:
    missing = (
        "Run the task in the folder that holds it, or bring a flow in: `make onboard FROM=<path>`."
    )
    return read_document(path, missing=missing)


def _other_identity(file: str, overlay: dict[str, Any], base: dict[str, Any]) -> Iterator[str]:
    for key in ("name", "flow"):
        if key in overlay and overlay[key] != base.get(key):
            yield (
                f"{file}: {key}: {shown(overlay[key])} differs from {shown(base.get(key))} in "
                f"{EXPERIMENT}. An overlay keeps name and flow; remove the line."
            )


def _envs(folder: Path) -> list[str]:
    found = {path.name.split(".")[1] for path in folder.glob("experiment.*.yaml")}
    return sorted(found | {DEFAULT_ENV})


def _duplicates(experiment: Experiment, files: Mapping[str, str]) -> Iterator[str]:
    blocks: dict[str, Iterable[Any]] = {
        "connections": experiment.connections,
        "datasets": experiment.datasets,
        "evaluators": experiment.evaluators,
    }
    blocks |= {f"evaluators[{e.name}].datasets": e.datasets for e in experiment.evaluators}
    for block, items in blocks.items():
        file = files.get(re.split(r"\W", block)[0], EXPERIMENT)
        for name, times in Counter(item.name for item in items).items():
            if times > 1:
                yield f"{file}: {block}: name '{name}' is used {times} times. Give each its own."


def _references(
    experiment: Experiment, blocks: Mapping[str, Any], files: Mapping[str, str]
) -> Iterator[str]:
    known = _names(blocks.get("datasets"))
    for evaluator in experiment.evaluators:
        for dataset in evaluator.datasets:
            file = files.get("evaluators", EXPERIMENT)
            key = f"{file}: evaluators[{evaluator.name}].datasets[{dataset.name}]"
            if problem := _reference_problem(dataset, known):
                yield f"{key}{problem}."
        yield from _scored_twice(evaluator, files.get("evaluators", EXPERIMENT))


def _scored_twice(evaluator: Evaluator, file: str) -> Iterator[str]:
    """Two datasets of one evaluator over the same runs: their metrics could not be told apart."""
    places = Counter(dataset.reference or dataset.name for dataset in evaluator.datasets)
    for name, times in places.items():
        if times > 1:
            yield (
                f"{file}: evaluators[{evaluator.name}].datasets: {times} of them score the runs "
                f"over '{name}'. Give each an evaluator of its own."
            )


def _reference_problem(dataset: EvaluatorDataset, names: Iterable[str]) -> str:
    needs_run = any("${run." in str(value) for value in dataset.mappings.values())
    if dataset.reference is not None and dataset.reference not in names:
        return (
            f".reference: '{dataset.reference}' names no dataset (expected one of {quoted(names)})"
        )
    if dataset.source is None and (dataset.reference or dataset.name) not in names:
        return (
            ": has no source, and its name is not that of a dataset "
            f"(expected one of {quoted(names)}, or a source and a reference)"
        )
    if dataset.reference is None and dataset.name not in names and needs_run:
        return (
            f".reference: missing, and a mapping reads ${{run.…}} (expected one of {quoted(names)})"
        )
    return ""


def _with_known_references(experiment: Experiment) -> Experiment:
    """Leave out the evaluators' datasets whose reference leads nowhere."""
    names = [dataset.name for dataset in experiment.datasets]
    evaluators = []
    for evaluator in experiment.evaluators:
        kept = tuple(d for d in evaluator.datasets if not _reference_problem(d, names))
        evaluators.append(evaluator.model_copy(update={"datasets": kept}))
    return experiment.model_copy(update={"evaluators": tuple(evaluators)})


def _salvage(blocks: Mapping[str, Any], errors: list[ErrorDetails]) -> Experiment | None:
    """The experiment without what the errors are about: a key, an item of a list, or a block."""
    rest = json.loads(json.dumps(blocks))
    items: set[tuple[str, int]] = set()
    for error in errors:
        if error["type"] == "extra_forbidden":
            _remove(rest, error["loc"])
    for error in errors:
        block, at = (*error["loc"], "", "")[:2]
        if error["type"] == "extra_forbidden":
            continue
        if isinstance(at, int) and isinstance(block, str):
            items.add((block, at))
        elif block == "name" and "flow" in rest:
            rest["name"] = "unnamed"
        else:
            rest.pop(block, None)
    for block, at in sorted(items, reverse=True):
        if isinstance(rest.get(block), list):
            _leave_out(rest, block, at)
    try:
        return Experiment.model_validate(rest)
    except ValidationError:
        return None


def _leave_out(rest: dict[str, Any], block: str, at: int) -> None:
    item = rest[block].pop(at)
    if block == "evaluators":
        rest.pop("gate", None)  # it may speak of this one
    elif block == "connections" and _names([item]):
        rest[block].append({"name": str(item["name"])})


def _remove(document: Any, loc: tuple[int | str, ...]) -> None:
    for part in loc[:-1]:
        document = document[part]
    document.pop(loc[-1])


def _names(items: Any) -> list[str]:
    """Names of the items of a list, also of those that are not valid otherwise."""
    items = items if isinstance(items, list) else []
    return [str(item["name"]) for item in items if isinstance(item, Mapping) and "name" in item]
