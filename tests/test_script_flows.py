"""Flex flows, prompty files and Python callables of every form run as they are.

All flows score the rows of one log, each as an evaluator of one experiment against the stand-in
model; a test looks at what one of them answered. What prompt flow answers to the same forms is
compared in test_parity.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llmops import arguments, flows, package, plan
from llmops.errors import UserError
from standin import StandIn
from usecase import AOAI, Json, Outcome, UseCase

ROWS: list[Json] = [{"text": "one", "size": 1}, {"text": "two", "size": 2}]
ECHOES = [{"output": "echo: one"}, {"output": "echo: two"}]
CONFIGURATION = {"connection": "aoai", "azure_deployment": "standin-small"}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def prompty(settings: str, body: str = "user:\n{{text}}\n") -> str:
    return f"---\nname: Asks\nmodel:\n{settings}\n---\n{body}"


def asks(connection: str = "connection: aoai", more: str = "  parameters: {temperature: 0}") -> str:
    lines = ("  api: chat", "  configuration:", "    type: azure_openai", f"    {connection}")
    return "\n".join([*lines, "    azure_deployment: standin-small", more])


TEXT = "\ninputs:\n  text: {type: string}"
CLIENT = """
from openai import AzureOpenAI


def ask(address, key, deployment, text):
    client = AzureOpenAI(azure_endpoint=address, api_key=key, api_version="2024-02-01")
    messages = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(model=deployment, messages=messages)
    return answer.choices[0].message.content
"""

FILES: dict[str, dict[str, str | bytes]] = {
    "streamed_class": {
        "flow.flex.yaml": "entry: teller:Teller\nsample: ${file:examples/sample.json}\n",
        "examples/sample.json": json.dumps({"init": {"model_config": CONFIGURATION}}),
        "teller.py": """
from pathlib import Path

from promptflow.core import AzureOpenAIModelConfiguration, Prompty
from promptflow.tracing import trace


class Teller:
    def __init__(self, model_config: AzureOpenAIModelConfiguration, longest=5):
        model = {"configuration": model_config}
        self.prompty = Prompty.load(Path(__file__).with_name("tell.prompty"), model=model)

    @trace
    async def __call__(self, text: str, history: list = None) -> str:
        for part in self.prompty(text=text):
            yield part
""",
        "tell.prompty": prompty(
            "  api: chat\n  configuration: {type: azure_openai, azure_deployment: other}\n"
            "  parameters: {stream: true}" + TEXT
        ),
    },
    "postponed": {
        "flow.flex.yaml": "entry: desk.clerk:Clerk\ninit:\n  mark: {type: string, default: '!'}\n",
        "desk/__init__.py": "",
        "desk/client.py": CLIENT,
        "desk/clerk.py": """
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from promptflow.core import AzureOpenAIModelConfiguration, OpenAIModelConfiguration

from .client import ask

if TYPE_CHECKING:
    from nowhere import Unknown


@dataclass
class Letter:
    words: str
    marks: list[str]


class Writer:
    def __call__(self, text: str, unused: Optional[Unknown] = None) -> Letter:
        at = self.model
        return Letter(ask(at.azure_endpoint, at.api_key, at.azure_deployment, text), [self.mark])

    def __aggregate__(self, letters: list[Letter]) -> dict[str, float]:
        return {"letters": len(letters), "marks": sum(len(letter.marks) for letter in letters)}


class Clerk(Writer):
    def __init__(
        self, model: AzureOpenAIModelConfiguration | OpenAIModelConfiguration, mark: str
    ) -> None:
        self.model, self.mark = model, mark
""",
    },
    "inline": {
        "flow.flex.yaml": "entry: asker:Asker\n",
        "client.py": CLIENT,
        "asker.py": """
from client import ask
from promptflow.core import AzureOpenAIModelConfiguration


class Asker:
    def __init__(self, model: AzureOpenAIModelConfiguration):
        self.model = model

    def __call__(self, text: str):
        at = self.model
        return ask(at.azure_endpoint, at.api_key, at.azure_deployment, text)
""",
    },
    "linked": {
        "flow.flex.yaml": "entry: asker:Asker\n",
        "init.json": '{"link": "aoai"}',
        "asker.py": """
