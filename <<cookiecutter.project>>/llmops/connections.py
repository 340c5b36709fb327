"""Connections to models and services: from the environment to what each kind of flow wants.

A run uses the connections that experiment.yaml names, and no other. Each is put together from these
sources, a later one before an earlier one:
  1. its entry in experiment.yaml; `${api_key}` stands for AOAI_API_KEY, `${TEAM_KEY}` for TEAM_KEY,
  2. plain variables: AOAI_API_KEY, AOAI_API_BASE, AOAI_MODEL, AOAI_CONNECTION_TYPE, …,
  3. its item in COMMON_DEV_CONNECTIONS, a JSON list,
  4. a variable named like the connection: `aoai={"api_key": "…", "api_base": "…"}`.
An empty value or a placeholder such as `<key>` counts as unset. The last source that gives a type
decides it; one that gives another type is passed over. Messages name variables, never their values.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Literal, cast, get_args

from dotenv.parser import parse_stream
from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic_core import from_json

from llmops.config import EXPERIMENT
from llmops.config import Connection as Entry
from llmops.errors import UserError
from llmops.recordings import Target

LISTED = "COMMON_DEV_CONNECTIONS"
AZURE_API_VERSION = "2024-02-01"
OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "no-key-needed"
REPLAYED_KEY = "replayed"

AZURE_OPENAI = "AzureOpenAIConnection"
OPENAI = "OpenAIConnection"
SERVERLESS = "ServerlessConnection"
# The types that lead to a model, with the key, the address and the other properties of each. A
# connection of another type may have any properties; they are passed on as they are.
_MODELS = {
    AZURE_OPENAI: ("api_key", "api_base", "api_type", "api_version", "auth_mode"),
    OPENAI: ("api_key", "base_url", "organization"),
    SERVERLESS: ("api_key", "api_base"),
}
# What the SDKs, and so many flows, read from the environment by themselves.
_READ = {
    AZURE_OPENAI: {
        "AZURE_OPENAI_API_KEY": "api_key",
        "AZURE_OPENAI_ENDPOINT": "api_base",
        "AZURE_OPENAI_API_VERSION": "api_version",
        "OPENAI_API_VERSION": "api_version",
    },
    OPENAI: {
        "OPENAI_API_KEY": "api_key",
        "OPENAI_BASE_URL": "base_url",
        "OPENAI_ORG_ID": "organization",
    },
}
_ADDRESSES = {"api_base", "base_url", "endpoint", "url"}
_PUBLIC = {"api_type", "api_version", "auth_mode", "organization", "model", *_ADDRESSES}
_NOT_PROPERTIES = {"name", "type", "connection_type", "configs", "secrets"}
_SHORT = {"azure_open_ai": AZURE_OPENAI, "open_ai": OPENAI, "serverless": SERVERLESS}
_SHORT |= {"custom": "CustomConnection"}

Mode = Literal["live", "replay", "record"]
Block = Mapping[str, Any]
Variables = Mapping[str, str]


class Connection(BaseModel):
    """How to reach one model or service. No representation of it shows a secret.

    `values` and `secrets` hold its properties under promptflow's names. `model` is asked for
    instead of the model or deployment that a flow's nodes name. `missing` names the variables that
    must be set before the connection can be used live. `variables` maps variables that its entry
    names in capitals to the property that each gives: a flow may read them itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str
    type: str
    values: dict[str, str] = {}
    secrets: dict[str, SecretStr] = {}
    model: str | None = None
    missing: tuple[str, ...] = ()
    variables: dict[str, str] = {}

    @property
    def served(self) -> bool:
        """Whether it leads to a model, so that its calls can be replayed and recorded."""
        return self.type in _MODELS

    @property
    def keyless(self) -> bool:
        """Whether it signs in with Microsoft Entra ID instead of a key."""
        return self.served and self.values.get("auth_mode") == "meid_token"

    @property
    def address(self) -> str:
        """Where calls go: part of a run's content address, and never a secret."""
        if not self.served:
            return f"{self.type}:{json.dumps(self.values, sort_keys=True)}"
        version = self.values.get("api_version")
        return f"{self._base}?api-version={version}" if version else self._base

    def as_promptflow(self) -> dict[str, Any]:
        """The entry for promptflow's dictionary of connections, with secrets in clear."""
        return {
            "type": self.type,
            "module": "promptflow.connections",
            "value": self._properties,
            "secret_keys": list(self.secrets),
        }

    def as_environment(self) -> dict[str, str]:
        """Variables for a child process whose flow reads the environment; secrets in clear."""
        found = self._properties | {"model": self.model or ""}
        return {name: found[key] for name, key in self._names if found.get(key)}

    @property
    def secret_variables(self) -> set[str]:
        """Which of these variables hold secrets."""
        return {name for name, key in self._names if key in self.secrets}

    def through(self, url: str) -> Connection:
        """The same connection by way of the recording server at `url`; others stay as they are."""
        if not self.served:
            return self
        target = url if self.type == AZURE_OPENAI else f"{url}/v1"
        values = self.values | {_MODELS[self.type][1]: target}
        values.pop("auth_mode", None)
        secrets = {"api_key": SecretStr(REPLAYED_KEY)}
        return self.model_copy(update={"values": values, "secrets": secrets})

    def upstream(self) -> Target:
        """The endpoint of a connection that is `served`. Its headers hold the key in clear."""
        key = self._properties.get("api_key", "")
        if self.type == AZURE_OPENAI:
            query = {"api-version": self.values["api_version"]}
            return Target(self._base, "azure", {"api-key": key} if key else {}, query)
        headers = {"Authorization": f"Bearer {key}"}
        if organization := self.values.get("organization"):
            headers["OpenAI-Organization"] = organization
        return Target(self._base, "openai", headers)

    @property
    def _names(self) -> Iterator[tuple[str, str]]:
        """The variables of the properties: its own, the SDKs' if it names one, and those named."""
        keys = [*self.values, *self.secrets, "model"]
        yield from ((variable(self.name, key), key) for key in keys)
        if self.variables.keys() & _READ.get(self.type, {}).keys():
            yield from _READ[self.type].items()
        yield from self.variables.items()

    @property
    def _base(self) -> str:
        address = self.values.get(_MODELS[self.type][1], "").rstrip("/")
        more = self.type == SERVERLESS and not address.endswith("/v1")
        return f"{address}/v1" if more else address

    @property
    def _properties(self) -> dict[str, str]:
        return self.values | {key: text.get_secret_value() for key, text in self.secrets.items()}


