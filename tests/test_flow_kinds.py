"""DAGs of less usual kinds run as they are, and a flow that cannot is refused in plain words."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llmops import flows, images
from llmops.data import Table
from standin import StandIn
from usecase import AOAI, UseCase

Json = dict[str, Any]


def picture(gray: int) -> bytes:
    """A PNG of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes([0, gray])))
        + chunk(b"IEND", b"")
    )


def node(name: str, kind: str = "python", path: str = "", **more: Any) -> Json:
    source = {"type": "code", "path": path or f"{name}.py"}
    return {"name": name, "type": kind, "source": source, **more}


def write_dag(
    use: UseCase, flow: str, inputs: Json, outputs: Json, *nodes: Json, **more: Any
) -> None:
    named = {name: {"type": "object", "reference": value} for name, value in outputs.items()}
    document = {"inputs": inputs, "outputs": named, "nodes": list(nodes), **more}
    use.write(f"flows/{flow}/flow.dag.yaml", json.dumps(document))


SIZE = """
import hashlib

from promptflow.contracts.multimedia import Image
from promptflow.core import tool


@tool
def size(shown: Image, more: list = None):
    assert all(isinstance(image, Image) for image in more or [])
    return {"hash": hashlib.sha256(shown).hexdigest(), "shown": shown, "many": len(more or [])}
"""
SAME = """
import hashlib

from promptflow.contracts.multimedia import Image
from promptflow import log_metric, tool


@tool
def same(shown: list, results: list):
    assert all(isinstance(image, Image) for image in shown)
    assert all(isinstance(result["shown"], Image) for result in results)
    hashes = [hashlib.sha256(image).hexdigest() for image in shown]
    log_metric("same", sum(h == r["hash"] for h, r in zip(hashes, results)))
"""
BASIC = {"data:image/png;path": "pictures/a.png"}
VISION = {"type": "image_file", "image_file": {"path": "pictures/a.png"}}


@pytest.mark.parametrize(
    ("form", "more"), [(BASIC, {}), (VISION, {"message_format": "openai-vision"})]
)
def test_images_are_found_beside_the_data_and_then_in_the_flow(
    form: Json, more: Json, tmp_path: Path
) -> None:
    use = UseCase(tmp_path)
    inputs = {"shown": {"type": "image"}, "others": {"type": "list", "default": []}}
    taken = {"shown": "${inputs.shown}"}
    first = node("size", inputs=taken | {"more": "${inputs.others}"})
    last = node("same", inputs=taken | {"results": "${size.output}"}, aggregation=True)
    for flow, nodes in (("show", [first]), ("score", [first, last])):
        write_dag(use, flow, inputs, {"size": "${size.output.hash}"}, *nodes, **more)
        use.write(f"flows/{flow}/size.py", SIZE)
        use.write(f"flows/{flow}/same.py", SAME)
        use.write(f"flows/{flow}/pictures/b.png", picture(9))
    use.write("data/pictures/a.png", picture(1))
    use.write("flows/show/pictures/a.png", picture(2))  # the one beside the data goes first
    in_flow = json.loads(json.dumps(form).replace("a.png", "b.png"))
    use.rows([{"shown": form, "others": [in_flow, form]}, {"shown": in_flow, "others": []}])
    both = {name: f"${{data.{name}}}" for name in ("shown", "others")}
    scored = {name: f"${{run.inputs.{name}}}" for name in ("shown", "others")}
    use.configure(
        flow="flows/show",
        datasets=[{"name": "d", "source": "data/words.jsonl", "mappings": both}],
        evaluators=[
            {"name": "e", "flow": "flows/score", "datasets": [{"name": "d", "mappings": scored}]}
        ],
    )
    done = use.run()
    assert done.code == 0, done.text
    assert done.summary is not None
    assert [score["value"] for score in done.summary["scores"]] == [2]
    rows = use.finished("default-d-????????*")
    shown, scores = rows[:2], rows[2:]
    assert shown[0]["inputs"]["shown"] == form  # kept as the data has it, on any machine
    assert [r["outputs"] for r in shown] == [r["outputs"] for r in scores]
    assert len({r["outputs"]["size"] for r in shown}) == 2


def test_an_image_beside_the_data_counts_for_its_digest(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"a": [BASIC, VISION]}) + "\n" + json.dumps({"b": "x"}) + "\n")
    digests = [Table(data).digest]
    (tmp_path / "pictures").mkdir()
    for gray in (1, 2, 1):
        (tmp_path / "pictures/a.png").write_bytes(picture(gray))
        digests.append(Table(data).digest)
    assert len(set(digests)) == 3
    assert digests[1] == digests[3]


def test_only_paths_of_images_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    given = {
        "x": [{"data:image/png;path": "a.png"}, {"data:image/png;path": "b.png"}],
        "path": "a.png",
        "y": {"type": "image_url", "image_url": {"url": "a.png"}},
        "z": {"data:image/png;base64": "a.png"},
    }
    found = images.located(given, ["/nowhere", str(tmp_path)])
    assert found["x"][0] == {"data:image/png;path": str(tmp_path / "a.png")}
    assert found | {"x": 0} == given | {"x": 0}
    assert found["x"][1] == given["x"][1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("flow.dag.yaml", "entry: flow:run", "flex"),  # before there was flow.flex.yaml
        ("other.dag.yaml", '{"nodes": [{"name": "a"}]}', "dag"),
        ("other.yml", "entry: flow:run", "flex"),
    ],
)
def test_the_content_decides_what_a_yaml_file_is(
    file: str, text: str, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "flow.py").write_text("def run(text): return text\n")
    (tmp_path / file).write_text(text)
    assert flows.describe(file, tmp_path).kind == kind