from promptflow.connections import AzureOpenAIConnection
from promptflow.tools.aoai import chat


class Asker:
    def __init__(self, link: AzureOpenAIConnection):
        self.link = link

    def __call__(self, text: str):
        prompt = f"user:\\n{text}"
        return chat(connection=self.link, prompt=prompt, deployment_name="standin-small")
""",
    },
    "traced_class": {
        "flow.dag.yaml": "entry: counter:Counter\n",
        "counter.py": """
from promptflow.core import log_metric
from promptflow.tracing import trace


@trace
class Counter:
    def __init__(self, start: int, step: int = 1) -> None:
        self.start = start

    def __call__(self, size: int) -> dict:
        return {"count": self.start + size}

    def __aggregate__(self, lines: list) -> list:
        log_metric("most", max(line["count"] for line in lines))
        return lines
""",
    },
    "instance": {
        "letters.flex.yaml": "entry: letters:upper\n",
        "letters.py": """
class Upper:
    def __init__(self, mark):
        self.mark = mark

    def __call__(self, text: str) -> str:
        return text.upper() + self.mark


upper = Upper("?")
""",
    },
    "prompty_json": {
        "a.prompty": prompty(
            asks(more="  parameters: {response_format: {type: json_object}}") + TEXT,
            "system:\nAnswer as JSON.\n\nuser:\n{{text}}\n",
        ),
        "b.prompty": prompty(asks()),
    },
    "prompty_sample": {
        "a.prompty": prompty(asks() + "\nsample: sample.json"),
        "sample.json": '{"text": "never asked"}',
    },
    "prompty_literal": {
        "a.prompty": prompty(
            asks(more="") + "\ninputs: {mood: calm, text: {type: str}}",
            "user:\n{{mood}} {{text}}\n",
        )
    },
    "prompty_image": {
        "dot.png": PNG,
        "a.prompty": prompty(
            asks() + TEXT + "\n  image: {default: 'data:image/png;path:dot.png'}",
            "user:\n{{text}}\n![image]({{image}})\n",
        ),
    },
    "prompty_all": {
        "a.prompty": prompty(asks(more="  parameters: {n: 2}\n  response: all") + TEXT)
    },
    "prompty_address": {"a.prompty": prompty(asks("azure_endpoint: ${env:AOAI_API_BASE}") + TEXT)},
    "plain_class": {
        "flow.py": """
import asyncio


class Longer:
    def __init__(self, by: str = "x"):
        self.by = by

    async def __call__(self, text, **others):
        await asyncio.sleep(0)
        return text + self.by

    def __aggregate__(self, lines):
        return {"length": max(len(line["output"]) for line in lines)}
""",
    },
    "plain_stream": {"flow.py": "def run(text):\n    yield from text\n"},
    "plain_nothing": {"flow.py": "def run(text):\n    print(text)\n"},
    "plain_dataclass": {
        "flow.py": "import shapes\n\nrun = shapes.measure\n",
        "shapes.py": """
from dataclasses import dataclass


@dataclass
class Shape:
    sides: int


def measure(size, *, least=0):
    return Shape(max(size, least))
""",
    },
    "plain_promptflow": {
        "__init__.py": "",
        "flow.py": """
from pathlib import Path

from promptflow.client import load_flow

from .words import ending


def run(text):
    return load_flow(Path(__file__).with_name("a.prompty"))(text=text) + ending()
