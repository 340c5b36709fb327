"""`make parity A=… B=…`: do two implementations of a flow do the same over the same rows?"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llmops.parity import rows, wording
from llmops.parity.document import Cell, Difference, Metric, Parity, Side
from llmops.recordings.calls import asked
from llmops.report import parity as report
from llmops.runs import Row
from llmops.summary import Comparison, Llm
from standin import StandIn
from test_report import Opened
from usecase import AOAI, ASK, ASK_PLAINLY, Outcome, UseCase

Json = dict[str, Any]
KEY = "a-key-of-the-stand-in"
WORDS = [f"word {number}" for number in range(12)]

DAG = """
inputs:
  text: {type: string}
outputs:
  answer: {type: string, reference: "${tidy.output}"}
nodes:
- name: draft
  type: llm
  source: {type: code, path: draft.jinja2}
  inputs: {deployment_name: standin-small, temperature: 0, max_tokens: 20, text: "${inputs.text}"}
  connection: aoai
  api: chat
  use_variants: true
- name: tidy
  type: python
  source: {type: code, path: tidy.py}
  inputs: {text: "${draft.output}"}
node_variants:
  draft:
    default_variant_id: plain
    variants:
      plain:
        node:
          type: llm
          source: {type: code, path: draft.jinja2}
          inputs: {deployment_name: standin-small, temperature: 0, max_tokens: 20,
                   text: "${inputs.text}"}
          connection: aoai
          api: chat
      warm:
        node:
          type: llm
          source: {type: code, path: draft.jinja2}
          inputs: {deployment_name: standin-small, temperature: 0.5, max_tokens: 20,
                   text: "${inputs.text}"}
          connection: aoai
          api: chat
"""
PROMPT = "system:\nSay it again.\nuser:\nThe word is {{text}}.\n"
TIDY = (
    "from promptflow.core import tool\n\n\n@tool\ndef tidy(text: str):\n    return text.upper()\n"
)

CLIENT = """
import os
import random

from openai import AsyncAzureOpenAI, AzureOpenAI

ADDRESS = {"azure_endpoint": os.environ["AOAI_API_BASE"], "api_key": os.environ["AOAI_API_KEY"],
           "api_version": "2024-02-01", "max_retries": 0}
client = AzureOpenAI(**ADDRESS)


def ask(text, system="Say it again.", **settings):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    given = {"temperature": 0, "top_p": 1.0, "n": 1, "max_tokens": 20, **settings}
    answer = client.chat.completions.create(model="standin-small", messages=messages, **given)
    return answer.choices[0].message.content

"""
PYTHON = """

def run(text, *, Draft_variant="plain"):
    warm = 0.5 if Draft_variant == "warm" else 0
    return {"answer": ask(f"The word is {text}.", temperature=warm).upper()}
"""
COMPARE = """
def run(answer, truth):
    return {"match": float(truth in answer.lower())}
"""


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    """Twelve rows, a flow A that asks a model, and an evaluator."""
    use = UseCase(tmp_path)
    use.rows([{"text": word, "truth": word} for word in WORDS])
    use.write("flows/evaluation/flow.py", COMPARE)
    use.configure(connections=[AOAI], limits={"timeout_s": 20, "retries": 0})
    return use


def flow(use: UseCase, name: str, code: str) -> None:
    """A plain Python flow."""
    use.write(f"flows/{name}/flow.py", CLIENT + code)


def dag(use: UseCase, prompt: str = PROMPT) -> None:
    """A prompt flow that is flow A."""
    use.write("flows/a/flow.dag.yaml", DAG)
    use.write("flows/a/draft.jinja2", prompt)
    use.write("flows/a/tidy.py", TIDY)


def parity(use: UseCase, url: str = "", **variables: str) -> Outcome:
    """Run the task; `url` is that of a model."""
    live = {"AOAI_API_BASE": url, "AOAI_API_KEY": KEY} if url else {}
    return use.run("parity", **({"A": "flows/a", "B": "flows/b"} | live | variables))


def document(use: UseCase) -> Json:
    """reports/parity.json."""
    found: Json = json.loads((use.folder / "reports/parity.json").read_text())
    return found


def told(use: UseCase, outcome: Outcome, verdict: str) -> Json:
    """The document of a run that came to this verdict."""
    assert "Traceback" not in outcome.text
    assert f"\n{verdict}: " in outcome.out, outcome.text
    assert outcome.code == (0 if verdict in ("equal", "equivalent") else 2)
    found = document(use)
    assert found["verdict"] == verdict
    assert verdict.capitalize() in (use.folder / "reports/parity.html").read_text()
    return found


def margin(use: UseCase, size: float | None = 0.05) -> None:
    """Give the evaluator's metric a margin."""
    evaluator = use.blocks["evaluators"][0]
    use.configure(evaluators=[evaluator | ({"margin": {"match": size}} if size else {})])


