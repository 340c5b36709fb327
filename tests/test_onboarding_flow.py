"""What comes in with a bare flow: files, data, mappings, connections, and what is unclear."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from llmops import validate
from llmops.data import Table
from llmops.errors import UserError
from llmops.onboarding import bare_flow
from llmops.onboarding.images import PIXEL
from llmops.onboarding.proposal import UNDECIDED, Proposal

EXPERIMENT = Path("experiment.yaml")
GREET = "def greet(name: str, times: int = 1) -> dict:\n    return {'greeting': name * times}\n"
TOOL = (
    "from promptflow.core import tool\n\n\n@tool\ndef shout(text: str) -> str:\n    return text\n"
)


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Files of a flow; what is not text is written as JSON, which YAML holds too."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def dag(inputs: dict[str, Any], nodes: list[dict[str, Any]] | None = None, **more: Any) -> Any:
    """A DAG whose last node's output is its answer."""
    first = {"name": "shout", "type": "python", "source": {"type": "code", "path": "shout.py"}}
    nodes = nodes or [{**first, "inputs": {"text": f"${{inputs.{next(iter(inputs))}}}"}}]
    answer = {"answer": {"type": "string", "reference": f"${{{nodes[-1]['name']}.output}}"}}
    return {"inputs": inputs, "outputs": answer, "nodes": nodes} | more


def llm(**more: Any) -> dict[str, Any]:
    """An LLM node over a prompt."""
    node = {"name": "ask", "type": "llm", "source": {"type": "code", "path": "ask.jinja2"}}
    inputs = {"deployment_name": "gpt-4o", "text": "${inputs.text}"}
    return {**node, "inputs": inputs, "provider": "AzureOpenAI", "connection": "team", **more}