KINDS = """
import enum
from dataclasses import dataclass

from promptflow import tool, trace


class Mood(enum.Enum):
    GOOD = "good"


@dataclass
class Found:
    words: list
    mood: Mood


@trace
def split(text):
    return text.split()


@tool
def kinds(text: str):
    return Found(split(text), Mood.GOOD)
"""
AFTER = """
from promptflow.core import log_metric, tool


@tool
def after(found: list):
    log_metric("words", sum(len(one["words"]) for one in found))
"""


def test_a_dataclass_is_an_output_and_goes_to_the_aggregation(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    kinds = node("kinds", inputs={"text": "${inputs.text}"})
    after = node("after", inputs={"found": "${kinds.output}"}, aggregation=True)
    outputs = {"all": "${kinds.output}", "mood": "${kinds.output.mood}"}
    write_dag(use, "kinds", {"text": {"type": "string"}}, outputs, kinds, after)
    use.write("flows/kinds/kinds.py", KINDS)
    use.write("flows/kinds/after.py", AFTER)
    data = {"name": "d", "source": "data/words.jsonl", "mappings": {"text": "${data.text}"}}
    use.configure(evaluators=[{"name": "e", "flow": "flows/kinds", "datasets": [data]}])
    use.blocks.pop("flow")
    use.configure(datasets=[])
    done = use.run()
    assert done.code == 0, done.text
    assert done.summary is not None
    assert [score["value"] for score in done.summary["scores"]] == [6]
    assert use.finished()[0]["outputs"] == {
        "all": {"words": ["ant"], "mood": "good"},
        "mood": "good",
    }


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    with StandIn() as standin:
        yield standin


def test_an_llm_node_out_of_a_gallery_takes_the_only_connection(
    model: StandIn, tmp_path: Path
) -> None:
    use = UseCase(tmp_path)
    inputs = {"deployment_name": "", "text": "${inputs.text}"}
    ask = node("ask", "llm", "ask.jinja2", inputs=inputs, api="chat", connection="")
    write_dag(use, "ask", {"text": {"type": "string"}}, {"answer": "${ask.output}"}, ask)
    use.write("flows/ask/ask.jinja2", "# user:\n{{text}}")
    data = {"name": "d", "source": "data/words.jsonl", "mappings": {"text": "${data.text}"}}
    use.configure(flow="flows/ask", datasets=[data], evaluators=[])
    use.configure(connections=[AOAI | {"model": "its-own"}])
    address = {"AOAI_API_KEY": "a-key", "AOAI_API_BASE": model.url}
    done = use.run(LLM="live", **address)
    assert done.code == 0, done.text
    assert use.finished()[0]["outputs"] == {"answer": "echo: ant"}
    assert model.last["path"].startswith("/openai/deployments/its-own/")


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        (
            "from promptflow.core import tool\n\nimport no_such_package\n",
            ("ModuleNotFoundError", "node 'run'", "run.py, line 3", "`flow`", "`make lock`"),
        ),
        ("from helper import more\nfrom promptflow.core import tool\n", ("helper.py, line 2",)),
    ],
)
def test_what_cannot_be_imported_is_told_with_its_place(
    code: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    use = UseCase(tmp_path)
    run = node("run", inputs={"text": "${inputs.text}"})
    write_dag(use, "run", {"text": {"type": "string"}}, {"answer": "${run.output}"}, run)
    use.write("flows/run/run.py", code + "\n\n@tool\ndef run(text: str):\n    return text\n")
    use.write("flows/run/helper.py", "more = 1\nraise ValueError('not today')\n")
    data = {"name": "d", "source": "data/words.jsonl", "mappings": {"text": "${data.text}"}}
    use.configure(flow="flows/run", datasets=[data], evaluators=[])
    use.run("validate").refused("flows/run/flow.dag.yaml: cannot be loaded", *parts)


def test_a_package_tool_that_is_not_installed_is_told(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    source = {"type": "package", "tool": "some_package.tools.look"}
    look = {"name": "look", "type": "python", "source": source, "inputs": {"q": "${inputs.text}"}}
    write_dag(use, "look", {"text": {"type": "string"}}, {"answer": "${look.output}"}, look)
    data = {"name": "d", "source": "data/words.jsonl", "mappings": {"text": "${data.text}"}}
    use.configure(flow="flows/look", datasets=[data], evaluators=[])
    use.run("validate").refused("some_package.tools.look", "node 'look'", "`make lock`")


def test_a_tool_for_any_model_asks_for_the_connections_own(model: StandIn, tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    source = {
        "type": "package_with_prompt",
        "tool": "promptflow.tools.llm.llm",
        "path": "ask.jinja2",
    }
    inputs = {
        "connection": "aoai",
        "api": "chat",
        "deployment_name": "gpt",
        "text": "${inputs.text}",
    }
    ask = {"name": "ask", "type": "custom_llm", "source": source, "inputs": inputs}
    write_dag(use, "ask", {"text": {"type": "string"}}, {"answer": "${ask.output}"}, ask)
    use.write("flows/ask/ask.jinja2", "# user:\n{{text}}")
    data = {"name": "d", "source": "data/words.jsonl", "mappings": {"text": "${data.text}"}}
    link = {"name": "aoai", "connection_type": "OpenAIConnection", "model": "llama"}
    use.configure(flow="flows/ask", datasets=[data], evaluators=[], connections=[link])
    done = use.run(LLM="live", AOAI_API_KEY="a-key", AOAI_BASE_URL=f"{model.url}/v1")
    assert done.code == 0, done.text
    assert use.finished()[0]["outputs"] == {"answer": "echo: ant"}
    assert model.last["body"]["model"] == "llama"
