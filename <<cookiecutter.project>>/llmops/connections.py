"""Connections to models and services: from the environment to what each kind of flow wants.

A connection is put together from layers; each one overrides those before it:
  1. its entry in `experiment.yaml`, where `${api_key}` stands for the variable AOAI_API_KEY,
  2. plain variables: AOAI_API_KEY, AOAI_API_BASE, AOAI_MODEL, AOAI_CONNECTION_TYPE, …,
  3. its item in COMMON_DEV_CONNECTIONS, a JSON list,
  4. a variable named like the connection: `aoai={"api_key": "…", "api_base": "…"}`.
An empty value counts as unset, and a placeholder such as `<key>` never replaces a real value.
Messages name variables, never what is in them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args
from urllib.parse import SplitResult, urlencode, urlsplit

from dotenv.parser import parse_stream
from pydantic import BaseModel, ConfigDict, SecretStr

from llmops.config import EXPERIMENT
from llmops.errors import UserError

LISTED = "COMMON_DEV_CONNECTIONS"
AZURE_API_VERSION = "2024-02-01"
OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "no-key-needed"
REPLAYED_KEY = "replayed"

Mode = Literal["live", "replay", "record"]


class Kind(NamedTuple):
    """What a type of connection consists of; `address` is the property that holds its URL."""

    address: str = ""
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def properties(self) -> tuple[str, ...]:
        """Every property of the type; none for a custom connection, which may have any."""
        return (*self.required, *self.optional)


AZURE_OPENAI, OPENAI, SERVERLESS, CUSTOM = (
    "AzureOpenAIConnection",
    "OpenAIConnection",
    "ServerlessConnection",
    "CustomConnection",
)
KINDS = {
    AZURE_OPENAI: Kind(
        "api_base",
        ("api_key", "api_base"),
        ("api_version", "api_type", "auth_mode", "resource_id"),
    ),
    OPENAI: Kind("base_url", ("api_key",), ("base_url", "organization")),
    SERVERLESS: Kind("api_base", ("api_key", "api_base")),
    CUSTOM: Kind(),
    "CognitiveSearchConnection": Kind(
        "api_base", ("api_key", "api_base"), ("api_version", "auth_mode")
    ),
    "AzureAIServicesConnection": Kind("endpoint", ("api_key", "endpoint"), ("auth_mode",)),
    "AzureContentSafetyConnection": Kind(
        "endpoint", ("api_key", "endpoint"), ("api_version", "api_type")
    ),
    "FormRecognizerConnection": Kind(
        "endpoint", ("api_key", "endpoint"), ("api_version", "api_type")
    ),
    "SerpConnection": Kind("", ("api_key",)),
    "BingConnection": Kind("url", ("api_key",), ("url",)),
}
# What people call the address, the least specific first: the type's own word wins.
_ADDRESSES = ("endpoint", "azure_endpoint", "api_endpoint", "api_base", "base_url")
_PUBLIC = {*_ADDRESSES, "model", *(p for kind in KINDS.values() for p in kind.properties)} - {
    "api_key"
}
_NOT_PROPERTIES = {"name", "type", "connection_type"}
_ENTRA_ID = {"azure_ad", "azuread", "aad", "meid_token"}


class Connection(BaseModel):
    """How to reach one model or service. No representation of it shows a secret.

    `values` and `secrets` hold its properties under the type's own names; a secret may be empty,
    and an address with a password in it is one.
    `model` replaces the deployment or model that a flow's nodes name. `variables` maps a property
    to the variable that experiment.yaml takes it from, where that is not `<NAME>_<PROPERTY>`.
    `sources` names what it was read from, and `wanted` is false where nothing but the shared
    COMMON_DEV_CONNECTIONS speaks of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str
    type: str
    values: dict[str, str] = {}
    secrets: dict[str, SecretStr] = {}
    model: str | None = None
    variables: dict[str, str] = {}
    sources: tuple[str, ...] = ()
    wanted: bool = True

    def read(self, key: str) -> str:
        """One property in clear, or an empty text. Never for display."""
        secret = self.secrets.get(key)
        return secret.get_secret_value() if secret else self.values.get(key, "")

    def variable(self, key: str) -> str:
        """The variable to set for a property, as the user would write it."""
        return self.variables.get(key) or _variable(self.name, key)

    @property
    def kind(self) -> Kind:
        """What its type consists of."""
        return KINDS[self.type]

    @property
    def served(self) -> bool:
        """Whether it leads to a model, so that its calls can be replayed and recorded."""
        return self.type in (AZURE_OPENAI, OPENAI, SERVERLESS)

    @property
    def keyless(self) -> bool:
        """Whether it signs in with Microsoft Entra ID instead of a key."""
        words = {self.read("api_type").lower(), self.read("auth_mode").lower()}
        return "auth_mode" in self.kind.properties and bool(words & _ENTRA_ID)

    @property
    def base(self) -> str:
        """The address that requests are built on, without a slash at its end."""
        address = self.read(self.kind.address).rstrip("/")
        if self.type == OPENAI:
            return address or OPENAI_URL
        if self.type == SERVERLESS and address and not address.endswith("/v1"):
            return f"{address}/v1"
        return address

    @property
    def address(self) -> str:
        """Where calls go: scheme, host, port, path and API version, and never a secret.

        It is part of a run's content address. A connection without a URL gives its public values.
        """
        url = _split(self.base)
        if not url.hostname:
            return f"{self.type}:{json.dumps(self.values, sort_keys=True)}"
        query = f"?{urlencode(self._query)}" if self._query else ""
        return f"{url.scheme}://{_host(url)}{url.path}{query}"

    @property
    def _api_version(self) -> str:
        return self.read("api_version") or AZURE_API_VERSION

    def as_promptflow(self) -> dict[str, Any]:
        """The entry for promptflow's dictionary of connections, with secrets in clear."""
        names = [*self.values, *self.secrets]
        # An empty text is an absent property, except to a custom connection.
        kept = [name for name in names if self.read(name) or not self.kind.properties]
        value = {name: self.read(name) for name in kept}
        if self.type == OPENAI:
            # Said aloud, or the SDK would take OPENAI_BASE_URL from the environment.
            value["base_url"] = self.base
        if self.type == AZURE_OPENAI:
            value |= {"api_type": "azure", "api_version": self._api_version}
        if self.keyless:
            value["auth_mode"] = "meid_token"
            value.pop("api_key", None)
        secret_keys = [name for name in self.secrets if name in value]
        return {
            "type": self.type,
            "module": "promptflow.connections",
            "value": value,
            "secret_keys": secret_keys,
        }

    def as_environment(self) -> dict[str, str]:
        """Variables for a child process whose flow reads the environment; secrets in clear."""
        names = [name for name in (*self.values, *self.secrets) if self.read(name)]
        found = {_variable(self.name, name): self.read(name) for name in names}
        found |= {self.variable(name): self.read(name) for name in names}
        return found | ({_variable(self.name, "model"): self.model} if self.model else {})

    def through(self, url: str) -> Connection:
        """The same connection by way of the recording server at `url`; others stay as they are."""
        if not self.served:
            return self
        address = self.kind.address
        target = url if self.type == AZURE_OPENAI else f"{url}/v1"
        values = {k: v for k, v in self.values.items() if k not in ("api_type", "auth_mode")}
        secrets = {k: v for k, v in self.secrets.items() if k != address}
        return self.model_copy(
            update={
                "values": {**values, address: target},
                "secrets": {**secrets, "api_key": SecretStr(REPLAYED_KEY)},
            }
        )

    def upstream(self) -> dict[str, Any]:
        """Where the recording server passes calls on to: {"base", "headers", "query", "kind"}.

        Of kind "azure", a call goes to base + "/openai/deployments/<model>" + path; of kind
        "openai", to base + path, for the base already ends in its "/v1". Of kind "none" there is
        nothing to pass on to. Headers hold the key.

        Raises:
            UserError: the connection signs in without a key, so there is none to pass on.
        """
        if self.served and self.keyless:
            raise UserError(
                f"connection '{self.name}': recording needs a key, and this connection signs in "
                f"with Microsoft Entra ID. Set {self.variable('api_key')} and take out api_type "
                "and auth_mode, or run with LLM=live."
            )
        kind = {AZURE_OPENAI: "azure", OPENAI: "openai", SERVERLESS: "openai"}.get(
            self.type, "none"
        )
        return {"base": self.base, "headers": self._headers, "query": self._query, "kind": kind}

    @property
    def _headers(self) -> dict[str, str]:
        key = self.read("api_key")
        if self.type == AZURE_OPENAI:
            return {} if self.keyless else {"api-key": key}
        if not self.served:
            return {}
        organization = self.read("organization")
        more = {"OpenAI-Organization": organization} if organization else {}
        return {"Authorization": f"Bearer {key}", **more}

    @property
    def _query(self) -> dict[str, str]:
        return {"api-version": self._api_version} if self.type == AZURE_OPENAI else {}