# --- level 1 -------------------------------------------------------------------------------------


def test_a_dag_and_the_same_in_python(use: UseCase) -> None:
    dag(use)
    flow(use, "b", PYTHON)
    with StandIn() as model:
        found = told(use, parity(use, model.url), "equal")
        assert model.requests == 12, "B, and A the second time, get A's answers"
        assert "x-llmops-noted" not in model.last["headers"]
        cell = found["cells"][0]
        assert (cell["requests_a"], cell["requests_b"], cell["same_requests"]) == (12, 12, 12)
        assert found["level"] == 1 and found["metrics"] == []
        assert found["a"]["kind"] == "dag" and found["b"]["kind"] == "python"
        assert len(found["a"]["hashes"]["default"]) == len(found["b"]["hashes"]["default"]) == 64
        assert parity(use, model.url).code == 0
        assert model.requests == 12, "nor is it asked by a later run"
        assert parity(use, model.url, FRESH="1").code == 0
        assert model.requests == 24
    assert not [path for path in use.files() if KEY in path.read_text(errors="replace")]


def test_variants_become_parameters(use: UseCase) -> None:
    dag(use)
    flow(use, "b", PYTHON)
    with StandIn() as model:
        found = told(use, parity(use, model.url, VARIANTS="all"), "equal")
    assert [cell["variant"] for cell in found["cells"]] == ["default", "draft.warm"]
    assert found["a"]["hashes"].keys() == {"default", "draft.warm"}
    assert found["b"]["hashes"].keys() == {"default", "draft.warm"}


def test_the_new_flow_with_its_variants_is_the_experiments_already(use: UseCase) -> None:
    dag(use)
    flow(use, "b", PYTHON)
    use.configure(flow="flows/b", parameters={"Draft_variant": ["warm", "plain"]})
    with StandIn() as model:
        told(use, parity(use, model.url), "equal")
        told(use, parity(use, model.url, VARIANTS="all"), "equal")


def test_an_async_flow_that_asks_in_another_order(use: UseCase) -> None:
    both = 'def run(text):\n    return {"answer": ask(text) + ask(f"And {text}?")}\n'
    later = """
import asyncio

later = AsyncAzureOpenAI(**ADDRESS)


async def ask_later(text, wait):
    await asyncio.sleep(wait)
    system = {"content": "Say it again.", "role": "system"}
    answer = await later.chat.completions.create(
        messages=[system, {"role": "user", "content": text}],
        n=1, temperature=0.0, top_p=1, max_tokens=20, seed=None, model="standin-small")
    return answer.choices[0].message.content


async def run(text):
    both = await asyncio.gather(ask_later(text, 0.05), ask_later(f"And {text}?", 0))
    return {"answer": "".join(both)}
"""
    flow(use, "a", both)
    flow(use, "b", later)
    with StandIn() as model:
        found = told(use, parity(use, model.url), "equal")
    assert found["cells"][0]["requests_a"] == found["cells"][0]["requests_b"] == 24


def test_flows_that_ask_no_model(use: UseCase) -> None:
    use.write("flows/a/flow.py", 'def run(text):\n    return {"answer": text, "_n": 1}\n')
    use.write("flows/b/flow.py", 'def run(text):\n    return {"answer": "".join(text), "_n": 2}\n')
    outcome = parity(use)
    found = told(use, outcome, "equal")
    assert "no request to a model was seen" in outcome.out
    assert found["cells"][0]["same_outputs"] == 12