def choose_mode(connections: Mapping[str, Connection], requested: str | None) -> Mode:
    """Whether models are asked live, replayed or recorded.

    `requested` is the variable LLM. If it is unset: live where every connection is complete (or
    there is none), replay where no model's is.

    Raises:
        UserError: a mode that there is not, or a connection that it needs lacks a variable.
    """
    if requested and requested not in get_args(Mode):
        raise UserError(f"LLM: value '{requested}' (expected one of {', '.join(get_args(Mode))}).")
    every = connections.values()
    models = [c for c in every if c.served] or every
    lacks = [f"connection '{c.name}' lacks {', '.join(c.missing)}" for c in every if c.missing]
    if requested == "replay" or (not requested and lacks and all(c.missing for c in models)):
        return "replay"
    if lacks:
        complete = "; ".join(f"connection '{c.name}' is complete" for c in every if not c.missing)
        raise UserError(
            f"{f'LLM={requested}' if requested else complete}: {'; '.join(lacks)} (unset, or still "
            "a placeholder). Set this in the environment or in .env, or use the recorded answers: "
            "LLM=replay."
        )
    if requested == "record" and any(c.keyless for c in models):
        raise UserError(
            "LLM=record: recording needs a key, and a connection signs in with Microsoft Entra "
            "ID. Give it an api_key and take out api_type and auth_mode, or run with LLM=live."
        )
    return cast(Mode, requested or "live")


def environment(folder: Path = Path()) -> dict[str, str]:
    """The variables of the process over those of `.env` in `folder`. os.environ is not changed.

    `$(NAME)`, which Azure Pipelines leaves of a secret that it may not give, counts as unset.

    Raises:
        UserError: `.env` is not UTF-8, or a line of it is not NAME=value.
    """
    path, found = folder / ".env", {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path}: cannot be read, or is not UTF-8. Save it as UTF-8.") from None
    # The parser behind dotenv_values, which would only log the lines that it cannot read.
    for binding in parse_stream(StringIO(text)):
        if binding.error or (binding.key and binding.value is None):
            before, _, _ = binding.original.string.partition(binding.original.string.strip())
            raise UserError(
                f"{path}: line {binding.original.line + before.count(chr(10))}: not NAME=value. A "
                "value of several lines needs single quotes around it; a comment begins with #."
            )
        if binding.key:
            found[binding.key] = binding.value or ""
    given = {name: text for name, text in os.environ.items() if not _NOT_GIVEN.fullmatch(text)}
    return {**found, **given}