def land(proposal: Proposal, root: Path) -> Path:
    """The proposal as files of a repo."""
    for copied in proposal.copies:
        (root / copied.target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(copied.source, root / copied.target)
    write(root, {str(path): text for path, text in proposal.texts.items()})
    return write(root, {str(path): block for path, block in proposal.documents.items()})


def experiment(proposal: Proposal) -> dict[str, Any]:
    """The proposed experiment.yaml."""
    return proposal.documents[EXPERIMENT]


def mappings(proposal: Proposal) -> dict[str, Any]:
    """The mappings of its only dataset."""
    (dataset,) = experiment(proposal)["datasets"]
    return dict(dataset["mappings"])


def targets(proposal: Proposal) -> set[str]:
    """Where its files go."""
    return {copied.target.as_posix() for copied in proposal.copies}


def rows(proposal: Proposal) -> list[dict[str, Any]]:
    """The rows of its dataset."""
    (source,) = [path for path in proposal.texts if path.suffix == ".jsonl"]
    return [json.loads(line) for line in proposal.texts[source].splitlines()]


def connections(proposal: Proposal) -> dict[str, dict[str, Any]]:
    """Its connections by name."""
    return {entry["name"]: entry for entry in experiment(proposal).get("connections", [])}


KINDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "dag": (
        "",
        {
            "flow.dag.yaml": dag({"text": {"type": "string"}}),
            "shout.py": TOOL,
            "data.jsonl": '{"text": "a"}\n',
        },
        "flows/parrot",
    ),
    "dag of another name": (
        "",
        {"loud.dag.yaml": dag({"text": {"type": "string", "default": "a"}}), "shout.py": TOOL},
        "flows/parrot/loud.dag.yaml",
    ),
    "flex function": (
        "",
        {"flow.flex.yaml": {"entry": "hello:greet"}, "hello.py": GREET},
        "flows/parrot",
    ),
    "flex class in a package": (
        "",
        {
            "flow.flex.yaml": {"entry": "inner.hello:Greet"},
            "inner/hello.py": "class Greet:\n    def __init__(self, tone: str = 'x'):\n"
            "        self.tone = tone\n\n    def __call__(self, name: str) -> str:\n"
            "        return name\n",
        },
        "flows/parrot",
    ),
    "an early flex flow": (
        "",
        {"flow.dag.yaml": {"entry": "hello:greet"}, "hello.py": GREET},
        "flows/parrot",
    ),
    "prompty": (
        "",
        {"tale.prompty": "---\ninputs:\n  hero: {type: string}\n---\nuser:\n{{hero}}\n"},
        "flows/parrot",
    ),
    "one prompty of two": (
        "/tale.prompty",
        {
            "tale.prompty": "---\ninputs:\n  hero: {type: string}\n---\nuser:\n{{hero}}\n",
            "song.prompty": "---\ninputs:\n  tune: {type: string}\n---\nuser:\n{{tune}}\n",
        },
        "flows/tale/tale.prompty",
    ),
    "a callable": ("/hello.py:greet", {"hello.py": GREET}, "flows/hello/hello.py:greet"),
    "the only callable": ("/hello.py", {"hello.py": GREET}, "flows/hello/hello.py:greet"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_flow_comes_in_and_validates(kind: str, tmp_path: Path) -> None:
    suffix, files, reference = KINDS[kind]
    folder = write(tmp_path / "parrot", files)
    proposal = bare_flow.propose(f"{folder}{suffix}")
    assert experiment(proposal)["flow"] == reference
    assert not proposal.questions
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    _, checked = validate.load(root=land(proposal, tmp_path / "repo"))
    assert checked.flow is not None
    assert len(checked.cells) == 1
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("files", "path", "words"),
    [
        ({"a.prompty": "", "b.prompty": ""}, "", "2 flows: a.prompty, b.prompty"),
        ({"x.py": "def one(): ...\ndef two(): ...\n"}, "", "x.py:one, x.py:two"),
        ({"x.py": "def one(): ...\ndef two(): ...\n"}, "/x.py", "has one, two"),
        ({"x.py": GREET}, "/x.py:meet", "found greet"),
        ({"flow.py": "def run(:\n"}, "", "flow.py: line 1: not Python"),
        ({"x.py": "def run(:\n"}, "/x.py", "x.py: line 1: not Python"),
        ({"x.txt": ""}, "", "holds no flow"),
        ({"x.txt": ""}, "/x.txt", "is no flow"),
        ({"x.txt": ""}, "/y.txt", "beside it: x.txt"),
        ({"a/flow.dag.yaml": "", "b/c/flow.flex.yaml": ""}, "", "Below it there are a, b/c"),
    ],
)
def test_says_what_it_found_instead_of_a_flow(
    files: dict[str, Any], path: str, words: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "x", files)
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        bare_flow.propose(f"{folder}{path}")


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("parrot", "parrot"),
        ("My Parrot", "My-Parrot"),
        ("parrot/flows/standard", "parrot-standard"),
        ("parrot/src", "parrot-src"),
    ],
)
def test_a_folder_that_says_nothing_takes_its_parents_name(
    place: str, name: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / place, {"flow.dag.yaml": dag({"text": {}}), "shout.py": TOOL})
    assert bare_flow.propose(folder).name == name


def test_includes_keep_their_place_beside_the_flow(tmp_path: Path) -> None:
    includes = ["../shared/shout.py", "../../words"]
    files = {"flows/parrot/flow.dag.yaml": dag({"text": {}}, additional_includes=includes)}
    files |= {"flows/shared/shout.py": TOOL, "flows/shared/other.py": "", "words/list.txt": "a"}
    proposal = bare_flow.propose(write(tmp_path, {**files, "flows/b.py": ""}) / "flows/parrot")
    assert targets(proposal) == {
        "flows/parrot/flows/parrot/flow.dag.yaml",
        "flows/parrot/flows/shared/shout.py",
        "flows/parrot/words/list.txt",
    }
    assert experiment(proposal)["flow"] == "flows/parrot/flows/parrot"
    _, checked = validate.load(root=land(proposal, tmp_path / "repo"))
    assert checked.flow is not None


def test_an_include_that_is_missing_is_told(tmp_path: Path) -> None:
    document = dag({"text": {}}, additional_includes=["../gone.py"])
    folder = write(tmp_path / "parrot", {"flow.dag.yaml": document, "shout.py": TOOL})
    (left,) = bare_flow.propose(folder).left
    assert left.path.name == "gone.py"
    assert "not there" in left.reason


