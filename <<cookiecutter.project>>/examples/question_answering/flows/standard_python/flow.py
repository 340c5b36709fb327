# ruff: noqa: E712

"""The flow standard: one row in, its outputs out."""

from __future__ import annotations

import os
from typing import Any

from chat import lines, messages, quote
from cite import cite
from connections import AzureOpenAIConnection
from history import history
from once import once
from openai import AzureOpenAI
from retrieve import retrieve
from standalone import standalone


@once
def aoai() -> AzureOpenAI:
    """The connection aoai."""
    return AzureOpenAI(
        azure_endpoint=os.environ["AOAI_API_BASE"],
        api_version=os.environ.get("AOAI_API_VERSION", "2024-02-01"),
        api_key=os.environ["AOAI_API_KEY"],
        max_retries=0,
    )


def ask_rewrite(turns: Any, question: str) -> str | None:
    """Ask the model of the node rewrite."""
    answer = aoai().chat.completions.create(
        model=os.environ.get("AOAI_MODEL", "gpt-4o-mini"),
        messages=messages("rewrite.jinja2", turns=lines(turns), question=quote(question)),
        temperature=0,
        top_p=1,
        n=1,
        max_tokens=128,
    )
    return answer.choices[0].message.content


RETRIEVE_VARIANTS: dict[str, dict[str, Any]] = {
    "hybrid": {"mode": "hybrid", "top_k": 4},
    "hybrid_8": {"mode": "hybrid", "top_k": 8},
    "vector": {"mode": "vector", "top_k": 4},
    "keyword": {"mode": "keyword", "top_k": 4},
}


ANSWER: dict[str, dict[str, Any]] = {
    "cited": {"prompt": "answer_cited.jinja2"},
    "brief": {"prompt": "answer_brief.jinja2"},
}


def ask_answer(question: str, passages: Any, variant: str) -> str | None:
    """Ask the model of the node answer."""
    settings = ANSWER[variant]
    answer = aoai().chat.completions.create(
        model=os.environ.get("AOAI_MODEL", "gpt-4o-mini"),
        messages=messages(settings["prompt"], question=question, passages=lines(passages)),
        temperature=0,
        top_p=1,
        n=1,
        max_tokens=256,
    )
    return answer.choices[0].message.content


def run(
    question: str,
    chat_history: list[Any] | None = None,
    *,
    retrieve_variant: str = "hybrid",
    answer_variant: str = "cited",
) -> dict[str, Any]:
    """One row."""
    if chat_history is None:
        chat_history = []
    rewrite = None
    history_output = history(chat_history=chat_history)
    if history_output["follow_up"] == True:
        rewrite = ask_rewrite(turns=history_output["turns"], question=question)
    standalone_output = standalone(
        question=question, rewritten=rewrite, follow_up=history_output["follow_up"]
    )
    retrieve_output = retrieve(
        connection=AzureOpenAIConnection.from_environment("AOAI"),
        question=standalone_output,
        **RETRIEVE_VARIANTS[retrieve_variant],
    )
    answer_output = ask_answer(
        question=standalone_output, passages=retrieve_output, variant=answer_variant
    )
    cite_output = cite(answer=answer_output, passages=retrieve_output)
    return {
        "answer": answer_output,
        "citations": cite_output["citations"],
        "retrieved": cite_output["retrieved"],
        "passages": cite_output["passages"],
        "standalone_question": standalone_output,
    }