# --- the environment ---------------------------------------------------------------------------


def environment(folder: Path = Path()) -> dict[str, str]:
    """The variables of the process over those of `.env` in `folder`. os.environ is not changed.

    Raises:
        UserError: a line of `.env` cannot be read.
    """
    return {**dotenv(folder), **os.environ}


def dotenv(folder: Path) -> dict[str, str]:
    """The variables of the file `.env` in `folder`, taken literally; none where there is no file.

    Raises:
        UserError: the file is not UTF-8, or a line is not NAME=value.
    """
    path = folder / ".env"
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text. Save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    found = {}
    # The parser behind dotenv_values, which would only log the lines that it cannot read.
    for binding in parse_stream(StringIO(text)):
        if binding.error or (binding.key and binding.value is None):
            line = binding.original.line + _blank_lines(binding.original.string)
            raise UserError(
                f"{path}: line {line}: not NAME=value. A value of several lines needs single "
                "quotes around it; a comment begins with #."
            )
        if binding.key and binding.value is not None:
            found[binding.key] = binding.value
    return found


def _blank_lines(text: str) -> int:
    return text[: len(text) - len(text.lstrip())].count("\n")


# --- putting connections together --------------------------------------------------------------


class _Given(NamedTuple):
    """One property as one layer gives it."""

    text: str
    secret: bool

    def over(self, earlier: _Given | None) -> _Given:
        """This value, if it says more than the earlier one, which decides whether it is secret."""
        if earlier is None:
            return self
        worse = not self.text or (_placeholder(self.text) and not _placeholder(earlier.text))
        return _Given(earlier.text if worse and earlier.text else self.text, earlier.secret)