def test_a_link_that_the_flow_names_comes_as_what_it_leads_to(tmp_path: Path) -> None:
    write(tmp_path / "shared", {"loud.py": TOOL, "private.txt": "mine"})
    folder = write(tmp_path / "parrot", {"flow.dag.yaml": dag({"text": {}})})
    (folder / "shout.py").symlink_to("../shared/loud.py")
    (folder / "notes.txt").symlink_to("../shared/private.txt")
    proposal = bare_flow.propose(folder)
    assert targets(proposal) == {"flows/parrot/flow.dag.yaml", "flows/parrot/shout.py"}
    assert [left.path.name for left in proposal.left] == ["notes.txt"]


def test_a_definition_with_a_key_in_it_is_refused(tmp_path: Path) -> None:
    key = "sk-" + "aB3dE6gH9jK2mN5pQ8sT" * 2
    files = {"flow.dag.yaml": dag({"text": {"default": f"api_key={key}"}}), "shout.py": TOOL}
    with pytest.raises(UserError, match=r"flow\.dag\.yaml: .*Without it there is no flow") as told:
        bare_flow.propose(write(tmp_path / "parrot", files))
    assert key not in str(told.value)


def test_data_with_a_key_in_it_stays(tmp_path: Path) -> None:
    key = "sk-" + "aB3dE6gH9jK2mN5pQ8sT" * 2
    files = {"flow.dag.yaml": dag({"text": {}}), "shout.py": TOOL}
    files["d.jsonl"] = json.dumps({"text": f"api_key={key}"})
    proposal = bare_flow.propose(write(tmp_path / "parrot", files))
    assert rows(proposal) == [{"text": "Replace this text"}]
    assert "d.jsonl" in [left.path.name for left in proposal.left]
    assert key not in str(proposal)


