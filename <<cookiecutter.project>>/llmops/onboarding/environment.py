"""The environment variables that a flow reads itself, and the models that they lead to."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from llmops import code
from llmops.connections import AZURE_API_VERSION, AZURE_OPENAI, OPENAI
from llmops.flows import Flow
from llmops.onboarding.interface import block, front_matter
from llmops.onboarding.source import walk

EXAMPLES = (".env.example", ".env.sample", ".env.template")
IN_TEXT = re.compile(r"\$\{env:\s*(\w+)\s*\}")
IN_EXAMPLE = re.compile(r"^\s*#?\s*(?:export\s+)?([A-Z][A-Z0-9_]*)\s*=", re.M)
NAME = re.compile(r"[A-Za-z_]\w*")
# Variables of Python and of prompt flow, which are none of the flow's settings.
OTHERS = re.compile(r"PF_|PYTHON|PROMPTFLOW_|PATH$|HOME$|USER$|LOG_?LEVEL|DEBUG$")

# The names that are in use for the address, the key and the version of a model.
AZURE = {
    "api_base": "AZURE_OPENAI_ENDPOINT AZURE_OPENAI_API_BASE AZURE_OPENAI_BASE_URL AOAI_ENDPOINT "
    "AOAI_API_BASE AOAI_API_ENDPOINT AZURE_OPENAI_API_ENDPOINT",
    "api_key": "AZURE_OPENAI_API_KEY AZURE_OPENAI_KEY AOAI_API_KEY AOAI_KEY",
    "api_version": "AZURE_OPENAI_API_VERSION AOAI_API_VERSION",
}
PUBLIC = {"api_key": "OPENAI_API_KEY OPENAI_KEY", "base_url": "OPENAI_BASE_URL OPENAI_API_BASE"}
# What the clients read by themselves when nobody tells them.
AZURE_CLIENT = {"azure_endpoint": "AZURE_OPENAI_ENDPOINT", "api_key": "AZURE_OPENAI_API_KEY"}
CLIENTS = {
    "AzureOpenAI": AZURE_CLIENT,
    "AsyncAzureOpenAI": AZURE_CLIENT,
    "AzureChatOpenAI": AZURE_CLIENT,
    "OpenAI": {"api_key": "OPENAI_API_KEY"},
    "AsyncOpenAI": {"api_key": "OPENAI_API_KEY"},
    "ChatOpenAI": {"api_key": "OPENAI_API_KEY"},
}
CLIENTS["AzureOpenAIModelConfiguration"] = CLIENTS["AzureOpenAIConnection.from_env"] = AZURE_CLIENT
CLIENTS["OpenAIModelConfiguration"] = CLIENTS["OpenAIConnection.from_env"] = CLIENTS["OpenAI"]
CONFIGURATION = {"azure_openai": AZURE_CLIENT, "openai": CLIENTS["OpenAI"]}
ELSEWHERE = {"azure_ad_token", "azure_ad_token_provider", "base_url", "connection", None}


def names(flow: Flow, trees: Iterable[ast.Module], given: Collection[str]) -> set[str]:
    """The variables that the flow's code, prompts and definition read.

    `given` are those that the definition sets, which nobody else has to.
    """
    found = {name for tree in trees for name in _of_code(code.without_main(tree))}
    found |= {name for path in _texts(flow) for name in IN_TEXT.findall(_text(path))}
    return found - set(given)


def implied(flow: Flow) -> set[str]:
    """The variables that prompt flow reads for prompts that say no more than a kind of model."""
    found: set[str] = set()
    for path in prompties(flow):
        given = block(block(front_matter(path).get("model")).get("configuration"))
        if not given.keys() & {*ELSEWHERE, *AZURE_CLIENT}:
            found |= set(CONFIGURATION.get(str(given.get("type")), {}).values())
    return found


def examples(flow: Flow) -> set[str]:
    """The variables that an example of a `.env` beside the flow shows."""
    return {name for file in EXAMPLES for name in IN_EXAMPLE.findall(_text(flow.folder / file))}


def lines(names: Iterable[str]) -> list[str]:
    """The lines of `.env.example` for the variables, but for those of Python and prompt flow."""
    return [line(name) for name in sorted(names) if not OTHERS.match(name)]


def prompties(flow: Flow) -> list[Path]:
    """The prompty files of the flow: itself, or those in its folder."""
    return (
        [flow.path]
        if flow.kind == "prompty"
        else [path for path in walk(flow.folder) if path.suffix == ".prompty"]
    )


def type_of_variable(name: str) -> str:
    """The type of connection whose property a variable of this name holds, "" if it says none."""
    words = " ".join(AZURE.values()).split()
    if name in words or name.startswith(("AZURE_OPENAI", "AOAI")):
        return AZURE_OPENAI
    return OPENAI if name.startswith("OPENAI_") else ""


def line(name: str) -> str:
    """The line of `.env.example` for a variable, as a comment."""
    word = name.lower()
    if re.search(r"(api_base|endpoint|base_url)$", word):
        azure = type_of_variable(name) == AZURE_OPENAI or word.endswith("api_base")
        return (
            f"#{name}=https://<resource>.openai.azure.com/" if azure else f"#{name}=https://<host>/"
        )
    return f"#{name}=<key>" if "key" in word else f"#{name}=<value>"


def models(names: set[str]) -> list[dict[str, Any]]:
    """The connection for the model that the variables lead to, if they do.

    A flow that reads the variables of Azure OpenAI and of OpenAI takes either: Azure's count.
    """
    azure = {key: _first(words, names) for key, words in AZURE.items()}
    public = {key: _first(words, names) for key, words in PUBLIC.items()}
    if "OPENAI_API_TYPE" in names and public["base_url"] and not azure["api_base"]:
        # The openai package before 1.0 was told of Azure this way.
        azure = {"api_base": public["base_url"], "api_key": public["api_key"], "api_version": ""}
        public = {}
    if azure["api_base"] or azure["api_key"]:
        version = azure["api_version"] or _first("OPENAI_API_VERSION", names)
        entry = {
            "name": "aoai",
            "connection_type": AZURE_OPENAI,
            "api_base": _reference(azure["api_base"] or "api_base"),
            "api_key": _reference(azure["api_key"] or "api_key"),
            "api_type": "azure",
            "api_version": _reference(version) if version else AZURE_API_VERSION,
        }
        return [entry]
    if public.get("api_key"):
        base = {"base_url": _reference(public["base_url"])} if public["base_url"] else {}
        key = _reference(public["api_key"])
        return [{"name": "openai", "connection_type": OPENAI, **base, "api_key": key}]
    return []


def _first(words: str, names: set[str]) -> str:
    return next((word for word in words.split() if word in names), "")


def _reference(name: str) -> str:
    return f"${{{name}}}"


def _of_code(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and _is_environ(node.value):
            yield from _name(node.slice, isinstance(node.ctx, ast.Load))
        elif isinstance(node, ast.Compare) and any(map(_is_environ, node.comparators)):
            yield from _name(node.left, True)
        elif isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    getter = isinstance(node.func, ast.Attribute) and node.func.attr == "get"
    if called in ("os.getenv", "getenv", "environ.get") or (
        getter and isinstance(node.func, ast.Attribute) and _is_environ(node.func.value)
    ):
        yield from _name(node.args[0] if node.args else None, True)
    whole = called.endswith(".from_env")
    wanted = CLIENTS.get(called if whole else called.rpartition(".")[2], {})
    told = {keyword.arg for keyword in node.keywords}
    if not told & ELSEWHERE:
        yield from (name for argument, name in wanted.items() if argument not in told)


def _is_environ(node: ast.expr) -> bool:
    return ast.unparse(node) in ("os.environ", "environ")


def _name(node: ast.expr | None, read: bool) -> Iterator[str]:
    name = code.literal(node)
    if read and isinstance(name, str) and NAME.fullmatch(name):
        yield name


def _texts(flow: Flow) -> set[Path]:
    """The flow's files in which `${env:NAME}` means something."""
    return {*prompties(flow), flow.path} if flow.kind != "python" else {*prompties(flow)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""