def test_a_random_answer_of_the_model_is_the_same_for_both(use: UseCase) -> None:
    flow(use, "a", PYTHON)
    flow(use, "b", PYTHON.replace("warm = ", "hot = warm = "))
    with StandIn(answers=[{"when": [], "answer": [str(n) for n in range(100)]}]) as model:
        told(use, parity(use, model.url), "equal")


def test_two_functions_of_one_file_that_stream(use: UseCase) -> None:
    streams = """

def one(text):
    return {"answer": ask(text)}


def two(text):
    messages = [{"role": "system", "content": "Say it again."}, {"role": "user", "content": text}]
    pieces = client.chat.completions.create(
        model="standin-small", messages=messages, stream=True, temperature=0, top_p=1, n=1,
        max_tokens=20)
    return {"answer": "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)}
"""
    flow(use, "a", streams)
    with StandIn() as model:
        for a, b in (("one", "two"), ("two", "one")):
            of = {"A": f"flows/a/flow.py:{a}", "B": f"flows/a/flow.py:{b}", "FRESH": "1"}
            told(use, parity(use, model.url, **of), "equal")
        assert model.requests == 24


def test_an_agent_framework_flow(use: UseCase) -> None:
    pytest.importorskip("agent_framework.openai")
    dag(use)
    use.write(
        "flows/b/flow.py",
        """
import os
from functools import cache

from agent_framework import Message
from agent_framework.openai import OpenAIChatCompletionClient


@cache
def client():
    return OpenAIChatCompletionClient(
        "standin-small", azure_endpoint=os.environ["AOAI_API_BASE"],
        api_key=os.environ["AOAI_API_KEY"], api_version="2024-02-01")


async def run(text):
    messages = [Message("system", ["Say it again."]), Message("user", [f"The word is {text}."])]
    options = {"temperature": 0, "top_p": 1, "n": 1, "extra_body": {"max_tokens": 20}}
    return {"answer": (await client().get_response(messages, options=options)).text.upper()}
""",
    )
    with StandIn() as model:
        told(use, parity(use, model.url), "equal")


def test_rows_that_ask_the_same_at_once(use: UseCase) -> None:
    use.rows([{"text": "same", "truth": "same"}] * 12)
    flow(use, "a", PYTHON)
    flow(use, "b", PYTHON.replace("warm", "hot"))
    with StandIn(delay=0.3, answers=[{"when": [], "answer": [str(n) for n in range(9)]}]) as model:
        told(use, parity(use, model.url), "equal")
        assert model.requests == 1


def test_recordings_answer_both(use: UseCase) -> None:
    dag(use)
    flow(use, "b", PYTHON)
    flow(use, "c", PYTHON.replace("The word is", "A word is"))
    use.configure(flow="flows/a")
    with StandIn() as model:
        assert use.run("record", AOAI_API_BASE=model.url, AOAI_API_KEY=KEY).code == 0
    found = told(use, parity(use), "equal")
    assert found["llm"]["mode"] == "replay"
    outcome = parity(use, B="flows/c")
    found = told(use, outcome, "inconclusive")
    assert found["cells"][0]["unanswered"] == 12
    assert "12 rows had no answer of the model" in outcome.out
    assert "+message 2 (user): A word is word 0." in outcome.out
    assert "make record" in outcome.out


# --- level 2 -------------------------------------------------------------------------------------


def test_a_word_of_the_prompt_that_changes_no_score(use: UseCase) -> None:
    dag(use)
    flow(use, "b", PYTHON.replace("The word is", "This word is"))
    with StandIn() as model:
        found = told(use, parity(use, model.url), "equivalent")
        assert model.requests == 24
    assert found["level"] == 2
    metric = found["metrics"][0]
    assert (metric["verdict"], metric["comparison"]["ties"]) == ("not worse", 12)
    shown = [one for one in found["differences"] if one["what"] == "requests"]
    assert len(shown) == 5
    assert shown[0]["lines"] == [
        "-message 2 (user): The word is word 0.",
        "+message 2 (user): This word is word 0.",
    ]
    page = (use.folder / "reports/parity.html").read_text()
    assert '<span class="new">+message 2 (user): This word is word 0.</span>' in page
    assert "+message 2 (user): This word" in (use.folder / "reports/parity.md").read_text()


