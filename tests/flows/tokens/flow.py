"""Calls a model in every way that has tokens, and gives back what the answer says of them."""

from __future__ import annotations

import os
from typing import Any

from openai import AsyncAzureOpenAI, AzureOpenAI

MESSAGES: Any = [{"role": "user", "content": "Count the tokens of this text, please."}]
SETTINGS = {
    "azure_endpoint": os.environ["AOAI_API_BASE"],
    "api_key": os.environ["AOAI_API_KEY"],
    "api_version": "2024-02-01",
}
client = AzureOpenAI(**SETTINGS)


async def run(way: str) -> dict[str, Any]:
    usage = await WAYS[way]()
    return {"prompt": usage.prompt_tokens, "completion": getattr(usage, "completion_tokens", 0)}


async def chat() -> Any:
    return client.chat.completions.create(model="m", messages=MESSAGES).usage


async def streamed() -> Any:
    options: Any = {"include_usage": True}
    chunks = client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, stream_options=options
    )
    return [chunk.usage for chunk in chunks if chunk.usage][-1]


async def chat_async() -> Any:
    async with AsyncAzureOpenAI(**SETTINGS) as other:
        return (await other.chat.completions.create(model="m", messages=MESSAGES)).usage


async def streamed_async() -> Any:
    options: Any = {"include_usage": True}
    async with AsyncAzureOpenAI(**SETTINGS) as other:
        chunks = await other.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options=options
        )
        return [chunk.usage async for chunk in chunks if chunk.usage][-1]


async def embedding() -> Any:
    return client.embeddings.create(model="m", input=["a text", "another text"]).usage


async def parsed() -> Any:
    return client.chat.completions.parse(model="m", messages=MESSAGES).usage


async def twice() -> Any:
    usage = await chat()
    more = await chat()
    usage.prompt_tokens += more.prompt_tokens
    usage.completion_tokens += more.completion_tokens
    return usage


WAYS = {
    "chat": chat,
    "streamed": streamed,
    "chat_async": chat_async,
    "streamed_async": streamed_async,
    "embedding": embedding,
    "parsed": parsed,
    "twice": twice,
}
