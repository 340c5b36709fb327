"""Where a flow is deployed: `configs/deployment_config.json`, upstream's keys to the letter.

Three sections, one object an environment in each. Numbers may be strings (`"100"`) and an empty
string counts as unset. A key that upstream does not have is optional.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from llmops.config import Strict
from llmops.errors import UserError
from llmops.explain import sentence
from llmops.files import slug

CONFIG = Path("configs/deployment_config.json")
Kind = Literal["managed", "kubernetes", "webapp", "local"]
OLD_KEYS = {
    "AZURE_RM_SVC_CONNECTION",
    "DEPLOYMENT_BASE_IMAGE_NAME",
    "DEPLOYMENT_CONDA_PATH",
    "PROMPT_FLOW_CONFIG_NAME",
}


def _unset(value: Any) -> Any:
    return None if value == "" else value


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _words(value: Any) -> Any:
    """Variables are texts: 4 is "4", and true is "true" as in JSON."""
    if not isinstance(value, dict):
        return value
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in value.items()}


def _rate(value: Any) -> Any:
    """Percent; upstream's other switches are texts, so "true" is one too."""
    words = {"": 0, "false": 0, "true": 100}
    return words.get(str(value).lower(), value) if isinstance(value, str | bool) else value


Percent = Annotated[Annotated[int, Field(ge=0, le=100)] | None, BeforeValidator(_unset)]
Rate = Annotated[Annotated[int, Field(ge=0, le=100)], BeforeValidator(_rate)]
Half = Annotated[Annotated[int, Field(ge=0, le=50)] | None, BeforeValidator(_unset)]
Count = Annotated[Annotated[int, Field(ge=1)], BeforeValidator(lambda v: 1 if v == "" else v)]
Text = Annotated[str, BeforeValidator(_text)]
Variables = Annotated[dict[str, str], BeforeValidator(_words)]


class Target(Strict):
    """What every kind of deployment has; keys of early 2023 that mean nothing here may stand."""

    ENV_NAME: str
    TEST_FILE_PATH: str = "sample-request.json"
    USER_MANAGED_ID: str = Field("", description="user-assigned identity; default: system-assigned")

    @model_validator(mode="before")
    @classmethod
    def _without_old_keys(cls, block: Any) -> Any:
        if not isinstance(block, dict):
            return block
        return {key: value for key, value in block.items() if key not in OLD_KEYS}


class Endpoint(Target):
    """An online endpoint, managed by Azure ML or on an attached Kubernetes cluster.

    Without a prior deployment the current one takes all the traffic. With one, the two allocations
    are percentages that sum to 100.
    """

    ENDPOINT_NAME: str = ""
    ENDPOINT_DESC: str = ""
    DEPLOYMENT_DESC: str = ""
    PRIOR_DEPLOYMENT_NAME: str = ""
    PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION: Percent = None
    CURRENT_DEPLOYMENT_NAME: str = ""
    CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION: Percent = None
    MIRRORED_TRAFFIC_ALLOCATION: Half = Field(
        None,
        description="percent of live requests that the new deployment sees and does not answer; "
        "live traffic stays as it is until the key is removed",
    )
    COMPUTE_NAME: str = Field("", description="attached Kubernetes compute")
    DEPLOYMENT_VM_SIZE: str = ""
    DEPLOYMENT_INSTANCE_COUNT: Count = 1
    CPU_ALLOCATION: Text = ""
    MEMORY_ALLOCATION: Text = ""
    DATA_COLLECTION: Rate = Field(
        0, description="true, or percent of requests that Azure ML keeps with their answers"
    )
    ENVIRONMENT_VARIABLES: Variables = Field(default_factory=dict)
    STICKY_KEY: Text = Field(
        "",
        description="header or input of the flow; requests with the same value go to the same "
        "deployment. Only KIND=local",
    )

    @property
    def name(self) -> str:
        """The name that says whether the entry is filled in."""
        return self.ENDPOINT_NAME

    @property
    def traffic(self) -> dict[str, int]:
        """Percent of the traffic by deployment, once the new one has passed its test."""
        if not self.PRIOR_DEPLOYMENT_NAME:
            return {self.CURRENT_DEPLOYMENT_NAME: 100}
        current = self.CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION or 0
        return {self.PRIOR_DEPLOYMENT_NAME: 100 - current, self.CURRENT_DEPLOYMENT_NAME: current}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.ENDPOINT_NAME:
            return self
        if not self.CURRENT_DEPLOYMENT_NAME:
            raise ValueError("CURRENT_DEPLOYMENT_NAME: empty. Name the new deployment")
        prior, current = (
            self.PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION,
            self.CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION,
        )
        if self.PRIOR_DEPLOYMENT_NAME == self.CURRENT_DEPLOYMENT_NAME:
            raise ValueError("PRIOR_DEPLOYMENT_NAME: the same as CURRENT_DEPLOYMENT_NAME")
        alone = not self.PRIOR_DEPLOYMENT_NAME and prior is None and current is None
        if not alone and (prior or 0) + (current or 0) != 100:
            raise ValueError(
                f"traffic: {prior or 0} + {current or 0} is not 100 (PRIOR_ and "
                "CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION)"
            )
        if prior and not self.PRIOR_DEPLOYMENT_NAME:
            raise ValueError(f"PRIOR_DEPLOYMENT_NAME: empty, but it shall take {prior}%. Name it")
        return self