@pytest.mark.parametrize(
    ("size", "verdict"), [(None, "different"), (0.1, "different"), (0.95, "equivalent")]
)
def test_a_word_of_the_prompt_that_costs(use: UseCase, size: float | None, verdict: str) -> None:
    dag(use)
    flow(use, "b", PYTHON.replace("{text}.", "{text if text < 'word 3' else '?'}."))
    margin(use, size)
    with StandIn() as model:
        found = told(use, parity(use, model.url), verdict)
    metric = found["metrics"][0]
    assert metric["comparison"]["losses"] == 7
    assert metric["margin"] == size


def test_few_changed_rows_do_not_tell(use: UseCase) -> None:
    dag(use)
    flow(use, "b", PYTHON.replace("{text}.", "{text if text > 'word 1' else '?'}."))
    with StandIn() as model:
        outcome = parity(use, model.url)
    found = told(use, outcome, "inconclusive")
    assert found["metrics"][0]["verdict"] == "inconclusive"
    assert "Set `margin`" in outcome.out


def test_a_parameter_that_changes_no_result(use: UseCase) -> None:
    dag(use)
    flow(use, "b", PYTHON.replace("else 0", "else 0.7"))
    with StandIn() as model:
        outcome = parity(use, model.url)
    found = told(use, outcome, "equivalent")
    assert "The same results on all 12 rows." in outcome.out
    assert found["differences"][0]["lines"] == ["-temperature: 0", "+temperature: 0.7"]
    assert found["metrics"] == [], "nothing is scored where all results are the same"


def test_the_same_requests_and_another_result(use: UseCase) -> None:
    flow(use, "a", PYTHON)
    flow(use, "b", PYTHON.replace(".upper()", ".lower()"))
    use.configure(evaluators=[])
    with StandIn() as model:
        outcome = parity(use, model.url)
    found = told(use, outcome, "different")
    assert "12 rows have other results, and no evaluator scores them" in outcome.out
    assert found["cells"][0]["same_requests"] == 12
    assert found["differences"][0]["what"] == "outputs"


def test_an_output_of_another_name(use: UseCase) -> None:
    flow(use, "a", PYTHON)
    flow(use, "b", PYTHON.replace('{"answer"', '{"more": 1, "answer"'))
    with StandIn() as model:
        found = told(use, parity(use, model.url), "equivalent")
    assert found["differences"][0]["lines"] == ["+more: 1"]


def test_too_few_rows(use: UseCase) -> None:
    flow(use, "a", PYTHON)
    flow(use, "b", PYTHON.replace("else 0", "else 0.7"))
    use.rows([{"text": word, "truth": word} for word in WORDS[:5]])
    with StandIn() as model:
        outcome = parity(use, model.url)
    told(use, outcome, "inconclusive")
    assert "too few" in outcome.out


def test_a_judge_takes_part_if_asked(use: UseCase) -> None:
    dag(use)
    flow(use, "b", PYTHON.replace("The word is", "This word is"))
    use.write("rubric.md", "It is there.")
    use.rows([{"answer": w, "truth": w, "match": 1.0} for w in WORDS], "data/labels.jsonl")
    judge = {
        "rubric": "rubric.md",
        "labels": "data/labels.jsonl",
        "mappings": {"answer": "${data.answer}", "truth": "${data.truth}"},
        "scores": {"match": "${data.match}"},
    }
    use.configure(evaluators=[use.blocks["evaluators"][0] | {"judge": judge}])
    with StandIn() as model:
        outcome = parity(use, model.url)
        assert told(use, outcome, "different")["metrics"] == []
        assert "Not asked: evaluation, which is a judge. JUDGE=1 asks it." in outcome.out
        found = told(use, parity(use, model.url, JUDGE="1"), "inconclusive")
    assert found["metrics"][0]["verdict"] == "inconclusive"
    assert "whether the judge agrees with people" in found["metrics"][0]["sentence"]