""",
        "words.py": "def ending():\n    return '.'\n",
        "a.prompty": prompty(asks() + TEXT),
    },
}
EVALUATORS: dict[str, Json] = {
    "postponed": {"init": {"model": CONFIGURATION}},
    "inline": {
        "init": {
            "model": {
                "azure_endpoint": "${env:AOAI_API_BASE}",
                "api_key": "${env:AOAI_API_KEY}",
                "azure_deployment": "standin-small",
            }
        }
    },
    "traced_class": {"init": {"start": 10}},
    "prompty_json": {"flow": "flows/prompty_json/a.prompty"},
    "plain_class": {"flow": "flows/plain_class/flow.py:Longer", "init": {"by": "yz"}},
}
ANSWERS: dict[str, list[Json]] = {
    "streamed_class": ECHOES,
    "postponed": [{"words": f"echo: {row['text']}", "marks": ["!"]} for row in ROWS],
    "inline": ECHOES,
    "linked": ECHOES,
    "traced_class": [{"count": 11}, {"count": 12}],
    "instance": [{"output": "ONE?"}, {"output": "TWO?"}],
    "prompty_json": [{"title": "A day", "score": 3}] * 2,
    "prompty_sample": ECHOES,
    "prompty_literal": [{"output": "echo: calm one"}, {"output": "echo: calm two"}],
    "prompty_address": ECHOES,
    "plain_class": [{"output": "oneyz"}, {"output": "twoyz"}],
    "plain_stream": [{"output": "one"}, {"output": "two"}],
    "plain_nothing": [{"output": None}] * 2,
    "plain_dataclass": [{"sides": 1}, {"sides": 2}],
    "plain_promptflow": [{"output": "echo: one."}, {"output": "echo: two."}],
}
METRICS: dict[str, Json] = {
    "postponed": {"letters": 2, "marks": 2},
    "traced_class": {"most": 12},
    "prompty_json": {"score": 3},
    "plain_class": {"length": 5},
}


def evaluator(name: str) -> Json:
    data = {"name": "log", "source": "data/words.jsonl", "mappings": {}}
    return {"name": name, "flow": f"flows/{name}", "datasets": [data], **EVALUATORS.get(name, {})}


def variables(model: StandIn) -> dict[str, str]:
    return {"AOAI_API_BASE": model.url, "AOAI_API_KEY": "a-key"}


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    answer = json.dumps({"title": "A day", "score": 3})
    with StandIn(answers=[{"when": ["Answer as JSON."], "answer": answer}]) as standin:
        yield standin


@pytest.fixture(scope="module")
def answered(model: StandIn, tmp_path_factory: pytest.TempPathFactory) -> tuple[UseCase, Outcome]:
    """Every flow over every row, in one experiment."""
    use = UseCase(tmp_path_factory.mktemp("flows"))
    for name, files in FILES.items():
        for path, content in files.items():
            use.write(f"flows/{name}/{path}", content)
    use.rows(ROWS)
    use.configure(datasets=[], evaluators=[evaluator(name) for name in FILES], connections=[AOAI])
    done = use.run(LLM="live", **variables(model))
    return use, done


def rows_of(answered: tuple[UseCase, Outcome], name: str) -> list[Json]:
    use, done = answered
    assert done.summary, done.text
    (run,) = (run for run in done.summary["evaluations"] if run["evaluator"] == name)
    text = (use.folder / run["outputs"]).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_flow_runs_as_it_is(name: str, answered: tuple[UseCase, Outcome]) -> None:
    rows = rows_of(answered, name)
    assert [row.get("error") for row in rows] == [None, None]
    assert [row["outputs"] for row in rows] == ANSWERS[name]


@pytest.mark.parametrize("name", METRICS)
def test_its_own_metrics(name: str, answered: tuple[UseCase, Outcome]) -> None:
    assert answered[1].summary
    scores = [score for score in answered[1].summary["scores"] if score["evaluator"] == name]
    assert {score["metric"]: score["value"] for score in scores} == METRICS[name]


def test_an_image_beside_a_prompty_is_sent(answered: tuple[UseCase, Outcome]) -> None:
    (first, _) = rows_of(answered, "prompty_image")
    assert "data:image/png;base64,iVBOR" in first["outputs"]["output"]


def test_a_whole_response_is_an_output(answered: tuple[UseCase, Outcome]) -> None:
    (first, _) = rows_of(answered, "prompty_all")
    assert first["outputs"]["output"]["choices"][0]["message"]["content"] == "echo: one"


# ---- The arguments of a class


def classy(use: UseCase, **blocks: Any) -> None:
    """The standard flow becomes a class that needs an argument."""
    code = (
        "class Run:\n    def __init__(self, mark, *, times=1):\n        self.mark = mark * times\n"
    )
    code += "    def __call__(self, text):\n        return {'answer': text + self.mark}\n"
    use.write("flows/standard/runner.py", code)
    use.write("flows/standard/flow.flex.yaml", "entry: runner:Run\n")
    use.configure(**blocks)


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    return UseCase(tmp_path)


REFUSED: dict[str, tuple[Json, tuple[str, ...]]] = {
    "none": ({}, ("experiment.yaml: init: lacks 'mark'", "its arguments: mark, times")),
    "unknown": (
        {"init": {"mark": "!", "tmies": 2}},
        ("experiment.yaml: init.tmies: no argument of runner:Run", "expected one of mark, times"),
    ),
    "a connection that is none": (
        {"init": {"mark": {"connection": "aoia", "azure_deployment": "x"}}, "connections": [AOAI]},
        ("init.mark.connection: 'aoia', which experiment.yaml does not name (connections: aoai)",),
    ),
    "a key": (
        {"init": {"mark": {"api_key": "0123456789"}}},
        ("experiment.yaml: init: ", "api_key holds the secret itself", "${env:VARIABLE}"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_that_do_not_fit(case: str, use: UseCase) -> None:
    blocks, parts = REFUSED[case]
    classy(use, **blocks)
    done = use.run(LLM="replay")
    done.refused(*parts)
    assert "0123456789" not in done.text


def test_a_function_takes_no_arguments(use: UseCase) -> None:
    use.configure(init={"mark": "!"})
    use.run().refused(
        "init.mark: no argument of flow:run in flows/standard/flow.py (it takes none)"
    )


def test_an_evaluator_says_which_argument_it_lacks(use: UseCase) -> None:
    use.write("flows/evaluation/flow.flex.yaml", "entry: made:Made\n")
    use.write(
        "flows/evaluation/made.py",
        "class Made:\n    def __init__(self, least):\n        pass\n"
        "    def __call__(self, answer, truth):\n        return 1\n",
    )
    use.run().refused("experiment.yaml: evaluators[evaluation].init: lacks 'least'")


def test_other_arguments_are_another_run(use: UseCase) -> None:
    def answers() -> set[str]:
        done = use.run()
        assert done.code == 0, done.text
        assert done.summary
        run = use.folder / done.summary["runs"][0]["outputs"]
        lines = run.read_text(encoding="utf-8").splitlines()
        return {json.loads(line)["outputs"]["answer"][-2:] for line in lines}

    classy(use, init={"mark": "!", "times": 2})
    assert answers() == {"!!"}
    use.configure(init={"mark": "?", "times": 2})
    assert answers() == {"??"}
    assert {
        row["answer"][-2:]
        for row in (r["outputs"] for r in use.finished("default-words-*"))
        if "answer" in row
    } == {"!!", "??"}


def test_what_is_deployed_carries_the_arguments(use: UseCase, tmp_path: Path) -> None:
    classy(use)
    use.write("flows/standard/flow.flex.yaml", "entry: runner:Run\nsample: ${file:s.json}\n")
    use.write("flows/standard/s.json", '{"inputs": {"text": "a"}, "init": {"mark": "!"}}')
    found = flows.describe("flows/standard", use.folder)
    assert (found.takes, found.init) == ({"mark": True, "times": False}, {"mark": "!"})
    found.init["times"] = 3
    packed = package.package(found, plan.Variant("default", {}, {}, {}), tmp_path / "packed")
    sample = {"inputs": {"text": "a"}, "init": {"mark": "!", "times": 3}}
    assert packed.definition["sample"] == sample
    assert packed.init == sample["init"]


def test_a_python_class_is_deployed_with_its_arguments(use: UseCase, tmp_path: Path) -> None:
    code = (FILES["plain_class"]["flow.py"], EVALUATORS["plain_class"]["init"])
    use.write("flows/plain/flow.py", code[0])
    found = flows.describe("flows/plain/flow.py:Longer", use.folder)
    found.init.update(code[1])
    packed = package.package(found, plan.Variant("default", {}, {}, {}), tmp_path / "packed")
    assert packed.init == code[1]
    assert flows.describe("flow.py:Longer", tmp_path / "packed").init == code[1]


def test_a_flow_of_another_name_is_deployed_under_the_one_looked_for(
    use: UseCase, tmp_path: Path
) -> None:
    classy(use)
    (use.folder / "flows/standard/flow.flex.yaml").rename(use.folder / "flows/standard/a.flex.yaml")
    found = flows.describe("flows/standard", use.folder)
    packed = package.package(found, plan.Variant("default", {}, {}, {}), tmp_path / "packed")
    assert (found.file, packed.file) == ("a.flex.yaml", "flow.flex.yaml")
    assert not (tmp_path / "packed/a.flex.yaml").exists()


def test_a_variable_of_this_machine_is_none_of_the_cloud(use: UseCase) -> None:
    classy(use)
    found = flows.describe("flows/standard", use.folder)
    found.init["mark"] = {"azure_endpoint": "${env:AZURE_OPENAI_ENDPOINT}"}
    with pytest.raises(UserError, match=r"init\.mark: .*which Azure does not have"):
        arguments.require_portable(found)


def test_several_prompties_are_named(use: UseCase) -> None:
    (use.folder / "flows/standard/flow.py").unlink()
    for name in ("a", "b"):
        use.write(f"flows/standard/{name}.prompty", prompty(asks() + TEXT))
    use.run().refused("'flows/standard' holds no flow", "flows/standard/a.prompty")


# ---- Flows that read their endpoint from the environment

READS = """
import os

