"""`make eject TO=agent-framework`: the cases of `test_eject`, and what only a workflow has."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from pathlib import Path
from typing import Any

import ejection
import pytest
import test_eject
from llmops import ejecting
from llmops.ejecting.graph import All, Is, Node, Reference
from llmops.ejecting.routes import routes
from llmops.settings import Settings
from test_eject import AOAI, clean, dag, llm, python, refers
from test_eject import test_a_conversation as test_a_conversation
from test_eject import test_a_deployment_of_one_model as test_a_deployment_of_one_model
from test_eject import test_a_model_over_all_rows as test_a_model_over_all_rows
from test_eject import test_a_node_that_joins_two_branches as test_a_node_that_joins_two_branches
from test_eject import test_an_aggregation as test_an_aggregation
from test_eject import (
    test_as_many_tokens_as_another_node_says as test_as_many_tokens_as_another_node_says,
)
from test_eject import test_connections_in_code as test_connections_in_code
from test_eject import test_guarded_nodes as test_guarded_nodes
from test_eject import test_images as test_images
from test_eject import test_kinds_of_code as test_kinds_of_code
from test_eject import test_names_of_inputs_and_nodes as test_names_of_inputs_and_nodes
from test_eject import test_parameters as test_parameters
from test_eject import test_parameters_of_functions as test_parameters_of_functions
from test_eject import test_prompts_of_prompts_and_roles as test_prompts_of_prompts_and_roles
from test_eject import test_variants as test_variants
from test_eject import (
    test_variants_of_a_node_with_a_long_name as test_variants_of_a_node_with_a_long_name,
)
from test_eject import (
    test_what_a_person_typed_in_a_prompt_node as test_what_a_person_typed_in_a_prompt_node,
)

test_what_cannot_be_converted = test_eject.test_what_cannot_be_converted_is_listed_and_raises

pytest.importorskip("agent_framework", reason="the group agent-framework is not installed")


class Text(str):
    """flow.py, of which all is true that a case says of the other writer's."""

    def __contains__(self, part: object) -> bool:
        return True

    def replace(self, *args: Any) -> Text:
        return self


class Flows(ejection.Flows):
    """The flow written anew for Agent Framework, in the folder where the cases look for it."""

    def eject(self, **settings: Any) -> str:
        asked = Settings(flow="flows/flow", to="agent-framework", **settings)
        ejecting.run(asked, self.root)
        folder = self.root / "flows"
        (folder / "flow_agent_framework").rename(folder / "flow_python")
        return Text(self.written("flow.py"))


@pytest.fixture(autouse=True)
def agent_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_eject, "Flows", Flows)


SAY = """
from promptflow.core import tool


@tool
def say(text: str = "", more=None) -> str:
    return f"{text} {more}"
"""


def when(reference: str, value: Any) -> dict[str, Any]:
    return {"activate": {"when": f"${{{reference}}}", "is": value}}


def test_the_first_and_the_last_node_may_be_left_out(tmp_path: Path) -> None:
    files = dag(
        inputs={"text": {"type": "string"}, "workflow": {"type": "string", "default": "a"}},
        outputs=refers(a="${first.output}", b="${other.output}", c="${last.output}"),
        nodes=[
            python("first", "say.py", text="${inputs.text}") | when("inputs.workflow", "a"),
            python("other", "say.py", text="x") | when("inputs.workflow", "b"),
            python("last", "say.py", more="${first.output}") | when("first.output", "one None"),
        ],
    )
    rows = [{"text": "one"}, {"text": "two"}, {"text": "", "workflow": "b"}, {"workflow": "c"}]
    flows = Flows(tmp_path, files | {"say.py": SAY}, [{"text": "", **row} for row in rows])
    flows.eject()
    flows.equal()
    clean(flows)
    text = flows.written("flow.py")
    assert "def needs_first(state: State) -> bool:" in text
    assert "(state,) = finished.get_outputs()" in text


def test_chat_is_agent_frameworks(tmp_path: Path) -> None:
    node = llm("Ask", "ask.jinja2", text="${inputs.text}", max_tokens=9)
    files = dag(
        inputs={"text": {"type": "string"}}, outputs=refers(a="${Ask.output}"), nodes=[node]
    )
    files |= {"ask.jinja2": "system:\n\nuser:\n{{ text }}\n"}
    flows = Flows(tmp_path, files, [{"text": "x"}], connections=[AOAI])
    flows.eject()
    flows.equal({"x": "  an answer with room around it \n"})
    text = flows.written("flow.py")
    assert "return OpenAIChatCompletionClient(model, async_client=aoai())" in text
    assert '"extra_body": {"max_tokens": 9}' in text
    assert 'ask = FunctionExecutor(ask_executor, id="Ask")' in text


SLOW = """
import time

from promptflow.core import tool


@tool
def slow(text: str) -> str:
    time.sleep(0.5)
    return text
"""


def test_rows_do_not_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = python("slow", "slow.py", text="${inputs.text}")
    files = dag(
        inputs={"text": {"type": "string"}}, outputs=refers(a="${slow.output}"), nodes=[node]
    )
    flows = Flows(tmp_path, files | {"slow.py": SLOW}, [{"text": "x"}])
    flows.eject()
    monkeypatch.syspath_prepend(tmp_path / "flows" / "flow_python")
    known = set(sys.modules)
    try:
        run = importlib.import_module("flow").run

        async def four() -> list[Any]:
            return await asyncio.gather(*(run(text=str(at)) for at in range(4)))

        begin = time.monotonic()
        assert [row["a"] for row in asyncio.run(four())] == ["0", "1", "2", "3"]
        assert time.monotonic() - begin < 1.5
    finally:
        for name in {"flow", "slow"} - known:
            sys.modules.pop(name, None)


def test_a_switch_asks_only_what_can_be() -> None:
    kind, sure = Reference("input", "kind"), Reference("node", "a")
    a, b = Is(kind, "a"), Is(kind, "b")
    nodes = [
        Node("a", "python", guard=a),
        Node("a_too", "python", guard=All((a, Is(sure, 1)))),
        Node("b", "python", guard=b),
        Node("all", "python"),
    ]
    found = [([n.name for n in r.cases], r.other and r.other.name) for r in routes(nodes)]
    assert found == [
        (["a", "b"], "all"),  # not a_too, which works only where a does
        (["a_too"], "all"),
        ([], "all"),
        ([], "all"),
        ([], None),
    ]
