"""A workflow of Microsoft Agent Framework: it sorts a letter, and answers one that complains.

Executors and workflow are made for each row: a workflow runs one row at a time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from agent_framework import FunctionExecutor, Message, Workflow, WorkflowBuilder, WorkflowContext
from agent_framework.openai import OpenAIChatCompletionClient


@dataclass(frozen=True)
class Letter:
    """A letter on its way through the workflow."""

    text: str
    label: str = ""


@cache
def client() -> OpenAIChatCompletionClient:
    """The connection aoai."""
    return OpenAIChatCompletionClient(
        "standin-small",
        azure_endpoint=os.environ["AOAI_API_BASE"],
        api_key=os.environ["AOAI_API_KEY"],
        api_version="2024-02-01",
    )


async def ask(prompt: str) -> str:
    """The model's answer."""
    options = {"temperature": 0, "top_p": 1, "n": 1, "extra_body": {"max_tokens": 64}}
    answer = await client().get_response([Message("user", [prompt])], options=options)
    return answer.text


async def classify(letter: Letter, context: WorkflowContext[Letter]) -> None:
    """Sort it."""
    label = await ask(f"Is this a complaint or praise? {letter.text}")
    await context.send_message(replace(letter, label=label))


async def clean(letter: Letter, context: WorkflowContext[Letter, dict[str, Any]]) -> None:
    """Read the answer; praise needs no reply."""
    letter = replace(letter, label=letter.label.strip().lower())
    await context.send_message(letter)
    if letter.label != "complaint":
        await context.yield_output({"label": letter.label, "reply": None})


async def reply(letter: Letter, context: WorkflowContext[Any, dict[str, Any]]) -> None:
    """Answer a complaint."""
    text = await ask(f"Reply to: {letter.text}")
    await context.yield_output({"label": letter.label, "reply": text})


def workflow() -> Workflow:
    """The way of one letter."""
    first, second, third = (FunctionExecutor(f, id=f.__name__) for f in (classify, clean, reply))
    built = WorkflowBuilder(start_executor=first).add_edge(first, second)
    return built.add_edge(
        second, third, condition=lambda letter: letter.label == "complaint"
    ).build()


async def run(text: str) -> dict[str, Any]:
    """One row."""
    (outputs,) = (await workflow().run(Letter(text))).get_outputs()
    return {**outputs, "_length": len(text)}


def aggregate(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The share of complaints, and the mean length of letters."""
    complaints = sum(row["label"] == "complaint" for row in rows)
    length = sum(row["_length"] for row in rows)
    return {"complaints": complaints / len(rows), "length": length / len(rows)}
