"""A model asked by the flow's own code, with a connection and a prompt's text."""

from __future__ import annotations

from typing import Any

from chat import lines, text_messages
from openai import AzureOpenAI, OpenAI

SCOPE = "https://cognitiveservices.azure.com/.default"
PARAMETERS = {
    *("model", "temperature", "top_p", "n", "stop", "max_tokens", "seed", "user"),
    *("tools", "tool_choice", "functions", "function_call", "response_format"),
    *("logit_bias", "presence_penalty", "frequency_penalty"),
}


def azure_client(connection: Any) -> AzureOpenAI:
    """A client of an Azure OpenAI resource; without a key it signs in with Microsoft Entra ID."""
    where = {"azure_endpoint": connection.api_base, "api_version": connection.api_version}
    if key := connection.get("api_key"):
        return AzureOpenAI(**where, api_key=key, max_retries=0)
    from azure.identity import DefaultAzureCredential, get_bearer_token_provider

    token = get_bearer_token_provider(DefaultAzureCredential(), SCOPE)
    return AzureOpenAI(**where, azure_ad_token_provider=token, max_retries=0)


def openai_client(connection: Any) -> OpenAI:
    """A client of OpenAI, of what speaks like it, or of a serverless deployment."""
    address = connection.get("base_url") or f"{connection.api_base.removesuffix('/v1')}/v1"
    return OpenAI(
        base_url=address,
        api_key=connection.api_key,
        organization=connection.get("organization"),
        max_retries=0,
    )


def azure_chat(connection: Any, prompt: str, deployment_name: str, **given: Any) -> Any:
    """The answer of an Azure OpenAI deployment."""
    shown = {name: lines(value) for name, value in given.items()}
    client = azure_client(connection)
    return _chat(client, prompt, model=deployment_name, **{"n": 1, **shown})


def openai_chat(connection: Any, prompt: str, model: str = "", **given: Any) -> Any:
    """The answer of an OpenAI model."""
    return _chat(openai_client(connection), prompt, model=model, **given)


def _chat(client: OpenAI, prompt: str, **given: Any) -> Any:
    own = {"temperature": 1.0, "top_p": 1.0, **given}
    sent = {k: v for k, v in own.items() if k in PARAMETERS and v not in (None, "", [], {})}
    values = {k: v for k, v in own.items() if k not in PARAMETERS}
    if "functions" in sent:
        sent.setdefault("function_call", "auto")
    create: Any = client.chat.completions.create
    answer = create(messages=text_messages(prompt, **values), **sent)
    if "functions" in sent or "tools" in sent:
        return answer.model_dump()["choices"][0]["message"]
    return answer.choices[0].message.content
