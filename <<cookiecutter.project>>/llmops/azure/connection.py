"""A connection of the workspace with its secrets, in prompt flow's form, without prompt flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from llmops.azure import manager
from llmops.azure.workspace import Place
from llmops.errors import UserError

VERSION = "2023-04-01-preview"
OWN = "azureml.flow."
"""What prompt flow itself has noted of a connection begins with this."""


class Category(NamedTuple):
    """What a category of the workspace's is to prompt flow: the type, and where its values go."""

    kind: str
    target: str = ""
    metadata: tuple[str, ...] = ()


CATEGORIES = {
    "AzureOpenAI": Category("AzureOpenAI", "api_base", ("api_type", "api_version", "resource_id")),
    "OpenAI": Category("OpenAI", "base_url", ("organization",)),
    "Serverless": Category("Serverless", "api_base"),
    "CognitiveSearch": Category("CognitiveSearch", "api_base", ("api_version",)),
    "AIServices": Category("AzureAIServices", "endpoint"),
    "Serp": Category("Serp"),
    "CustomKeys": Category("Custom"),
}
SERVICES = {"Content Safety": "AzureContentSafety", "Form Recognizer": "FormRecognizer"}
"""The category CognitiveService by its `Kind`."""


def fetch(name: str, where: Place) -> dict[str, Any]:
    """A connection: its `type` and `value`, of a custom one its `secret_keys` too.

    Raises:
        UserError: it is of a kind that prompt flow does not know.
        azure.core's AzureError: the network, the sign-in or the workspace refuses.
    """
    path = f"{where.scope}/connections/{quote(name, safe='')}/listsecrets"
    with manager.manager() as call:
        return read(name, call("POST", path, VERSION)["properties"])


def read(name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """What the service says of a connection as `fetch` gives it; raises as that does."""
    about = {**(properties.get("metadata") or {})}
    plain = {key.replace("_", "").lower(): text for key, text in about.items()}
    category = _category(name, str(properties.get("category")), str(plain.get("kind")))
    noted = {key.lower(): text for key, text in about.items()}.get(f"{OWN}connection_type")
    kind = str(noted or category.kind).removesuffix("Connection") + "Connection"
    credentials = properties.get("credentials") or {}
    if category.kind == "Custom":
        secrets = credentials.get("keys") or {}
        public = {key: text for key, text in about.items() if not key.startswith(OWN)}
        value = {key: text for key, text in {**secrets, **public}.items() if text}
        return {"type": kind, "value": value, "secret_keys": list(secrets)}
    value = {key: plain.get(key.replace("_", "")) for key in category.metadata}
    value |= {category.target: properties.get("target")} if category.target else {}
    value |= _signed(name, str(properties.get("authType")), credentials)
    return {"type": kind, "value": {key: text for key, text in value.items() if text}}


def _category(name: str, category: str, service: str) -> Category:
    if category == "CognitiveService" and service in SERVICES:
        return Category(SERVICES[service], "endpoint", ("api_version",))
    if category not in CATEGORIES:
        raise UserError(
            f"connection '{name}': of the category '{category}' (expected one of "
            f"{', '.join(CATEGORIES)}). Set its variables instead."
        )
    return CATEGORIES[category]


def _signed(name: str, way: str, credentials: Mapping[str, Any]) -> dict[str, Any]:
    if way.lower() == "aad":
        return {"auth_mode": "meid_token"}
    if way.lower() != "apikey":
        raise UserError(f"connection '{name}': signs in by '{way}' (expected ApiKey or AAD).")
    return {"api_key": credentials.get("key"), "auth_mode": "key"}