class WebApp(Target):
    """An Azure Web App that runs the flow's image."""

    CONNECTION_NAMES: tuple[str, ...] = ()
    REGISTRY_NAME: str = ""
    REGISTRY_RG_NAME: str = ""
    APP_PLAN_NAME: str = ""
    WEB_APP_NAME: str = ""
    WEB_APP_RG_NAME: str = ""
    WEB_APP_SKU: str = "B1"

    @property
    def name(self) -> str:
        """The name that says whether the entry is filled in."""
        return self.WEB_APP_NAME


class Deployments(Strict):
    """The file: one section a kind."""

    azure_managed_endpoint: tuple[Endpoint, ...] = ()
    kubernetes_endpoint: tuple[Endpoint, ...] = ()
    webapp_endpoint: tuple[WebApp, ...] = ()


SECTIONS: dict[Kind, str] = {
    "managed": "azure_managed_endpoint",
    "kubernetes": "kubernetes_endpoint",
    "webapp": "webapp_endpoint",
}
LOCAL: tuple[Kind, ...] = ("managed", "kubernetes")
"""Whose entry KIND=local takes."""


def choose(env: str, kind: str | None, folder: Path = Path()) -> tuple[Kind, Endpoint | WebApp]:
    """The entry of an environment: that of `kind`, else the only one whose name is filled in.

    For `local` it is that of an online endpoint, which is never chosen without being asked for; an
    empty ENDPOINT_NAME becomes the project's name.

    Raises:
        UserError: the file cannot be read, nothing matches `env`, no entry is filled in, or several
            are and KIND does not choose.
    """
    sections = read(folder / CONFIG)
    if kind is not None and kind not in get_args(Kind):
        raise UserError(f"KIND: '{kind}' (expected one of {', '.join(get_args(Kind))}).")
    words: Iterable[Any] = LOCAL if kind == "local" else [kind] if kind else SECTIONS
    found = _entries(sections, env, list(words))
    if kind == "local":
        return "local", _here(found, folder)
    filled = {word: entry for word, entry in found.items() if entry.name}
    if len(filled) == 1:
        return next(iter(filled.items()))
    if filled:
        raise UserError(
            f"KIND: unset, and several entries are filled in for '{env}' (expected one of "
            f"{', '.join(filled)})."
        )
    sections_named = ", ".join(SECTIONS[word] for word in found)
    raise UserError(
        f"{CONFIG}: ENV_NAME '{env}': ENDPOINT_NAME or WEB_APP_NAME is empty. "
        f"Fill in one of {sections_named}, or deploy on this machine, without Azure: KIND=local."
    )


def _entries(
    sections: Deployments, env: str, kinds: Sequence[Kind]
) -> dict[Kind, Endpoint | WebApp]:
    """The entries of an environment by kind; raises UserError where there is none."""
    found: dict[Kind, Endpoint | WebApp] = {}
    for kind, name in SECTIONS.items():
        entries = [entry for entry in getattr(sections, name) if env == entry.ENV_NAME]
        if len(entries) > 1:
            raise UserError(f"{CONFIG}: {name}: {len(entries)} entries have ENV_NAME '{env}'.")
        if entries and kind in kinds:
            found[kind] = entries[0]
    if not found:
        named = [SECTIONS[kind] for kind in kinds]
        envs = sorted({entry.ENV_NAME for name in named for entry in getattr(sections, name)})
        raise UserError(
            f"{CONFIG}: no entry of {' or '.join(named)} has ENV_NAME '{env}' "
            f"(expected one of {', '.join(envs) or 'none'})."
        )
    return found


def _here(found: Mapping[Kind, Endpoint | WebApp], folder: Path) -> Endpoint:
    """The entry for this machine: the first that is filled in, else the first, with a name."""
    kind, entry = next(((k, e) for k, e in found.items() if e.name), next(iter(found.items())))
    blocks = entry.model_dump() | {"ENDPOINT_NAME": entry.name or _project(folder)}
    try:
        return Endpoint.model_validate(blocks)
    except ValidationError as error:  # an entry without a name was not checked yet
        where = f"{SECTIONS[kind]} (ENV_NAME '{entry.ENV_NAME}')"
        problems = (e["msg"].removeprefix("Value error, ") for e in error.errors())
        raise UserError("\n".join(f"{CONFIG}: {where}: {text}." for text in problems)) from error


def _project(folder: Path) -> str:
    """The project's name, as pyproject.toml has it, else that of its folder."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        name = str(project["project"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        name = folder.absolute().name
    return slug(name).lower()


def read(path: Path) -> Deployments:
    """The whole file; raises UserError with every problem, one a line."""
    document: Any = None
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        return Deployments.model_validate(document)
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found. Run the task in the folder that holds it.") from error
    except ValidationError as error:
        problems = (sentence(one, document, Deployments) for one in error.errors())
        raise UserError("\n".join(f"{path}: {text}" for text in problems)) from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}).") from error
