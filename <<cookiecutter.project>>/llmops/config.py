"""What an experiment is: `experiment.yaml` and its overlays, as strict, frozen models.

The format is a superset of the one that Microsoft's GenAIOps template uses, so that an existing file
works unchanged. An overlay `experiment.<env>.yaml` replaces whole top-level blocks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from llmops.errors import UserError

EXPERIMENT = "experiment.yaml"
SCHEMA = Path("docs/experiment.schema.json")
DEFAULT_ENV = "dev"

Mappings = dict[str, Any]
Name = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """A frozen block of the configuration that names the choices when a key is not one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, block: Any) -> Any:
        if isinstance(block, Mapping):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            unknown = [str(key) for key in block if key not in known]
            if unknown:
                raise ValueError(f"unknown key {_quoted(unknown)} (expected one of {_quoted(known)})")
        return block


class Connection(Strict):
    """How to reach a model or a service; `${prop}` is the variable `<NAME>_<PROP>`."""

    name: Name
    connection_type: str = Field("AzureOpenAIConnection", description="prompt flow's name of the type")
    api_base: str | None = None
    api_endpoint: str | None = Field(None, description="the same as api_base")
    base_url: str | None = Field(None, description="address of an OpenAI-compatible endpoint")
    api_key: str | None = Field(None, description="write ${api_key}; the key itself goes into .env")
    api_type: str | None = None
    api_version: str | None = None
    auth_mode: str | None = None
    organization: str | None = None
    model: str | None = Field(None, description="asked for instead of the model the flow names")
    configs: dict[str, str] | None = Field(None, description="CustomConnection: plain values")
    secrets: dict[str, str] | None = Field(None, description="CustomConnection: ${…} values")

    @field_validator("api_key")
    @classmethod
    def _no_literal_key(cls, value: str | None) -> str | None:
        if value and not re.fullmatch(r"\$\{\w+\}|<.*>", value):
            raise ValueError("holds the key itself. Write ${api_key} here and the key into .env")
        return value


class Dataset(Strict):
    """Rows for the standard flow."""

    name: Name
    source: str = Field(description="path of a .jsonl file, or azureml:<name>:<version>")
    description: str = ""
    mappings: Mappings = Field({}, description="flow input: ${data.<column>} or a literal")


class EvaluatorDataset(Strict):
    """Rows for an evaluator, line by line beside those of the dataset it refers to.

    `name` is either that of a dataset above, or a new one: then `source` is needed and `reference`
    names the dataset above. Without a reference the rows are scored alone (a production log).
    """

    name: Name
    reference: str | None = None
    source: str | None = None
    description: str = ""
    mappings: Mappings = {}


class Evaluator(Strict):
    """A flow that scores the rows of a run and aggregates the scores into metrics."""

    name: Name
    flow: str = Field("", description="folder of the flow; default: flows/<name>")
    datasets: tuple[EvaluatorDataset, ...]


class Check(Strict):
    """A condition on one metric of one evaluator, in the metric's own unit."""

    evaluator: str
    metric: str
    dataset: str | None = Field(None, description="only this dataset; default: each one")
    min: float | None = None
    max: float | None = None
    coverage: float | None = Field(None, ge=0, le=1, description="least share of scored rows")

    @model_validator(mode="after")
    def _has_limit(self) -> Check:
        if self.min is None and self.max is None and self.coverage is None:
            raise ValueError("has no limit (expected one of min, max, coverage)")
        return self


class Gate(Strict):
    """What must hold before a flow goes further."""

    checks: tuple[Check, ...]


class Limits(Strict):
    """How much at once, how long and how often."""

    concurrency: int = Field(4, ge=1, le=256, description="rows at once")
    timeout_s: float = Field(120, gt=0, description="seconds for one try of a row")
    retries: int = Field(3, ge=0, le=20, description="further tries after a passing fault")
    max_cells: int = Field(100, ge=1, description="more cells than this need a decision")


class Price(Strict):
    """USD for a million tokens."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)


def words(value: Any) -> Any:
    """`a,b` as a list, as VARIANTS is written on a command line; anything else unchanged."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