@dataclass(frozen=True, slots=True, repr=False)
class _Layer:
    source: str
    type: str | None = None
    given: dict[str, _Given] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


def load(
    entries: Sequence[Mapping[str, Any]], env: Mapping[str, str], names: Iterable[str] = ()
) -> dict[str, Connection]:
    """The connections by name.

    Args:
        entries: the block `connections` of experiment.yaml.
        env: the variables, see `environment`.
        names: further connections that flows name; one that nothing speaks of is left out.

    Raises:
        UserError: an entry or a variable cannot be read, or an address is none.
    """
    declared = _declared(entries, env)
    listed = _listed(env)
    wanted = dict.fromkeys([*declared, *names])
    found = {}
    for name in dict.fromkeys([*wanted, *listed]):
        layers = [declared.get(name), listed.get(name), _line(name, env)]
        connection = _combine(name, [layer for layer in layers if layer], env)
        if connection:
            found[name] = connection.model_copy(update={"wanted": name in wanted})
            _check_address(found[name])
    return found


def _declared(entries: Sequence[Mapping[str, Any]], env: Mapping[str, str]) -> dict[str, _Layer]:
    found: dict[str, _Layer] = {}
    for number, entry in enumerate(entries, start=1):
        name = str(entry.get("name") or "").strip()
        where = f"{EXPERIMENT}: connections: {name or f'item {number}'}"
        if not name:
            raise UserError(f"{where}: name: missing. Give it the name that the flows use.")
        if name in found:
            raise UserError(f"{where}: name: used twice. Give each connection its own name.")
        found[name] = _from_entry(name, entry, env, where)
    return found


