"""The flow standard: one row in, its outputs out."""

from __future__ import annotations

import os
from typing import Any

from chat import messages, quote
from cleansing import cleansing
from once import once
from openai import AzureOpenAI


@once
def aoai() -> AzureOpenAI:
    """The connection aoai."""
    return AzureOpenAI(
        azure_endpoint=os.environ["AOAI_API_BASE"],
        api_version=os.environ.get("AOAI_API_VERSION", "2024-02-01"),
        api_key=os.environ["AOAI_API_KEY"],
        max_retries=0,
    )


NER_LLM: dict[str, dict[str, Any]] = {
    "variant_0": {"prompt": "ner_terse.jinja2"},
    "variant_1": {"prompt": "ner_rules.jinja2"},
}


def ask_ner_llm(text: str, entity_type: str, variant: str) -> str | None:
    """Ask the model of the node NER_LLM."""
    settings = NER_LLM[variant]
    answer = aoai().chat.completions.create(
        model=os.environ.get("AOAI_MODEL", "gpt-35-turbo"),
        messages=messages(settings["prompt"], text=quote(text), entity_type=quote(entity_type)),
        temperature=0,
        top_p=1,
        n=1,
        max_tokens=128,
    )
    return answer.choices[0].message.content


def run(text: str, entity_type: str, *, ner_llm_variant: str = "variant_0") -> dict[str, Any]:
    """One row."""
    ner_llm = ask_ner_llm(text=text, entity_type=entity_type, variant=ner_llm_variant)
    cleansing_output = cleansing(answer=ner_llm)
    return {"entities": cleansing_output}
