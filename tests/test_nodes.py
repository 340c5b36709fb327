"""What `make validate` says of a DAG's nodes before anything of the flow is imported or called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llmops import flows, nodes, validate
from llmops.errors import UserError
from usecase import UseCase

Json = dict[str, Any]

COUNT = """
from promptflow.core import tool


@tool
def count(text: str, at_most: int = 10, loud: bool = False):
    return min(len(text), at_most)
"""
LINKED = """
from typing import Optional, Union

from promptflow.connections import AzureOpenAIConnection, CustomConnection
from promptflow.core import tool


@tool
def ask(text: str, link: Union[AzureOpenAIConnection, CustomConnection], words: list = None):
    return text
"""


def dag(*listed: Json, **more: Any) -> str:
    document = {
        "inputs": {"text": {"type": "string"}},
        "outputs": {"size": {"type": "int", "reference": f"${{{listed[0]['name']}.output}}"}},
        "nodes": list(listed),
        **more,
    }
    return json.dumps(document)


def python(name: str = "count", path: str = "count.py", **inputs: Any) -> Json:
    source = {"type": "code", "path": path}
    return {"name": name, "type": "python", "source": source, "inputs": inputs}


def told(folder: Path, files: dict[str, str], **connections: str) -> list[str]:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return list(nodes.problems(flows.describe(str(folder)), connections))


def one(folder: Path, node: Json, code: str = COUNT, **connections: str) -> str:
    (problem,) = told(folder, {"flow.dag.yaml": dag(node), "count.py": code}, **connections)
    return problem


TEXT = {"text": "${inputs.text}"}


@pytest.mark.parametrize(
    ("node", "code", "parts"),
    [
        (python(path="cuont.py", **TEXT), COUNT, ("'cuont.py' is not there", "count.py")),
        (
            python(**TEXT),
            "def count(text):\n    return 1\n",
            ("count.py: ", "no function", "count"),
        ),
        (python(**TEXT), COUNT + COUNT.replace("count", "add"), ("2 functions", "add, count")),
        (python(**TEXT), "def count(text:\n", ("count.py: node 'count': line 1: not Python",)),
        (python(at_most=3), COUNT, ("'count' of count.py needs the input 'text'",)),
        (python(text=""), COUNT, ("needs the input 'text'",)),  # prompt flow drops it
        (python(**TEXT, color="red"), COUNT, ("inputs.color", "no such input", "text, at_most")),
        (python(**TEXT, at_most="ten"), COUNT, ("inputs.at_most: 'ten' is no int",)),
        (python(**TEXT, loud=1), COUNT, ("inputs.loud: 1 is no bool",)),
        (python(text="${inputs.test}"), COUNT, ("inputs.text: '${inputs.test}'", "inputs: text")),
        (python(text="${contu.output}"), COUNT, ("refers to no node", "nodes: count")),
        (python(text="${count.result}"), COUNT, ("has only an output", "${count.output}")),
        (python(**TEXT) | {"activate": {"when": "${flow.on}", "is": True}}, COUNT, ("activate",)),
        (python(**TEXT) | {"type": "csharp"}, COUNT, ("type 'csharp'", "python")),
        (python(**TEXT) | {"source": None}, COUNT, ("has no source",)),
        (python(**TEXT, link="azure"), LINKED, ("inputs.link", "'azure'", "connections: none")),
        (python(**TEXT), LINKED, ("needs the input 'link'",)),
    ],
)
def test_what_is_certain_to_fail_is_refused(
    node: Json, code: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    problem = one(tmp_path, node, code)
    assert "\n" not in problem
    assert problem.startswith(str(tmp_path))
    assert all(part in problem for part in ("node 'count'", *parts)), problem


def test_an_llm_node_without_a_connection_takes_the_only_one(tmp_path: Path) -> None:
    node = {"name": "ask", "type": "llm", "source": {"type": "code", "path": "ask.jinja2"}}
    files = {"flow.dag.yaml": dag(node | {"inputs": {}, "api": "chat"}), "ask.jinja2": "user:\nhi"}
    assert told(tmp_path, files, a="OpenAIConnection", b="CustomConnection") == []
    (none,) = told(tmp_path, files, b="CustomConnection")
    (two,) = told(tmp_path, files, a="OpenAIConnection", b="AzureOpenAIConnection")
    assert "node 'ask': connection: none" in none
    assert "(a, b)" in two


def test_a_missing_output_reference_and_prompt_are_told(tmp_path: Path) -> None:
    node = {"name": "ask", "type": "prompt", "source": {"type": "code", "path": "x/ask.jinja2"}}
    outputs = {"o": {"type": "string", "reference": "${aks.output}"}}
    problems = told(tmp_path, {"flow.dag.yaml": dag(node, outputs=outputs)})
    assert "node 'ask': source.path: 'x/ask.jinja2' is not there" in problems[0]
    assert "outputs.o: '${aks.output}' refers to no node" in problems[1]


def test_every_variant_is_looked_at(tmp_path: Path) -> None:
    block = {"default_variant_id": "a", "variants": {}}
    for variant, value in (("a", 3), ("b", "many")):
        node = {k: v for k, v in python(**TEXT, at_most=value).items() if k != "name"}
        block["variants"][variant] = {"node": node}  # type: ignore[index]
    document = dag({"name": "count", "use_variants": True}, node_variants={"count": block})
    (problem,) = told(tmp_path, {"flow.dag.yaml": document, "count.py": COUNT})
    assert "'many' is no int" in problem


@pytest.mark.parametrize(
    "code",
    [
        "import promptflow\n@promptflow.tool\ndef f(text):\n    return text\n",
        "from promptflow.core import tool as t\n@t\nasync def f(text):\n    return text\n",
        "from promptflow import tool, trace\n@tool(name='a')\n@trace\ndef f(text): return text\n",
        "from promptflow import tool\nfrom x import own\n@own\n@tool\ndef f(): pass\n",
        "from promptflow import tool\ndef g(text): pass\nf = tool(g)\n",
        "from helpers import *\n",
        "from promptflow import tool\ntry:\n    import x\nexcept ImportError:\n    x = 0\nif x:\n"
        "    @tool\n    def f(text): pass\nelse:\n    @tool\n    def f(text): pass\n",
        "from promptflow import ToolProvider, tool\nclass A(ToolProvider):\n"
        "    def __init__(self, size: int = 3): pass\n    @tool\n    def f(self, text): pass\n",
        "from __future__ import annotations\nfrom promptflow import tool\n"
        "@tool\ndef f(text: int, size: int = 'many'): pass\n",
        "from promptflow import tool\n@tool\ndef f(**kwargs): pass\n",
        "from promptflow import tool\n@tool\ndef f(text, *, size=3): pass\n",
    ],
)
def test_unusual_tools_are_let_through(code: str, tmp_path: Path) -> None:
    files = {"flow.dag.yaml": dag(python(**TEXT)), "count.py": code}
    assert told(tmp_path, files) == []


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        ("int", "12"),
        ("int", 1.5),
        ("float", "0.2"),
        ("bool", "True"),
        ("list", '["a"]'),
        ("list", ["a"]),
        ("dict", "no JSON at all"),
        ("str", 7),
        ("Optional[int]", "3"),
        ("int | None", "many"),
        ("List[str]", "a"),
        ("Literal['a']", "b"),
        ("np.ndarray", "b"),
        ("'int'", "b"),
        ("Connection", "the name of something else"),
    ],
)
def test_literals_that_prompt_flow_takes_are_let_through(
    hint: str, value: object, tmp_path: Path
) -> None:
    code = f"from promptflow import tool\n@tool\ndef f(text: {hint}): pass\n"
    files = {"flow.dag.yaml": dag(python(text=value)), "count.py": code}
    assert told(tmp_path, files) == []


def test_references_in_every_form_are_let_through(tmp_path: Path) -> None:
    texts = ("${flow.text}", "${b}", "${b.output}", "${b.output.a.b}", "${b.output[0]}", "$5", "${")
    listed = [python(f"n{at}", text=text) for at, text in enumerate(texts)]
    files = {"flow.dag.yaml": dag(*listed, python("b", **TEXT)), "count.py": COUNT}
    assert told(tmp_path, files) == []


def test_a_tool_out_of_the_folder_is_found(tmp_path: Path) -> None:
    document = dag(python(path="shared/count.py", **TEXT), additional_includes=["../shared"])
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow/flow.dag.yaml").write_text(document)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/count.py").write_text(COUNT)
    assert list(nodes.problems(flows.describe("flow", tmp_path), {})) == []


def test_validate_tells_them_all_before_any_call(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    inputs = {"text": {"type": "int"}, "words": {"type": "list", "default": []}}
    use.write("flows/dag/flow.dag.yaml", dag(python(text=TEXT["text"], wrong=1), inputs=inputs))
    use.write("flows/dag/count.py", COUNT)
    data = {"name": "d", "source": "data/words.jsonl"}
    use.configure(flow="flows/dag", datasets=[data | {"mappings": {"words": "no list"}}])
    use.configure(evaluators=[])
    with pytest.raises(UserError) as refused:
        validate.load(root=use.folder)
    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    assert "inputs.wrong" in lines[2]
    assert "mappings.text: " in lines[0]
    assert "words.jsonl: line 1: 'ant' is no int (" in lines[0]
    assert "mappings.words: 'no list' is no list (" in lines[1]


def test_a_column_that_fits_once_is_let_through(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    use.write("flows/dag/flow.dag.yaml", dag(python(**TEXT), inputs={"text": {"type": "int"}}))
    use.write("flows/dag/count.py", COUNT)
    use.rows([{"text": "none"}, {"text": "7"}, {"text": None}])
    data = {"name": "d", "source": "data/words.jsonl"}
    use.configure(flow="flows/dag", datasets=[data], evaluators=[])
    _, checked = validate.load(root=use.folder)
    assert len(checked.cells) == 1