def _from_entry(name: str, entry: Mapping[str, Any], env: Mapping[str, str], where: str) -> _Layer:
    word = entry.get("connection_type") or entry.get("type")
    kind = _type(str(word), f"{where}: connection_type: value '{word}'") if word else None
    layer = _Layer(EXPERIMENT, kind)
    for key, given in _flat(entry, where).items():
        if kind:
            _refuse_unknown(key, KINDS[kind], where)
        filled, variable = _fill(given.text, name, env, f"{where}: {key}")
        layer.given[key] = _Given(filled, given.secret)
        if variable:
            layer.variables[key] = variable
    return layer


def _refuse_unknown(key: str, kind: Kind, where: str) -> None:
    # A property of another type, such as an api_type beside OpenAIConnection, is passed over.
    if kind.properties and key not in (*_PUBLIC, "api_key"):
        choices = ", ".join(["name", "connection_type", *kind.properties, "model"])
        raise UserError(f"{where}: unknown key '{key}' (expected one of {choices}).")


def _fill(text: str, name: str, env: Mapping[str, str], where: str) -> tuple[str, str | None]:
    """The text with its `${…}` filled in (empty if one is unset), and the variable it stands on."""
    names = [_reference(name, word) for word in _REFERENCE.findall(text)]
    if text.count("${") != len(names):
        raise UserError(f"{where}: '${{' without a name and '}}'. Write ${{api_key}} or ${{NAME}}.")
    unset = [variable for variable in names if not env.get(variable, "").strip()]
    if unset:
        return "", unset[0]
    filled = _REFERENCE.sub(lambda match: env[_reference(name, match[1])].strip(), text)
    return filled, names[0] if _REFERENCE.fullmatch(text) else None


_REFERENCE = re.compile(r"\$\{\s*([A-Za-z_]\w*)\s*\}")


def _reference(name: str, word: str) -> str:
    """`${PLAIN_NAME}` is that variable, `${prop}` is `<CONNECTION>_<PROP>`."""
    return word if word.isupper() else _variable(name, word)


def _variable(*words: str) -> str:
    return re.sub(r"\W", "_", "_".join(words)).upper()


def _listed(env: Mapping[str, str]) -> dict[str, _Layer]:
    text = env.get(LISTED, "").strip()
    expected = 'a JSON list: [{"name": "aoai", "type": "azure_open_ai", "api_base": …}, …]'
    items = _json(LISTED, text, expected) if text else []
    if not isinstance(items, list):
        raise UserError(f"{LISTED}: not a list (expected {expected}).")
    found: dict[str, _Layer] = {}
    for number, item in enumerate(items, start=1):
        where = f"{LISTED}: item {number}"
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{where}: not an object with a name (expected {expected}).")
        if name.strip() in found:
            raise UserError(f"{where}: its name stands twice in the list. Take one out.")
        found[name.strip()] = _from_json(item, where, LISTED)
    return found


def _line(name: str, env: Mapping[str, str]) -> _Layer | None:
    """The variable named like the connection, in any case; its own spelling goes first."""
    for variable in sorted(env, key=lambda variable: variable != name):
        text = env[variable].strip()
        # A connection may be called `user` or `home`: only its own spelling must be JSON.
        ours = variable == name or text.startswith("{")
        if text and ours and _variable(variable) == _variable(name):
            expected = 'a JSON object on one line: {"api_key": "…", "api_base": "…"}'
            item = _json(variable, text, expected)
            if not isinstance(item, dict):
                raise UserError(f"{variable}: not an object (expected {expected}).")
            return _from_json(item, variable, variable)
    return None