def load(entries: Iterable[Entry], env: Variables) -> dict[str, Connection]:
    """The connections that experiment.yaml names, by name; `env` as from `environment`.

    Raises:
        UserError: an entry or a variable cannot be read, or an address is none.
    """
    listed = _json(LISTED, env.get(LISTED, "").strip() or "[]")
    if not isinstance(listed, list) or not all(isinstance(i, dict) and "name" in i for i in listed):
        raise UserError(f"{LISTED}: not a JSON list of objects with a name (see .env.example).")
    return {entry.name: _connection(entry, listed, env) for entry in entries}


def _connection(entry: Entry, listed: list[Block], env: Variables) -> Connection:
    sources = [(_type(where, block), block) for where, block in _sources(entry, listed, env)]
    kind = [AZURE_OPENAI, *(kind for kind, _ in sources if kind)][-1]
    blocks = [block for other, block in sources if other in ("", kind)]
    given = _merge(entry.name, kind, blocks)
    public = _public(given, blocks)
    missing = _missing(entry.name, kind, given, public)
    kept = [k for k in _MODELS[kind] if not _blank(given[k])] if kind in _MODELS else [*given]
    return Connection(
        name=entry.name,
        type=kind,
        values={key: given[key] for key in kept if key in public},
        secrets={key: SecretStr(given[key]) for key in kept if key not in public},
        model=None if _blank(model := given.get("model", "")) else model,
        missing=missing,
        variables=_variables(entry, kind),
    )


def _variables(entry: Entry, kind: str) -> dict[str, str]:
    """The variables that an entry names in capitals, each with the property that it gives."""
    address = _MODELS[kind][1] if kind in _MODELS else ""
    found = {}
    for key, text in _texts(entry.model_dump(exclude_none=True)).items():
        match = _REFERENCE.fullmatch(text)
        if match and match[1].isupper():
            named = ("api_endpoint", "azure_endpoint", "api_base", "base_url")
            found[match[1]] = address if address and key in named else key
    return found


def _sources(entry: Entry, listed: list[Block], env: Variables) -> Iterator[tuple[str, Block]]:
    """What each source says of a connection, with its place for messages; the last one counts."""
    name, own = entry.name, _fill(entry.model_dump(exclude_none=True), entry.name, env)
    yield f"{EXPERIMENT}: connections: {name}: value '{entry.connection_type}'", own
    words = ("connection_type", "api_key", "api_endpoint", *_PUBLIC, *_texts(own))
    plain = {word: env.get(variable(name, word), "").strip() for word in words}
    yield variable(name, "connection_type"), {key: text for key, text in plain.items() if text}
    yield from ((f"{LISTED}: {name}", item) for item in listed if item["name"] == name)
    for key, text in env.items():
        # A connection may be called `user` or `home`: what is no JSON object is not meant for it.
        if variable(key) == variable(name) and text.lstrip().startswith("{"):
            yield key, _json(key, text)


def _json(where: str, text: str) -> Any:
    try:
        return from_json(text.encode(errors="replace"))
    except ValueError as error:
        # The message tells line and column, and nothing of the text.
        raise UserError(f"{where}: not JSON: {error} (see .env.example).") from None


def _type(where: str, block: Block) -> str:
    """The type that a block gives, by promptflow's name, or "" if it gives none."""
    word = str(block.get("connection_type") or block.get("type") or "")
    if word and word not in _SHORT and not re.fullmatch(r"\w+Connection", word):
        raise UserError(
            f"{where}: not a type of connection (expected one of {', '.join(_SHORT)}, or a class "
            f"of promptflow such as {AZURE_OPENAI} or CognitiveSearchConnection)."
        )
    if not all(isinstance(block.get(key) or {}, dict) for key in ("configs", "secrets")):
        raise UserError(f"{where}: configs and secrets must be JSON objects (see .env.example).")
    return _SHORT.get(word, word)


def _texts(block: Block) -> dict[str, str]:
    """The properties of a block, those in `configs` and `secrets` included."""
    given = {key: value for key, value in block.items() if key not in _NOT_PROPERTIES}
    given = {**given, **(block.get("configs") or {}), **(block.get("secrets") or {})}
    if endpoint := given.get("api_endpoint") or given.get("azure_endpoint"):
        given.setdefault("api_base", endpoint)
    return {
        key: value.strip() if isinstance(value, str) else json.dumps(value)
        for key, value in given.items()
        if value is not None
    }