from openai import AzureOpenAI


def run(text):
    client = AzureOpenAI()
    messages = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(model=os.environ["CHAT_MODEL"], messages=messages)
    at = os.environ["AZURE_OPENAI_ENDPOINT"], os.environ["AZURE_OPENAI_API_KEY"]
    return {"answer": answer.choices[0].message.content, "at": at, "tone": os.environ["TONE"]}
"""


@pytest.fixture
def reads(use: UseCase) -> UseCase:
    use.write("flows/standard/flow.py", READS)
    link = AOAI | {"api_base": "${AZURE_OPENAI_ENDPOINT}", "api_key": "${AZURE_OPENAI_API_KEY}"}
    use.configure(connections=[link | {"model": "${CHAT_MODEL}"}], evaluators=[])
    use.rows([{"text": "one"}])
    return use


def test_a_flow_that_reads_the_variables_is_recorded_and_replayed(
    reads: UseCase, model: StandIn
) -> None:
    real = {"AZURE_OPENAI_ENDPOINT": model.url, "AZURE_OPENAI_API_KEY": "the-real-key-of-azure"}
    settings = {"TONE": "calm", "CHAT_MODEL": "standin-small"}
    reads.write(".env", "".join(f"{k}={v}\n" for k, v in (real | settings).items()))
    before = model.requests
    assert reads.run(LLM="live").code == 0
    assert reads.run(LLM="record").code == 0
    assert model.requests == before + 2
    reads.write(".env", "".join(f"{k}={v}\n" for k, v in (real | settings).items()))
    assert reads.run(LLM="replay", FRESH="1").code == 0
    assert model.requests == before + 2
    live, *kept = sorted((row["outputs"] for row in reads.finished()), key=lambda o: o["at"][1])[
        ::-1
    ]
    assert live["at"] == [model.url, "the-real-key-of-azure"]
    for row in kept:
        assert row["answer"] == "echo: one"
        assert row["tone"] == "calm"
        assert row["at"][0].startswith("http://127.0.0.1:")
        assert row["at"] != live["at"] and row["at"][1] == "replayed"


def test_an_openai_flow_that_knows_only_the_key_asks_the_recording(use: UseCase) -> None:
    code = "import os\n\ndef run(text):\n    return {'answer': os.environ['OPENAI_BASE_URL'], "
    use.write("flows/standard/flow.py", f"{code}'key': os.environ['OPENAI_API_KEY']}}\n")
    link = {"name": "o", "connection_type": "OpenAIConnection", "api_key": "${OPENAI_API_KEY}"}
    use.configure(connections=[link], evaluators=[])
    assert use.run(LLM="replay", OPENAI_API_KEY="sk-the-real-one").code == 0
    answers = [row["outputs"] for row in use.finished()]
    assert {answer["key"] for answer in answers} == {"replayed"}
    assert all(answer["answer"].startswith("http://127.0.0.1:") for answer in answers)