Selection = Annotated[
    tuple[str, ...],
    BeforeValidator(words),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Experiment(Strict):
    """What to run: flow, connections, variants, datasets, mappings, evaluators, gate."""

    name: Name
    flow: str = Field("", description="folder of the standard flow; default: flows/<name>")
    runtime: str | None = Field(None, description="Azure ML compute session; default: serverless")
    connections: tuple[Connection, ...] = ()
    variants: Selection = Field(
        ("all",),
        description="all: one node at a time, the others at their default; combinations: every "
        "combination across nodes; default; or a list of <node>.<variant>",
    )
    parameters: dict[str, tuple[Any, ...]] = Field(
        {}, description="grid over <node>.<input> or a flow input: a list of values each"
    )
    datasets: tuple[Dataset, ...] = ()
    evaluators: tuple[Evaluator, ...] = ()
    gate: Gate | None = None
    limits: Limits = Limits()
    prices: dict[str, Price] = Field({}, description="by model or deployment name")

    @field_validator("connections", "datasets", "evaluators", mode="before")
    @classmethod
    def _empty_block(cls, value: Any) -> Any:
        return () if value is None else value

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        problems = [*_duplicates(self), *_references(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self


def load(env: str = DEFAULT_ENV, folder: Path = Path()) -> Experiment:
    """Read `experiment.yaml` with the overlay of `env` laid over it.

    `env` is `dev` by default, for which an overlay may be absent; any other needs its file.

    Raises:
        UserError: every problem of the file, one a line, with file, key, value and the choices.
    """
    base_file = folder / EXPERIMENT
    blocks = _read_yaml(base_file)
    overlay_file = folder / f"experiment.{env}.yaml"
    if overlay_file.exists():
        overlay = _read_yaml(overlay_file)
        _refuse_other_identity(overlay_file, overlay, blocks)
        blocks = {**blocks, **overlay}
    elif env != DEFAULT_ENV:
        raise UserError(
            f"ENV: '{env}' has no file {overlay_file.name} (expected one of {_quoted(_envs(folder))})."
        )
    try:
        return Experiment.model_validate(blocks)
    except ValidationError as error:
        file = overlay_file.name if overlay_file.exists() else EXPERIMENT
        raise UserError("\n".join(_explain(error, blocks, file))) from error


def schema() -> str:
    """The JSON Schema of experiment.yaml, for editors; an overlay needs no key of its own."""
    document = Experiment.model_json_schema()
    document.pop("required", None)
    document["title"] = "experiment.yaml and its overlays"
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _read_yaml(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found. Run the task in the folder that holds it.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}: line {line}: not valid YAML: {error.problem}.") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected keys and values at the top, found a {type(document).__name__}.")
    return document


def _refuse_other_identity(path: Path, overlay: dict[str, Any], base: dict[str, Any]) -> None:
    for key in ("name", "flow"):
        if key in overlay and overlay[key] != base.get(key):
            raise UserError(
                f"{path}: {key}: '{overlay[key]}' differs from '{base.get(key)}' in {EXPERIMENT}. "
                "An overlay keeps name and flow; remove the line."
            )


def _envs(folder: Path) -> list[str]:
    found = {path.name.split(".")[1] for path in folder.glob("experiment.*.yaml")}
    return sorted(found | {DEFAULT_ENV})


def _duplicates(experiment: Experiment) -> Iterable[str]:
    blocks: dict[str, Iterable[Any]] = {
        "connections": experiment.connections,
        "datasets": experiment.datasets,
        "evaluators": experiment.evaluators,
    }
    blocks |= {f"evaluators[{e.name}].datasets": e.datasets for e in experiment.evaluators}
    for block, items in blocks.items():
        names = [item.name for item in items]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{block}: name '{name}' is used {names.count(name)} times; each needs its own"


def _references(experiment: Experiment) -> Iterable[str]:
    names = [dataset.name for dataset in experiment.datasets]
    for evaluator in experiment.evaluators:
        for dataset in evaluator.datasets:
            key = f"evaluators[{evaluator.name}].datasets[{dataset.name}]"
            needs_run = any("${run." in str(value) for value in dataset.mappings.values())
            if dataset.reference is not None and dataset.reference not in names:
                yield (
                    f"{key}.reference: '{dataset.reference}' names no dataset "
                    f"(expected one of {_quoted(names)})"
                )
            elif dataset.source is None and (dataset.reference or dataset.name) not in names:
                yield (
                    f"{key}: has no source, and its name is not that of a dataset "
                    f"(expected one of {_quoted(names)}, or a source and a reference)"
                )
            elif dataset.reference is None and dataset.name not in names and needs_run:
                yield (
                    f"{key}.reference: missing, and a mapping reads ${{run.…}} "
                    f"(expected one of {_quoted(names)})"
                )


def _explain(error: ValidationError, blocks: Mapping[str, Any], file: str) -> list[str]:
    lines = []
    for problem in error.errors():
        location = _location(problem["loc"], blocks)
        text = problem["msg"].removeprefix("Value error, ")
        for line in text.split("\n"):
            value = problem["input"]
            shown = f" (found {value!r})" if isinstance(value, str | int | float) else ""
            prefix = f"{file}: {location}: " if location else f"{file}: "
            lines.append(prefix + line + (shown if "expected" not in line else "") + ".")
    return sorted(set(lines))


def _location(loc: tuple[int | str, ...], blocks: Any) -> str:
    """`datasets[ner_training].source` instead of `datasets.0.source`."""
    text = ""
    for part in loc:
        try:
            blocks = blocks[part]
        except (KeyError, IndexError, TypeError):
            blocks = None
        if isinstance(part, int):
            name = blocks.get("name") if isinstance(blocks, Mapping) else None
            text += f"[{name or part}]"
        elif not re.search(r"[\[\]]|^(Literal|tuple|function|literal)", part):
            text += f".{part}" if text else part
    return text


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in sorted(words)) or "none"