def test_takes_the_file_whose_columns_meet_the_inputs(tmp_path: Path) -> None:
    files = {
        "flow.dag.yaml": dag({"text": {"type": "string"}, "tone": {"type": "string"}}),
        "shout.py": TOOL,
        "a.jsonl": '{"text": "a"}\n',
        "data/b.csv": 'text;tone;n\n"a;\nb";soft;1\n',
        "package.json": {"scripts": {"text": 1}},
    }
    proposal = bare_flow.propose(write(tmp_path / "parrot", files))
    assert rows(proposal) == [{"text": "a;\nb", "tone": "soft", "n": "1"}]
    assert mappings(proposal) == {"text": "${data.text}", "tone": "${data.tone}"}
    assert "flows/parrot/data/b.csv" not in targets(proposal)
    assert any("a.jsonl" in note for note in proposal.notes)
    assert json.loads(proposal.texts[Path("sample-request.json")])["tone"] == "soft"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("d.jsonl", b'\xef\xbb\xbf{"n": 1, "text": "\xc3\xa9"}\r\n\r\n', [{"n": 1, "text": "é"}]),
        ("d.json", b'[{"n": 1, "text": "a"}]', [{"n": 1, "text": "a"}]),
        ("d.json", b'{"n": 1, "text": "a"}', [{"n": 1, "text": "a"}]),
        ("d.json", b'{"n": [1], "text": ["a"]}', [{"n": 1, "text": "a"}]),
        ("d.json", b'{"rows": [{"n": 1, "text": "a"}]}', [{"n": 1, "text": "a"}]),
        ("d.csv", b"\xef\xbb\xbfn,text\r\n1,007\r\n", [{"n": 1, "text": "007"}]),
        ("d.tsv", b'n\ttext\n1\t"a\tb"\n', [{"n": 1, "text": "a\tb"}]),
        ("d.csv", b"n;text\n2.5;a\n", [{"n": "2.5", "text": "a"}]),
    ],
)
def test_reads_every_kind_of_data(
    name: str, content: bytes, found: list[dict[str, Any]], tmp_path: Path
) -> None:
    document = dag({"text": {"type": "string"}, "n": {"type": "int"}})
    files = {"flow.dag.yaml": document, "shout.py": TOOL, name: content}
    proposal = bare_flow.propose(write(tmp_path / "parrot", files))
    assert rows(proposal) == found


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.csv", "text\na\n".encode("utf-16"), "UTF-16"),
        ("d.csv", b"text\n\xff\xe9\n", "not UTF-8"),
        ("d.csv", b"text,tone\na\n", "row 2 has 1 columns"),
        ("d.jsonl", b'{"text": \n', "line 1: not JSON"),
        ("d.txt", b"text", "not a kind of data"),
        ("d.jsonl", b"\n", "has no rows"),
    ],
)
def test_data_that_cannot_be_read_is_told(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    files = {"flow.dag.yaml": dag({"text": {}}), "shout.py": TOOL, name: content}
    folder = write(tmp_path / "parrot", files)
    with pytest.raises(UserError, match=words):
        bare_flow.propose(folder, data=folder / name)


def test_a_run_file_says_which_data_and_how(tmp_path: Path) -> None:
    files = {
        "flow.dag.yaml": dag({"text": {"type": "string"}, "tone": {"type": "string"}}),
        "shout.py": TOOL,
        "a.jsonl": '{"text": "a", "tone": "b"}\n',
        "lines.jsonl": '{"line": "x", "mood": "y"}\n',
        "run.yml": {
            "flow": ".",
            "data": "lines.jsonl",
            "column_mapping": {"text": "${data.line}", "tone": "${data.mood}"},
        },
    }
    proposal = bare_flow.propose(write(tmp_path / "parrot", files))
    assert mappings(proposal) == {"text": "${data.line}", "tone": "${data.mood}"}
    assert rows(proposal) == [{"line": "x", "mood": "y"}]


def test_without_data_one_row_of_defaults_samples_and_placeholders(tmp_path: Path) -> None:
    inputs = {
        "text": {"type": "string", "default": "hi"},
        "count": {"type": "int"},
        "picture": {"type": "image"},
        "chat_history": {"type": "list", "is_chat_history": True},
    }
    folder = write(tmp_path / "parrot", {"flow.dag.yaml": dag(inputs), "shout.py": TOOL})
    proposal = bare_flow.propose(folder)
    picture = {"data:image/png;base64": PIXEL}
    assert rows(proposal) == [{"text": "hi", "count": 0, "picture": picture, "chat_history": []}]
    assert any("count, picture" in note for note in proposal.notes)


def test_a_prompty_sample_in_a_file_is_its_row(tmp_path: Path) -> None:
    front = "inputs:\n  hero: {type: string}\n  age: {type: int, default: 3}\nsample: one.json"
    files = {"tale.prompty": f"---\n{front}\n---\nuser:\n{{{{hero}}}}\n", "one.json": {"hero": "A"}}
    proposal = bare_flow.propose(write(tmp_path / "tale", files))
    assert [row["hero"] for row in rows(proposal)] == ["A"]


def test_images_resolve_from_the_flow(tmp_path: Path) -> None:
    document = dag({"picture": {"type": "image"}, "chat": {"type": "list"}})
    lines = [
        {"picture": {"data:image/png;path": "a.png"}, "chat": [{"data:image/png;path": "b/c.png"}]},
        {"picture": {"data:image/png;url": "https://example.com/a.png"}, "chat": []},
    ]
    files = {"parrot/flow.dag.yaml": document, "parrot/shout.py": TOOL, "data/b/c.png": b"c"}
    files |= {"data/a.png": b"a", "data/d.jsonl": "\n".join(map(json.dumps, lines))}
    proposal = bare_flow.propose(write(tmp_path, files) / "parrot")
    first, second = rows(proposal)
    assert first["picture"] == {"data:image/png;path": "images/a.png"}
    assert first["chat"] == [{"data:image/png;path": "images/b/c.png"}]
    assert second == lines[1]
    assert {"flows/parrot/images/a.png", "flows/parrot/images/b/c.png"} <= targets(proposal)


def test_the_data_stays_with_a_flow_that_reads_it_itself(tmp_path: Path) -> None:
    files = {"flow.dag.yaml": dag({"text": {}}), "d.jsonl": '{"text": "a"}\n'}
    files["shout.py"] = f"{TOOL}\nFILE = 'd.jsonl'\n"
    assert "flows/parrot/d.jsonl" in targets(bare_flow.propose(write(tmp_path / "parrot", files)))


@pytest.mark.parametrize(
    ("inputs", "columns", "expected"),
    [
        (["user_text"], ["UserText"], {"user_text": "${data.UserText}"}),
        (["question"], ["query", "id"], {"question": "${data.query}"}),
        (["question"], ["query", "prompt"], {"question": UNDECIDED}),
        (["question"], ["id"], {"question": "made up"}),
        (["question", "topic"], ["id", "topic"], {"question": UNDECIDED, "topic": "${data.topic}"}),
        (["text", "chat_history"], ["text"], {"text": "${data.text}", "chat_history": []}),
        (["text", "history"], ["text", "chat_history"], {"history": "${data.chat_history}"}),
    ],
)
def test_inputs_find_their_columns(
    inputs: list[str], columns: list[str], expected: dict[str, Any], tmp_path: Path
) -> None:
    data = json.dumps(dict.fromkeys(columns, "x"))
    document = dag({name: {"type": "list" if "history" in name else ""} for name in inputs})
    files = {"flow.dag.yaml": document, "shout.py": TOOL, "d.jsonl": data}
    proposal = bare_flow.propose(write(tmp_path / "parrot", files))
    found = mappings(proposal)
    if "made up" in expected.values():
        assert found == {name: f"${{data.{name}}}" for name in inputs}
        return
    for name, value in expected.items():
        assert found[name] == value or str(found[name]).startswith(str(value))
    asked = [question.place[-1] for question in proposal.questions]
    assert asked == [name for name, value in expected.items() if value == UNDECIDED]


JUDGE = "def run(ground_truth: str, answer: str) -> dict:\n    return {'right': 1.0}\n"


@pytest.mark.parametrize(
    ("columns", "truth"),
    [
        (["text", "label"], "${data.label}"),
        (["text", "Expected"], "${data.Expected}"),
        (["text", "answer"], "${data.answer}"),
        (["text", "id"], UNDECIDED),
    ],
)
def test_an_evaluator_takes_truth_from_the_data_and_answers_from_the_run(
    columns: list[str], truth: str, tmp_path: Path
) -> None:
    data = json.dumps(dict.fromkeys(columns, "x"))
    files = {"parrot/flow.dag.yaml": dag({"text": {}}), "parrot/shout.py": TOOL}
    write(tmp_path, {**files, "parrot/d.jsonl": data, "judge/flow.py": JUDGE})
    proposal = bare_flow.propose(tmp_path / "parrot")
    bare_flow.add_evaluator(proposal, tmp_path / "judge")
    (evaluator,) = experiment(proposal)["evaluators"]
    assert (evaluator["name"], evaluator["flow"]) == ("judge", "flows/judge")
    found = evaluator["datasets"][0]["mappings"]
    assert found["answer"] == "${run.outputs.answer}"
    assert found["ground_truth"].startswith(truth)
    assert bool(proposal.questions) == (truth == UNDECIDED)
    if truth != UNDECIDED:
        validate.load(root=land(proposal, tmp_path / "repo"))


def test_an_evaluator_joins_an_experiment_that_is_there(tmp_path: Path) -> None:
    files = {"parrot/flow.dag.yaml": dag({"text": {}}), "parrot/shout.py": TOOL}
    write(tmp_path, {**files, "parrot/d.jsonl": '{"text": "a", "label": "b"}'})
    write(tmp_path, {"judge/flow.py": JUDGE})
    root = land(bare_flow.propose(tmp_path / "parrot"), tmp_path / "repo")
    proposal = Proposal("judge", "an evaluation flow")
    bare_flow.add_evaluator(proposal, tmp_path / "judge", root=root)
    checked, _ = validate.load(root=land(proposal, root))
    assert [evaluator.name for evaluator in checked.evaluators] == ["judge"]
    again = Proposal("judge", "an evaluation flow")
    bare_flow.add_evaluator(again, tmp_path / "judge", root=root)
    assert experiment(again) == experiment(proposal)


def test_connections_of_nodes_in_every_variant(tmp_path: Path) -> None:
    variants = {
        name: {"node": {k: v for k, v in node.items() if k != "name"}}
        for name, node in {
            "a": llm(),
            "b": llm(connection="own", provider="OpenAI", inputs={"model": "m"}),
        }.items()
    }
    document = dag({"text": {}}, [{"name": "ask", "use_variants": True}])
    document["node_variants"] = {"ask": {"default_variant_id": "a", "variants": variants}}
    files = {"flow.dag.yaml": document, "ask.jinja2": "user:\n{{text}}\n"}
    proposal = bare_flow.propose(write(tmp_path / "parrot", files))
    assert connections(proposal) == {
        "team": {
            "name": "team",
            "connection_type": "AzureOpenAIConnection",
            "api_base": "${api_base}",
            "api_key": "${api_key}",
            "api_type": "azure",
            "api_version": "2024-02-01",
        },
        "own": {"name": "own", "connection_type": "OpenAIConnection", "api_key": "${api_key}"},
    }
    lines = proposal.lines[Path(".env.example")]
    assert {line.partition("=")[0] for line in lines} == {
        "#TEAM_API_BASE",
        "#TEAM_API_KEY",
        "#OWN_API_KEY",
    }
    validate.load(root=land(proposal, tmp_path / "repo"))


CUSTOM = """
from promptflow.core import tool
from promptflow.connections import CustomConnection


@tool
def shout(text: str, link: CustomConnection) -> str:
    return link.region + link.configs["bucket"] + link.secrets["door"] + link["pass_key"]
"""
STRONG = """
from promptflow.core import tool
from promptflow.connections import CustomStrongTypeConnection
from promptflow.contracts.types import Secret


class Shop(CustomStrongTypeConnection):
    api_key: Secret
    place: str = "x"


@tool
def shout(text: str, link: Shop) -> str:
    return link.place
"""


@pytest.mark.parametrize(
    ("code", "configs", "secrets"),
    [
        (CUSTOM, {"region", "bucket"}, {"door", "pass_key"}),
        (
            CUSTOM.replace(": Custom", ": Union[Custom").replace(") -> str", "]) -> str"),
            {"region", "bucket"},
            None,
        ),
        (STRONG, {"place"}, {"api_key"}),
        (STRONG.replace("Shop", "ShopConnection"), {"place"}, {"api_key"}),
    ],
)
def test_properties_of_a_custom_connection(
    code: str, configs: set[str], secrets: set[str] | None, tmp_path: Path
) -> None:
    node = {"name": "n", "type": "python", "source": {"type": "code", "path": "shout.py"}}
    node["inputs"] = {"text": "${inputs.text}", "link": "shop"}
    beside = {"name": "shop", "type": "custom", "configs": {}, "secrets": {"sent": "SECRET-VALUE"}}
    files = {"flow.dag.yaml": dag({"text": {}}, [node]), "shout.py": code, "shop.yaml": beside}
    proposal = bare_flow.propose(write(tmp_path / "parrot", files))
    entry = connections(proposal)["shop"]
    assert entry["connection_type"] == "CustomConnection"
    assert set(entry["configs"]) == configs
    assert set(entry["secrets"]) == (secrets or {"door", "pass_key"}) | {"sent"}
    assert "SECRET-VALUE" not in str(proposal.documents) + str(proposal.lines)
    validate.load(root=land(proposal, tmp_path / "repo"))


def test_package_tools_know_their_connection(tmp_path: Path) -> None:
    node = {"name": "n", "type": "python", "source": {"type": "package"}}
    node["source"] |= {"tool": "promptflow.tools.serpapi.SerpAPI.search"}  # type: ignore[index]
    node["inputs"] = {"connection": "web", "query": "${inputs.text}"}
    folder = write(tmp_path / "parrot", {"flow.dag.yaml": dag({"text": {}}, [node])})
    assert connections(bare_flow.propose(folder))["web"]["connection_type"] == "SerpConnection"


FRONT = """---
model:
  api: chat
  configuration:
    type: {kind}
    {rest}
inputs:
  hero: {{type: string}}
---
user:
{{{{hero}}}}
"""


@pytest.mark.parametrize(
    ("kind", "rest", "expected"),
    [
        ("azure_openai", "connection: team", {"team": ("AzureOpenAIConnection", "${api_key}")}),
        ("openai", "connection: team", {"team": ("OpenAIConnection", "${api_key}")}),
        (
            "azure_openai",
            "{azure_endpoint: '${env:AZURE_OPENAI_ENDPOINT}', api_key: '${env:AZURE_OPENAI_KEY}'}",
            {"aoai": ("AzureOpenAIConnection", "${AZURE_OPENAI_KEY}")},
        ),
        (
            "openai",
            "api_key: ${env:OPENAI_API_KEY}",
            {"openai": ("OpenAIConnection", "${OPENAI_API_KEY}")},
        ),
    ],
)
def test_connections_of_a_prompty(
    kind: str, rest: str, expected: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    text = FRONT.format(kind=kind, rest=rest)
    if rest.startswith("{"):
        text = text.replace(f"    type: {kind}\n    {rest}", f"    {rest}")
    proposal = bare_flow.propose(write(tmp_path / "tale", {"tale.prompty": text}))
    found = connections(proposal)
    assert {n: (e["connection_type"], e["api_key"]) for n, e in found.items()} == expected
    validate.load(root=land(proposal, tmp_path / "repo"))


FLEX = """
import os
from helper import model
from promptflow.core import AzureOpenAIModelConfiguration


class Chat:
    def __init__(self, model_config: AzureOpenAIModelConfiguration):
        self.model_config = model_config

    def __call__(self, question: str) -> str:
        return model(question, os.environ["SEARCH_REGION"])
"""


def test_connections_and_variables_of_a_flex_class(tmp_path: Path) -> None:
    sample = {"inputs": {"question": "q"}, "init": {"model_config": {"connection": "team"}}}
    files = {
        "flow.flex.yaml": {"entry": "chat:Chat", "sample": sample},
        "chat.py": FLEX,
        "helper.py": "import os\nfrom openai import OpenAI\n\n\ndef model(*a):\n"
        "    return OpenAI(), os.getenv('DEPTH')\n",
        "unused.py": "import os\nos.environ['NOT_READ']\n",
        ".env.example": "SHOWN=1\n",
    }
    proposal = bare_flow.propose(write(tmp_path / "chat bot", files))
    assert {n: e["api_key"] for n, e in connections(proposal).items()} == {"team": "${api_key}"}
    names = {line.partition("=")[0] for line in proposal.lines[Path(".env.example")]}
    assert names == {
        *("#TEAM_API_BASE", "#TEAM_API_KEY", "#OPENAI_API_KEY"),
        *("#SEARCH_REGION", "#DEPTH", "#SHOWN"),
    }
    assert rows(proposal) == [{"question": "q"}]


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("AzureOpenAI(api_version='x')", {"aoai": "${AZURE_OPENAI_API_KEY}"}),
        ("AzureOpenAI(azure_ad_token_provider=p)", {}),
        ("OpenAI() if os.getenv('OPENAI_API_KEY') else AzureOpenAI()", {"aoai": None}),
        ("OpenAI(api_key=os.environ['TEAM_KEY'])", {}),
        ("os.environ['AOAI_KEY'], os.environ['AOAI_ENDPOINT']", {"aoai": "${AOAI_KEY}"}),
        ("os.getenv('OPENAI_KEY'), os.getenv('OPENAI_BASE_URL')", {"openai": "${OPENAI_KEY}"}),
        ("os.environ['OPENAI_API_TYPE'], os.environ['OPENAI_API_BASE']", {"aoai": "${api_key}"}),
    ],
)
def test_models_that_the_code_reaches_by_variables(
    client: str, expected: dict[str, str | None], tmp_path: Path
) -> None:
    files = {"hello.py": f"import os\n\n\ndef greet(name: str):\n    return [{client}]\n"}
    proposal = bare_flow.propose(write(tmp_path / "x", files) / "hello.py:greet")
    found = {n: e["api_key"] for n, e in connections(proposal).items()}
    assert list(found) == list(expected)
    assert all(found[name] == key for name, key in expected.items() if key)
    validate.load(root=land(proposal, tmp_path / "repo"))