# --- chance and failure --------------------------------------------------------------------------


def test_a_random_flow(use: UseCase) -> None:
    chance = 'def run(text):\n    return {"answer": ask(f"{text} {random.random()}")[:1]}\n'
    flow(use, "a", chance)
    flow(use, "b", chance)
    use.configure(evaluators=[])
    with StandIn() as model:
        outcome = parity(use, model.url)
    found = told(use, outcome, "inconclusive")
    assert found["cells"][0]["random"] == 12
    assert "A is random: run twice, 12 of 12 rows" in outcome.out


def test_a_random_flow_that_scores_the_same(use: UseCase) -> None:
    chance = 'def run(text):\n    return {"answer": ask(f"{text} {random.random()}")}\n'
    flow(use, "a", chance)
    flow(use, "b", chance)
    with StandIn() as model:
        found = told(use, parity(use, model.url), "equivalent")
    assert found["level"] == 2 and found["cells"][0]["random"] == 12


FAILS = """
def run(text):
    if text == "word 3":
        raise ValueError(f"no {text}")
    return {"answer": ask(text)}
"""


def test_a_row_that_fails_in_both(use: UseCase) -> None:
    flow(use, "a", FAILS)
    flow(use, "b", FAILS.replace("if text ==", "if 'word 3' ==").replace('== "word 3"', "== text"))
    with StandIn() as model:
        outcome = parity(use, model.url)
    found = told(use, outcome, "equal")
    assert found["cells"][0]["failed_same"] == 1
    assert "1 row failed in both in the same way" in outcome.out


@pytest.mark.parametrize(
    ("change", "count", "verdict", "words"),
    [
        (("flow b", "ValueError", "KeyError"), "failed_otherwise", "equivalent", "not in the same"),
        (("flow b", '"word 3"', '"word 33"'), "only_a", "inconclusive", "failed in A alone"),
        (("flow a", '"word 3"', '"word 33"'), "only_b", "different", "B fails on 1 row"),
    ],
)
def test_a_row_that_fails_in_one(
    use: UseCase, change: tuple[str, str, str], count: str, verdict: str, words: str
) -> None:
    for name in ("a", "b"):
        flow(use, name, FAILS.replace(*change[1:]) if change[0].endswith(name) else FAILS)
    with StandIn() as model:
        outcome = parity(use, model.url)
    assert document(use)["cells"][0][count] == 1
    told(use, outcome, verdict)
    assert words in outcome.out


def test_every_row_fails(use: UseCase) -> None:
    for name in ("a", "b"):
        use.write(f"flows/{name}/flow.py", 'def run(text):\n    raise ValueError("no")\n')
    told(use, parity(use), "inconclusive")


def test_requests_past_the_client(use: UseCase) -> None:
    use.write("flows/a/flow.py", ASK)
    use.write("flows/b/flow.py", ASK_PLAINLY.replace("/v1/", "/openai/v1/"))
    with StandIn() as model:
        outcome = parity(use, model.url)
    found = told(use, outcome, "equivalent")
    assert found["cells"][0]["unseen"] is True
    assert "level 1 cannot be claimed" in outcome.out


# --- what a person must put right ----------------------------------------------------------------


@pytest.fixture
def plain(use: UseCase) -> UseCase:
    """Two flows without a model."""
    use.write("flows/a/flow.py", 'def run(text):\n    return {"answer": text}\n')
    use.write("flows/b/flow.py", 'def run(text):\n    return {"answer": text}\n')
    return use


def test_a_name_that_is_missing(plain: UseCase) -> None:
    parity(plain, A="").refused("A: unset", "make parity A=flows/standard B=")
    parity(plain, B=" ").refused("B: unset")
    parity(plain, B="flows/gone").refused("B: 'flows/gone' is not there", "flows/b")
    parity(plain, B="./flows/a/").refused("the same flow as A")
    parity(plain, TARGET="azure").refused("TARGET")
    assert not (plain.folder / "reports/parity.json").exists()


