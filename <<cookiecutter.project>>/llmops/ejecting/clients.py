"""The clients of the connections that lead to models, each made once out of the environment."""

from __future__ import annotations

from llmops.config import Connection
from llmops.ejecting.names import prefix
from llmops.ejecting.writer import Module, Writer

KEYLESS = {"azure_ad", "azuread", "aad", "meid_token"}
API_VERSION = "2024-02-01"


def of_node(writer: Writer, connection: str) -> str:
    """The name of the function that gives the client of a node; the module has it then."""
    name = writer.names.clients[connection]
    return function(writer.module, writer.source.connections[connection], name, writer.speech.sdk)


def function(module: Module, entry: Connection, name: str, sdk: str = "") -> str:
    """Write the function that gives a connection's client; returns its name.

    `sdk` is `Async` for clients whose calls are awaited.
    """
    kind, connection = entry.connection_type, entry.name
    made = _azure(module, entry) if kind == "AzureOpenAIConnection" else _openai(kind, connection)
    class_ = f"{sdk}{'AzureOpenAI' if kind == 'AzureOpenAIConnection' else 'OpenAI'}"
    module.use("import os")
    module.use(f"from openai import {class_}")
    module.add(
        f"@{module.helper('once', 'once')}",
        f"def {name}() -> {class_}:",
        f'    """The connection {connection}."""',
        *made[:-1],
        f"    return {class_}({made[-1]}, max_retries=0)",
    )
    return name


def _azure(module: Module, entry: Connection) -> list[str]:
    """Lines before the client, and its arguments."""
    start = prefix(entry.name)
    version = entry.api_version or API_VERSION
    version = API_VERSION if "${" in version else version
    where = (
        f'azure_endpoint=os.environ["{start}_API_BASE"], '
        f'api_version=os.environ.get("{start}_API_VERSION", {version!r})'
    )
    if not KEYLESS & {(entry.api_type or "").lower(), (entry.auth_mode or "").lower()}:
        return [f'{where}, api_key=os.environ["{start}_API_KEY"]']
    module.use("from azure.identity import DefaultAzureCredential")
    module.use("from azure.identity import get_bearer_token_provider")
    return [
        f'    key = os.environ.get("{start}_API_KEY")',
        "    credential = DefaultAzureCredential()",
        '    scope = "https://cognitiveservices.azure.com/.default"',
        "    token = None if key else get_bearer_token_provider(credential, scope)",
        f"{where}, api_key=key, azure_ad_token_provider=token",
    ]


def _openai(kind: str, connection: str) -> list[str]:
    start = prefix(connection)
    key = f'api_key=os.environ["{start}_API_KEY"]'
    if kind == "ServerlessConnection":
        return [
            f'    address = os.environ["{start}_API_BASE"].removesuffix("/v1")',
            f'base_url=f"{{address}}/v1", {key}',
        ]
    return [
        f'base_url=os.environ.get("{start}_BASE_URL"), {key}, '
        f'organization=os.environ.get("{start}_ORGANIZATION")'
    ]