def test_variables_that_the_definition_takes_of_a_connection(tmp_path: Path) -> None:
    variables = {"AZURE_OPENAI_API_KEY": "${team.api_key}", "MODEL": "gpt-4o"}
    code = f"import os\nKEY = os.environ['AZURE_OPENAI_API_KEY'], os.environ['MODEL']\n{GREET}"
    definition = {"entry": "hello:greet", "environment_variables": variables}
    files = {"flow.flex.yaml": definition, "hello.py": code}
    proposal = bare_flow.propose(write(tmp_path / "parrot", files))
    assert list(connections(proposal)) == ["team"]
    assert len(proposal.lines[Path(".env.example")]) == 2


def test_a_node_without_a_connection_is_told(tmp_path: Path) -> None:
    document = dag({"text": {}}, [llm(connection="", inputs={"deployment_name": ""})])
    files = {"flow.dag.yaml": document, "ask.jinja2": "user:\n{{text}}\n"}
    proposal = bare_flow.propose(write(tmp_path / "parrot", files))
    assert any("'ask' names no connection" in note for note in proposal.notes)
    assert list(connections(proposal)) == ["aoai"], "the only one to a model is taken"


def test_the_lists_of_packages_are_named(tmp_path: Path) -> None:
    document = dag({"text": {}}, environment={"python_requirements_txt": "needs.txt"})
    files = {"flow.dag.yaml": document, "shout.py": TOOL, "needs.txt": "rich\n"}
    proposal = bare_flow.propose(write(tmp_path / "parrot", files))
    assert [path.name for path in proposal.requirements] == ["needs.txt"]