def _json(variable: str, text: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        # Not chained: the cause holds the text, keys and all.
        raise UserError(f"{variable}: {place}: not JSON (expected {expected}).") from None
    except (ValueError, RecursionError):
        raise UserError(f"{variable}: not JSON (expected {expected}).") from None


def _from_json(item: Mapping[str, Any], where: str, source: str) -> _Layer:
    word = item.get("type") or item.get("connection_type")
    kind = _type(str(word), f"{where}: type") if word else None
    return _Layer(source, kind, _flat(item, where))


def _flat(block: Mapping[str, Any], where: str) -> dict[str, _Given]:
    """Properties as texts, those in `configs` and `secrets` included; None is left out.

    Any property is a secret that is not known to be public or put into `configs`.
    """
    found: dict[str, _Given] = {}
    for number, (key, value) in enumerate(block.items(), start=1):
        if key in ("configs", "secrets") and isinstance(value, Mapping):
            inner = _flat(value, f"{where}: {key}")
            found |= {name: _Given(given.text, key == "secrets") for name, given in inner.items()}
        elif isinstance(value, Mapping | list):
            # Numbered, not named: in a variable even a name may be a slip of a secret.
            raise UserError(f"{where}: property {number}: neither a text nor a number.")
        elif key not in _NOT_PROPERTIES and value is not None:
            text = json.dumps(value) if isinstance(value, bool) else str(value).strip()
            found[str(key)] = _Given(text, key not in _PUBLIC)
    return found


def _type(word: str, where: str) -> str:
    """promptflow's name of a type: azure_open_ai, AzureOpenAI and AzureOpenAIConnection are one."""
    for name in KINDS:
        if _squeezed(name) == _squeezed(word):
            return name
    choices = ", ".join(["azure_open_ai", "open_ai", "serverless", "custom", *list(KINDS)[4:]])
    raise UserError(f"{where}: not a type of connection (expected one of {choices}).")


def _squeezed(word: str) -> str:
    return re.sub(r"[^a-z]", "", word.lower()).removesuffix("connection")


def _combine(name: str, layers: list[_Layer], env: Mapping[str, str]) -> Connection | None:
    """One connection from its layers in the order of precedence, or None if there is nothing."""
    own = [layer for layer in layers if layer.source == EXPERIMENT]
    others = [layer for layer in layers if layer.source != EXPERIMENT]
    typed = _plain_type(name, env)
    types = [layer.type for layer in (*own, *typed, *others) if layer.type]
    kind = types[-1] if types else _guess(name, layers, env)
    # An Azure address left in the environment is none of the OpenAI server that replaces it.
    switched = any(layer.type not in (None, kind) for layer in own)
    words = _words(KINDS[kind], layers, () if switched else _ADDRESSES)
    plain = [*typed, *_plain(name, words, env)]
    if not layers and not plain:
        return None
    ordered = [layer for layer in (*own, *plain, *others) if layer.type in (None, kind)]
    return _build(name, kind, ordered, env)


def _plain_type(name: str, env: Mapping[str, str]) -> list[_Layer]:
    variable = _variable(name, "connection_type")
    word = env.get(variable, "").strip()
    return [_Layer(variable, _type(word, variable))] if word else []


def _guess(name: str, layers: list[_Layer], env: Mapping[str, str]) -> str:
    """The type where nothing says it: Azure, unless there is a base_url or nothing but a key."""
    plain = _plain(name, ["api_key", *_PUBLIC], env)
    given = {key: value.text for layer in (*layers, *plain) for key, value in layer.given.items()}
    azure = {"api_base", "api_endpoint", "azure_endpoint", "api_type", "api_version"} & {*given}
    return AZURE_OPENAI if azure and "open" not in given.get("api_type", "") else OPENAI


def _words(kind: Kind, layers: list[_Layer], synonyms: Iterable[str]) -> list[str]:
    """The properties to look for in plain variables; the type's own words come last and win."""
    if not kind.properties:
        return [key for layer in layers for key in layer.given]
    others = [word for word in synonyms if kind.address and word != kind.address]
    return [*others, *kind.properties, "model"]


def _plain(name: str, words: Iterable[str], env: Mapping[str, str]) -> Iterator[_Layer]:
    """One layer for each plain variable that is set."""
    for key in dict.fromkeys(words):
        variable = _variable(name, key)
        if text := env.get(variable, "").strip():
            yield _Layer(variable, None, {key: _Given(text, key not in _PUBLIC)})


def _build(name: str, type_: str, layers: list[_Layer], env: Mapping[str, str]) -> Connection:
    merged = _merge(KINDS[type_], layers)
    model = merged.pop("model", _Given("", False)).text or None
    if type_ == OPENAI:
        merged = _without_key_if_local(merged)
    secret = {key for key, given in merged.items() if given.secret or _tells(given.text)}
    return Connection(
        name=name,
        type=type_,
        values={key: given.text for key, given in merged.items() if key not in secret},
        secrets={key: SecretStr(merged[key].text) for key in merged if key in secret},
        model=model,
        variables={
            _canonical(word, KINDS[type_]): variable
            for layer in layers
            for word, variable in layer.variables.items()
        },
        sources=_sources(layers, env),
    )


def _merge(kind: Kind, layers: list[_Layer]) -> dict[str, _Given]:
    merged: dict[str, _Given] = {}
    known = {*kind.properties, "model"}
    for layer in layers:
        # The type's own word for its address comes last, so that it wins over a synonym.
        for word, given in sorted(layer.given.items(), key=lambda item: item[0] == kind.address):
            key = _canonical(word, kind)
            if not kind.properties or key in known:
                merged[key] = given.over(merged.get(key))
    return merged


def _canonical(word: str, kind: Kind) -> str:
    synonym = kind.address and word in _ADDRESSES and word not in kind.properties
    return kind.address if synonym else word


def _without_key_if_local(merged: dict[str, _Given]) -> dict[str, _Given]:
    """A server on this machine or network wants no key, but the SDK wants one to send."""
    nothing = _Given("", True)
    key = merged.get("api_key", nothing).text
    if (key and not _placeholder(key)) or not is_private(merged.get("base_url", nothing).text):
        return merged
    return {**merged, "api_key": _Given(NO_KEY, True)}


def is_private(url: str) -> bool:
    """Whether a URL leads to this machine or to a private network."""
    host = _split(url).hostname or ""
    try:
        return ip_address(host).is_private
    except ValueError:
        # A name without a dot is one of a private network, such as a container's.
        private = "." not in host or host.endswith((".localhost", ".local", ".internal"))
        return bool(host) and private


def _tells(text: str) -> bool:
    """Whether a text is a URL with a password or a query, which may be a signature."""
    url = _split(text)
    return bool(url.scheme and url.netloc and ("@" in url.netloc or url.query))


def _sources(layers: list[_Layer], env: Mapping[str, str]) -> tuple[str, ...]:
    found = []
    for layer in layers:
        says = layer.type or any(given.text for given in layer.given.values())
        found += [layer.source] if says or layer.source == EXPERIMENT else []
        found += [variable for variable in layer.variables.values() if env.get(variable)]
    return tuple(dict.fromkeys(found))


def _check_address(connection: Connection) -> None:
    key = connection.kind.address
    text = connection.read(key)
    if not text or _placeholder(text):
        return
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        good = False
    if not good or re.search(r"\s", text):
        raise UserError(
            f"connection '{connection.name}': {key}: not an address (expected https://host/… or "
            f"http://localhost:port/…). It is read from {', '.join(connection.sources)}."
        )


def _split(url: str) -> SplitResult:
    """The parts of a URL; empty ones if it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _host(url: SplitResult) -> str:
    """Host and port without user and password."""
    return url.netloc.rpartition("@")[2]


# --- what is missing, and what follows ---------------------------------------------------------

_PLACEHOLDER_URL = re.compile(r"https?://(x{3,}(?=[.:/]|$)|[^/]*<[^<>]*>).*", re.I | re.S)
_PLACEHOLDER = re.compile(r"<[^<>]*>|(sk-)?x{4,}\.*|\*{3,}|\.{3,}|…", re.I)


def _placeholder(text: str) -> bool:
    """Whether a text only marks the place of a value: `<key>`, xxxxxxxx, https://xxxxxxxx/."""
    return bool(_PLACEHOLDER.fullmatch(text) or _PLACEHOLDER_URL.fullmatch(text))


def missing(connection: Connection) -> list[str]:
    """The variables that must be set before the connection can be used live."""
    keys = dict.fromkeys([*connection.kind.required, *connection.values, *connection.secrets])
    if connection.keyless:
        keys.pop("api_key", None)
    return [connection.variable(key) for key in keys if _lacks(connection, key)]


def _lacks(connection: Connection, key: str) -> bool:
    text = connection.read(key)
    custom = not connection.kind.properties
    if not text:
        # A custom connection may well have an empty value, but not an unset variable.
        needed = (*connection.secrets, *connection.variables)
        return key in (needed if custom else connection.kind.required)
    if custom and key not in connection.secrets:
        return bool(_PLACEHOLDER_URL.fullmatch(text))
    return _placeholder(text)


def choose_mode(connections: Mapping[str, Connection], requested: str | None) -> Mode:
    """Whether models are asked live, replayed or recorded.

    Args:
        connections: those of `load`; connections that nobody wants are not judged.
        requested: the variable LLM; if unset: live where every connection is complete (or there
            is none), replay where no model's is.

    Raises:
        UserError: a mode that there is not, or a connection that it needs lacks a variable.
    """
    word = (requested or "").strip().lower()
    choices: tuple[Mode, ...] = get_args(Mode)
    mode = next((choice for choice in choices if choice == word), None)
    if word and not mode:
        raise UserError(f"LLM: value '{requested}' (expected one of {', '.join(choices)}).")
    judged = [c for c in connections.values() if c.wanted] or list(connections.values())
    lacking = [c for c in judged if missing(c)]
    models = [c for c in judged if c.served] or judged
    if mode == "replay" or (not mode and lacking and all(c in lacking for c in models)):
        return "replay"
    if lacking:
        _refuse(judged, lacking, mode)
    if mode == "record":
        for connection in judged:
            connection.upstream()
    return mode or "live"


def _refuse(judged: list[Connection], lacking: list[Connection], mode: Mode | None) -> NoReturn:
    complete = [f"'{c.name}'" for c in judged if c not in lacking]
    start = f"LLM={mode}: " if mode else f"connection {', '.join(complete)} is complete, but "
    lacks = "; ".join(f"connection '{c.name}' lacks {', '.join(missing(c))}" for c in lacking)
    raise UserError(
        f"{start}{lacks} (unset, or still a placeholder). Set this in the environment or in .env, "
        "or use the recorded answers: LLM=replay."
    )


# --- does it answer ----------------------------------------------------------------------------

_LARGEST_ANSWER = 5_000_000  # bytes; a list of models is far below
_REACHABLE = (404, 405)  # not every server has a list of models
_STATUSES = {
    401: "{host} refuses the key (401): check {key}",
    403: "{host} refuses access (403): check {key} and the network rules of the service",
    404: "{host} answers, but has no list of models (404); if calls fail, check {address}",
    405: "{host} answers, but has no list of models (405); if calls fail, check {address}",
    429: "{host} limits requests just now (429): wait, or raise the quota",
    3: "{host} redirects ({status}): is {address} the address of the API itself?",
    4: "{host} refuses the question ({status}): check {address} and the API version",
    5: "{host} has a fault of its own ({status}): try again later",
}
# By the name of an exception or of one that it is derived from.
_TROUBLES = {
    "TimeoutError": "{host} did not answer within {seconds:g} s: is it up, and is {address} right?",
    "ProxyError": "the proxy in HTTPS_PROXY or HTTP_PROXY does not lead to {host}",
    "gaierror": "the host name {host} is not known: check {address} and the network",
    "SSLError": "no secure connection to {host} (TLS): is https:// in {address} right, and is the "
    "certificate trusted here?",
    "ConnectionRefusedError": "{host} refuses the connection: is the server running, and is "
    "{address} right?",
    "UnicodeEncodeError": "{key} holds a character that no key has, such as an accent or a quote",
    "LocalProtocolError": "{key} holds a character that no key has, such as a line break",
    "RemoteProtocolError": "{host} does not speak HTTP: check {address}",
    "Exception": "{host} cannot be reached ({error}): check {address}",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint said: whether calls may work, one sentence, and after how many seconds."""

    ok: bool
    sentence: str
    seconds: float


def check(connection: Connection, timeout_s: float = 10) -> Answer:
    """Ask an endpoint for its list of models, which costs nothing. Never raises for its answer."""
    if not connection.served:
        return Answer(True, "not asked: its type has no question that costs nothing", 0.0)
    if lacking := missing(connection):
        return Answer(False, f"not asked: {', '.join(lacking)} must be set first", 0.0)
    begin = time.monotonic()
    try:
        ok, sentence = _judge(connection, *_ask(connection, timeout_s))
    except Exception as error:
        # The error's own text may hold the key: it is not shown.
        kinds = {cls.__name__ for cause in _causes(error) for cls in type(cause).__mro__}
        template = next(text for name, text in _TROUBLES.items() if name in kinds)
        more = {"seconds": timeout_s, "error": type(error).__name__}
        ok, sentence = False, template.format(**_names(connection), **more)
    return Answer(ok, sentence, time.monotonic() - begin)


def _ask(connection: Connection, timeout_s: float) -> tuple[int, bytes]:
    """The status and the body of the endpoint's answer."""
    import asyncio

    import httpx

    path = "/openai/models" if connection.type == AZURE_OPENAI else "/models"

    async def get() -> tuple[int, bytes]:
        body = b""
        async with (
            httpx.AsyncClient(timeout=None, headers=connection._headers) as client,
            client.stream("GET", connection.base + path, params=connection._query) as response,
        ):
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _LARGEST_ANSWER:
                    break
        return response.status_code, body

    async def get_in_time() -> tuple[int, bytes]:
        # httpx would limit each step: a server that sends a byte now and then could hold us.
        return await asyncio.wait_for(get(), timeout_s)

    return asyncio.run(get_in_time())


def _judge(connection: Connection, status: int, body: bytes) -> tuple[bool, str]:
    names = _names(connection)
    if status in (401, 403) and connection.keyless:
        return True, "{host} answers; the first call will try to sign in".format(**names)
    if template := _STATUSES.get(status) or _STATUSES.get(status // 100):
        return status in _REACHABLE, template.format(status=status, **names)
    if _is_json(body):
        return True, "{host} answers".format(**names)
    template = "{host} answers, but not in JSON: is {address} the address of an API?"
    return False, template.format(**names)


def _names(connection: Connection) -> dict[str, str]:
    """What sentences speak of: the host without a password, and the variables to look at."""
    return {
        "host": _host(_split(connection.base)),
        "address": connection.variable(connection.kind.address),
        "key": connection.variable("api_key"),
    }


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return len(body) > _LARGEST_ANSWER and body.lstrip()[:1] in (b"{", b"[")
    return True


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:
                yield from _causes(member)
        error = error.__cause__ or error.__context__
