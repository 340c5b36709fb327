"""An evaluation whose aggregation asks a model."""

from __future__ import annotations

import os

from openai import AzureOpenAI


def run(text: str) -> dict[str, int]:
    return {"length": len(text)}


def aggregate(rows: list[dict[str, int]]) -> dict[str, float]:
    client = AzureOpenAI(
        azure_endpoint=os.environ["AOAI_API_BASE"],
        api_key=os.environ["AOAI_API_KEY"],
        api_version="2024-02-01",
    )
    question = f"How long is the longest of {rows}?"
    answer = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": question}]
    )
    return {"judged": len(answer.choices[0].message.content or "")}