def test_the_rows_are_a_table_that_the_engine_reads(tmp_path: Path) -> None:
    folder = write(tmp_path / "parrot", {"flow.dag.yaml": dag({"text": {}}), "shout.py": TOOL})
    root = land(bare_flow.propose(folder), tmp_path / "repo")
    assert len(Table(root / "data/parrot.jsonl")) == 1


EVALUATOR_CLASS = """
from promptflow.connections import CustomConnection
from promptflow.core import AzureOpenAIModelConfiguration


class Judge:
    def __init__(self, {parameter}, strict: bool = True):
        if "door_key" in self.link.secrets:
            self.door = link.secrets["door_key"]

    def __call__(self, prediction: str) -> dict:
        return {{"score": 1.0}}


if __name__ == "__main__":
    config = AzureOpenAIModelConfiguration(connection="team", azure_deployment="small")
"""


@pytest.mark.parametrize(
    ("parameter", "files", "init", "connection"),
    [
        (
            "config: AzureOpenAIModelConfiguration",
            {},
            {"config": {"connection": "team", "azure_deployment": "small"}},
            "team",
        ),
        ("link: CustomConnection", {}, {"link": "link"}, "link"),
        (
            "link: CustomConnection",
            {"c.yml": {"name": "mine", "type": "custom", "secrets": {"door_key": ""}}},
            {"link": "mine"},
            "mine",
        ),
        (
            "link: CustomConnection",
            {"run.yml": {"flow": ".", "init": {"link": "other"}}},
            {"link": "other"},
            "other",
        ),
    ],
)
def test_what_a_class_is_made_with(
    parameter: str,
    files: dict[str, Any],
    init: dict[str, Any],
    connection: str,
    tmp_path: Path,
) -> None:
    files = {"judge.py": EVALUATOR_CLASS.format(parameter=parameter), **files}
    files["flow.flex.yaml"] = {"entry": "judge:Judge"}
    proposal = bare_flow.propose(write(tmp_path / "judge", files))
    assert experiment(proposal)["init"] == init
    assert list(connections(proposal)) == [connection]
    if "Custom" in parameter:
        assert connections(proposal)[connection]["secrets"] == {"door_key": "${door_key}"}


def test_a_run_file_of_the_evaluation_maps_it(tmp_path: Path) -> None:
    files = {"parrot/flow.dag.yaml": dag({"text": {}}), "parrot/shout.py": TOOL}
    files["parrot/d.jsonl"] = '{"text": "a", "mood": "b"}'
    mapped = {"ground_truth": "${data.mood}", "answer": "${run.outputs.gone}"}
    files["parrot/check.yml"] = {"flow": "../judge", "run": "x", "column_mapping": mapped}
    write(tmp_path, {**files, "judge/flow.py": JUDGE})
    proposal = bare_flow.propose(tmp_path / "parrot")
    bare_flow.add_evaluator(proposal, tmp_path / "judge")
    (dataset,) = experiment(proposal)["evaluators"][0]["datasets"]
    expected = {"ground_truth": "${data.mood}", "answer": "${run.outputs.answer}"}
    assert dataset["mappings"] == expected