def _merge(name: str, kind: str, blocks: list[Block]) -> dict[str, str]:
    merged = dict.fromkeys(_MODELS.get(kind, ()), "")
    for block in blocks:
        for key, text in _texts(block).items():
            if not (merged.get(key) and _blank(text)):
                merged[key] = text
    if kind not in _MODELS:
        return merged
    key = _MODELS[kind][1]
    if not _blank(merged[key]) and not _URL.fullmatch(merged[key]):
        raise UserError(
            f"connection '{name}': {key} ({variable(name, key)}): not an address (expected "
            "https://host/… or http://localhost:port/…, with no user, password or query in it)."
        )
    return merged | _implied(kind, merged)


def _implied(kind: str, given: Mapping[str, str]) -> dict[str, str]:
    """The properties that follow from a type's own rules."""
    if kind == AZURE_OPENAI:
        words = {given["api_type"].lower(), given["auth_mode"].lower()}
        entra_id = words & {"azure_ad", "azuread", "aad", "meid_token"}
        key = {"auth_mode": "meid_token", "api_key": ""} if entra_id else {"auth_mode": "key"}
        version = AZURE_API_VERSION if _blank(given["api_version"]) else given["api_version"]
        return {"api_type": "azure", "api_version": version, **key}
    if kind == OPENAI and not given["base_url"]:
        # Said aloud, or the SDK would take OPENAI_BASE_URL from the environment.
        return {"base_url": OPENAI_URL}
    # A server of one's own seldom wants a key, but the SDK wants one to send.
    return {"api_key": NO_KEY} if kind == OPENAI and _blank(given["api_key"]) else {}


def _public(given: Mapping[str, str], blocks: list[Block]) -> set[str]:
    """The properties that may be shown; any other is a secret."""
    hidden = {"api_key"}.union(*(block.get("secrets") or () for block in blocks))
    shown = _PUBLIC.union(*(block.get("configs") or () for block in blocks))
    # A URL may hold a password or a signature.
    hidden |= {key for key in _ADDRESSES & given.keys() if not _URL.fullmatch(given[key])}
    return shown - hidden


def _missing(name: str, kind: str, given: Mapping[str, str], public: set[str]) -> tuple[str, ...]:
    if kind in _MODELS:
        keyless = given.get("auth_mode") == "meid_token"
        needed = list(_MODELS[kind][1:2] if keyless else _MODELS[kind][:2])
    else:
        # A plain value may be empty or look like a placeholder there; an unset ${…} may not.
        needed = [key for key, text in given.items() if key not in public or "${" in text]
    unset = {key: _REFERENCE.search(given[key]) for key in needed if _blank(given[key])}
    return tuple(found[1] if found else variable(name, key) for key, found in unset.items())


_NOT_GIVEN = re.compile(r"\$\([\w.]+\)")
_REFERENCE = re.compile(r"\$\{\s*(\w+)\s*\}")
_PLACEHOLDER = re.compile(
    r"<[^<>]*>|(sk-)?[xX]{4,}|[*.…]+|https?://([xX]{4,}\b|[^/]*[<…]).*|.*\$\{[A-Z0-9_]+\}.*",
    re.DOTALL,
)
_URL = re.compile(r"https?://([\w.-]+|\[[\da-fA-F:.]+\])(:\d{1,5})?(/[^\s?#@]*)?")


def _blank(text: str) -> bool:
    """Whether a text is empty or marks the place of a value: `<key>`, https://xxxx/, `${UNSET}`."""
    return not text or bool(_PLACEHOLDER.fullmatch(text))


def variable(*words: str) -> str:
    """The plain variable of a property: `variable("aoai", "api_key")` is AOAI_API_KEY."""
    return re.sub(r"\W", "_", "_".join(words)).upper()


def _fill(block: Any, name: str, env: Variables) -> Any:
    """The block with each `${…}` replaced by its variable; an unset one stays, as `${VARIABLE}`."""
    if isinstance(block, Mapping):
        return {key: _fill(value, name, env) for key, value in block.items()}

    def value(match: re.Match[str]) -> str:
        key = match[1] if match[1].isupper() else variable(name, match[1])
        found = env.get(key, "").strip()
        return f"${{{key}}}" if _blank(found) else found

    return _REFERENCE.sub(value, block)