def test_an_input_that_is_missing(plain: UseCase) -> None:
    plain.write("flows/b/flow.py", 'def run(word):\n    return {"answer": word}\n')
    parity(plain).refused("B: flows/b/flow.py has no input 'text'", "'words'", "word")


def test_an_input_that_the_data_lacks(plain: UseCase) -> None:
    plain.write("flows/b/flow.py", 'def run(text, tone):\n    return {"answer": text}\n')
    parity(plain).refused("nothing maps the input 'tone' of flows/b/flow.py")


def test_a_variant_that_is_missing(use: UseCase) -> None:
    dag(use)
    flow(use, "b", PYTHON.replace(', *, Draft_variant="plain"', "").replace("Draft_variant", "1"))
    parity(use, VARIANTS="draft.warm").refused("VARIANTS", "no parameter 'draft_variant'", "text")


def test_no_datasets(plain: UseCase) -> None:
    evaluator = {"name": "evaluation", "flow": "flows/evaluation"}
    log = {"name": "log", "source": "data/words.jsonl"}
    mappings = {"answer": "${data.text}", "truth": "${data.truth}"}
    plain.configure(
        datasets=[], evaluators=[evaluator | {"datasets": [log | {"mappings": mappings}]}]
    )
    parity(plain).refused("has no datasets")


def test_other_tasks_do_not_read_the_letters(plain: UseCase) -> None:
    plain.configure(flow="flows/a", connections=[])
    assert plain.run("experiment", A="nothing", B="nothing").code == 0
    assert not [row for row in plain.finished() if "requests" in row], "ordinary runs keep none"


# --- the page ------------------------------------------------------------------------------------

HOSTILE = "</pre><script>window.hacked=1</script><img src=x onerror='window.hacked=2'>```"


def found_parity(**changed: Any) -> Parity:
    """A parity with everything that a page may show."""
    pair = Comparison(
        dataset="words", evaluator="evaluation", metric="a_metric_with_quite_a_long_name",
        baseline="A", candidate="B", baseline_value=0.9, candidate_value=0.5, difference=-0.4,
        ci95=(-0.6, -0.2), verdict="worse", sentence="It fell.",
    )  # fmt: skip
    metric = Metric(
        variant=HOSTILE, comparison=pair, margin=0.05, verdict="worse", sentence=HOSTILE
    )
    difference = {"variant": "default", "dataset": "words", "row": 3}
    lines = ("@@ message 1 (system) @@", f"-{HOSTILE}", f"+{'w' * 390}", " same")
    facts: Json = {
        "experiment": HOSTILE,
        "env": "dev",
        "a": Side(flow="flows/standard", kind="dag", hashes={"default": "a", "other": "x"}),
        "b": Side(flow="flows/standard_python", kind="python", hashes={"default": "b"}),
        "verdict": "different",
        "level": 2,
        "sentence": HOSTILE,
        "reasons": ("1 of 12 rows ask the model for something else.",),
        "llm": Llm(mode="live", calls=36),
        "started_at": "2026-11-20T20:00:00+00:00",
        "seconds": 3.5,
        "cells": (Cell(variant="default", dataset="words", rows=12, requests_a=12, random=2),),
        "metrics": (metric,),
        "differences": tuple(
            Difference(**difference, what=what, lines=lines) for what in ("requests", "outputs")
        ),
    }
    return Parity(**(facts | changed))


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report.write(found_parity()) == Path("reports/parity.html")
    with Opened(browser, "parity.html", viewport={"width": width, "height": 740}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0
        assert page.locator(".outcome").inner_text().startswith("Different")
        assert page.locator("#requests .diff .gone").inner_text() == f"-{HOSTILE}"
        assert page.locator("#outputs article").count() == 1
        assert page.locator("#metrics .verdict").inner_text() == "Worse"
        assert "2 random in A" in page.locator("#rows").inner_text()


def test_the_page_says_nothing_where_nothing_differs(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report.write(found_parity(verdict="equal", metrics=(), differences=()))
    with Opened(browser, "parity.html") as page:
        assert page.locator("section").count() == 2


def test_the_markdown_is_inert() -> None:
    text = "\n".join(report._markdown(found_parity()))
    head, _, blocks = text.partition("````diff")
    assert "<script" not in head and "<img" not in head
    assert blocks.count("````") == 3, "a fence that what it holds cannot end"


def test_which_flows_it_is_about() -> None:
    found = found_parity(verdict="equivalent")
    assert found.holds and found.is_about("a", "b")
    assert not found.is_about("a", "a") and not found.is_about("x", "b")
    assert not found_parity().holds


# --- pure parts ----------------------------------------------------------------------------------

VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 0.5, "x", "y"])
REQUESTS = st.lists(
    st.fixed_dictionaries(
        {
            "path": st.sampled_from(["/chat/completions", "/embeddings"]),
            "request": st.dictionaries(st.sampled_from("abcde"), VALUES, max_size=4),
        }
    ),
    max_size=5,
)


QUICKLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pair(a: list[Json], b: list[Json]) -> rows.Pair:
    return rows.Pair(Row(0, {}, {}, requests=a), Row(0, {}, {}, requests=b))


@QUICKLY
@given(REQUESTS, st.integers(0, 4))
def test_order_and_spelling_do_not_matter(requests: list[Json], turn: int) -> None:
    other = [
        {
            "path": one["path"],
            "request": dict(reversed([*one["request"].items(), ("stream", True), ("z", None)])),
        }
        for one in requests
    ]
    other = [*other[turn:], *other[:turn]]
    assert pair(requests, other).same_requests
    assert rows.unmatched(pair(requests, other)) == ([], [])


@QUICKLY
@given(REQUESTS, REQUESTS)
def test_requests_are_a_multiset(a: list[Json], b: list[Json]) -> None:
    left = rows.unmatched(pair(a, b))
    assert pair(a, b).same_requests == (left == ([], []))
    assert rows.bag(a) - rows.bag(left[0]) == rows.bag(b) - rows.bag(left[1])
    assert not rows.bag(left[0]) & rows.bag(left[1])
    extra = [*a, {"path": "/x", "request": {}}]
    assert not pair(a, extra).same_requests and not pair([*extra, extra[-1]], extra).same_requests
    if not pair(a, b).same_requests:
        assert wording.requests(*left)
    assert sum(map(len, left)) <= len(a) + len(b) and Counter(rows.bag(a)).total() == len(a)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"n": 1}, {"n": 1.0}, True),
        ({"n": 1}, {"n": True}, False),
        ({"n": None}, {}, False),
        ({"a": [1, {"b": 2.0}], "c": "x"}, {"c": "x", "a": [1.0, {"b": 2}]}, True),
        ({"a": "x ", "_only": 1}, {"a": "x "}, True),
        ({"a": "x "}, {"a": "x"}, False),
    ],
)
def test_equal_outputs(one: Json, other: Json, same: bool) -> None:
    assert rows.Pair(Row(0, {}, one), Row(0, {}, other)).same_outputs == same


@pytest.mark.parametrize(
    ("path", "name", "model"),
    [
        ("/openai/deployments/gpt/chat/completions", "/chat/completions", "gpt"),
        ("/aoai/0/openai/deployments/gpt/chat/completions", "/chat/completions", "gpt"),
        ("/aoai/0/v1/chat/completions", "/chat/completions", "m"),
        ("/openai/0/v1/responses", "/responses", "m"),
        ("/v1/embeddings", "/embeddings", "m"),
        ("/proxy/team/openai/v1/responses", "/responses", "m"),
        ("/openai/responses", "/responses", "m"),
        ("/somewhere/else", "/somewhere/else", "m"),
    ],
)
def test_a_request_to_any_address(path: str, name: str, model: str) -> None:
    assert asked("POST", path, b'{"model": "m"}') == {"path": name, "request": {"model": model}}


def test_a_long_text_is_shown_where_it_changes() -> None:
    long = "x" * 900
    one, other = (
        {"path": "/x", "request": {"prompt": f"{long} {word} end"}} for word in ("a", "b")
    )
    minus, plus = wording.requests([one], [other])
    assert minus.endswith(" a end") and plus.endswith(" b end")
    assert max(map(len, (minus, plus))) <= wording.LONGEST
