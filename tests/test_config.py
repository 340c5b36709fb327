"""experiment.yaml: what is understood, what is refused and how, and that nothing else happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import llmops
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llmops import config
from llmops.data import apply_mappings, complete_mappings
from llmops.errors import UserError
from ruamel.yaml import YAML
from usecase import UseCase

Json = dict[str, Any]

HOUSE = Path(llmops.__file__).resolve().parents[1]
SCHEMA = HOUSE / config.SCHEMA
FILES = sorted(HOUSE.glob("examples/*/experiment*.yaml"))


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    return UseCase(tmp_path)


def load(folder: Path, text: str, env: str = "dev", **overlays: str) -> config.Experiment:
    """The experiment of these files."""
    (folder / "experiment.yaml").write_text(text, encoding="utf-8")
    for name, content in overlays.items():
        (folder / f"experiment.{name}.yaml").write_text(content, encoding="utf-8")
    return config.load(env, folder)


# ---- The format of Microsoft's template

UPSTREAM = """
name: named_entity_recognition
flow: flows/standard
runtime: ci-runtime

connections:
- name: aoai
  connection_type: AzureOpenAIConnection
  api_base: https://example.openai.azure.com/
  api_version: 2023-07-01-preview
  api_key: ${api_key}
  api_type: azure

- name: gpt4
  connection_type: AzureOpenAIConnection
  api_endpoint: https://example.openai.azure.com/
  api_version: 2024-02-01
  api_key: ${api_key}

datasets:
- name: ner_training
  source: data/data.jsonl
  description: "This dataset is for pr validation only."
  mappings:
    text: "${data.text}"
    entity_type: "${data.entity_type}"

evaluators:
- name: evaluation
  flow: flows/evaluation
  datasets:
  - name: ner_test
    reference: ner_training
    source: data/eval_data.jsonl
    description:
    mappings:
      ground_truth: "${data.results}"
      entities: "${run.outputs.entities}"
"""


def test_a_file_of_microsofts_template_loads_unchanged(tmp_path: Path) -> None:
    experiment = load(tmp_path, UPSTREAM)

    assert experiment.name == "named_entity_recognition"
    assert experiment.runtime == "ci-runtime"
    assert [c.name for c in experiment.connections] == ["aoai", "gpt4"]
    assert experiment.connections[0].api_base == "https://example.openai.azure.com/"
    assert experiment.connections[1].api_endpoint == "https://example.openai.azure.com/"
    assert experiment.connections[1].api_version == "2024-02-01"  # and not a date
    assert experiment.datasets[0].mappings["text"] == "${data.text}"
    assert experiment.evaluators[0].datasets[0].reference == "ner_training"
    assert experiment.variants == ("all",)


def test_an_overlay_replaces_whole_blocks_and_may_repeat_the_name(tmp_path: Path) -> None:
    overlay = """
name: named_entity_recognition
flow: flows/standard
datasets:
- name: ner_pr
  source: data/pr.jsonl
evaluators:
"""
    experiment = load(tmp_path, UPSTREAM, "pr", pr=overlay)

    assert [dataset.name for dataset in experiment.datasets] == ["ner_pr"]
    assert experiment.datasets[0].mappings == {}
    assert experiment.evaluators == ()
    assert experiment.runtime == "ci-runtime"
    assert experiment.file("datasets") == "experiment.pr.yaml"
    assert experiment.file("connections") == "experiment.yaml"


def test_without_an_overlay_dev_is_the_file_itself(tmp_path: Path) -> None:
    assert load(tmp_path, UPSTREAM, "dev", pr="datasets:\nevaluators:\n").datasets
    assert config.load("pr", tmp_path).datasets == ()


def test_an_empty_key_counts_as_absent(tmp_path: Path) -> None:
    text = "name: a\nvariants:\nparameters:\nlimits:\ngate:\nconnections:\nprices:\n"
    assert load(tmp_path, text).model_dump() == load(tmp_path, "name: a\n").model_dump()


def test_a_flow_that_is_not_named_has_the_name_of_the_experiment(use: UseCase) -> None:
    (use.folder / "flows/standard").rename(use.folder / "flows/words")
    del use.blocks["flow"]
    use.configure()
    assert use.run("validate").code == 0


def test_a_bom_crlf_and_utf8_are_fine(tmp_path: Path) -> None:
    text = "\ufeffname: Größe\r\ndatasets:\r\n- name: ä\r\n  source: d.jsonl\r\n"
    experiment = load(tmp_path, text)
    assert (experiment.name, experiment.datasets[0].name) == ("Größe", "ä")


# ---- Problems


def test_one_validate_finds_every_problem(use: UseCase) -> None:
    (dataset,), (evaluator,) = use.blocks["datasets"], use.blocks["evaluators"]
    mappings = {"answer": "${run.outputs.answer}", "truth": "${data.truht}", "more": 1}
    score = {"name": "test", "reference": "wrods", "source": "data/words.jsonl"}
    use.rows([{"text": "b", "answer": "B"}], "data/unmapped.jsonl")
    use.configure(
        datasets=[
            dataset,
            dataset | {"source": "data/gone.jsonl"},
            {"name": "mapped", "source": "data/words.jsonl", "mappings": {"text": "${data.txt}"}},
        ],
        evaluators=[
            evaluator | {"datasets": [{"name": "words", "mappings": mappings}, score]},
            {
                "name": "second",
                "flow": "flows/evaluation",
                "datasets": [{"name": "log", "source": "data/unmapped.jsonl"}],
            },
            {"name": "third", "flow": "flows/evalution", "datasets": [{"name": "words"}]},
        ],
        gate={"checks": [{"evaluator": "evaluaton", "metric": "match", "min": 1}]},
        variants=["node.variant"],
        limit={"concurrency": 4},
    )
    outcome = use.run("validate")

    outcome.refused()
    assert sorted(outcome.err.splitlines()) == sorted(
        [
            "experiment.yaml: unknown key 'limit' (expected one of 'approval', 'azure', "
            "'connections', 'datasets', 'evaluators', 'flow', 'gate', 'index', 'init', 'limits', "
            "'name', 'parameters', 'prices', 'repeats', 'runtime', 'variants').",
            "experiment.yaml: datasets: name 'words' is used 2 times. Give each its own.",
            "experiment.yaml: datasets[words].source: 'data/gone.jsonl' is not there "
            "(files: data/unmapped.jsonl, data/words.jsonl).",
            "experiment.yaml: datasets[mapped].mappings.text: '${data.txt}': data/words.jsonl: "
            "line 1 has no such column (columns: text, truth).",
            "experiment.yaml: evaluators[evaluation].datasets[test].reference: 'wrods' names no "
            "dataset (expected one of 'mapped', 'words').",
            "experiment.yaml: evaluators[evaluation].datasets[words].mappings.truth: "
            "'${data.truht}': data/words.jsonl: line 1 has no such column (columns: text, truth).",
            "experiment.yaml: evaluators[evaluation].datasets[words].mappings.more: no input of "
            "flows/evaluation/flow.py (expected one of answer, truth).",
            "experiment.yaml: evaluators[second].datasets[log].mappings: nothing maps the input "
            "'truth' of flows/evaluation/flow.py, and data/unmapped.jsonl: line 1 has no column of "
            "that name (columns: answer, text).",
            "experiment.yaml: evaluators[third].flow: 'flows/evalution' is not there "
            "(expected one of flows/evaluation, flows/standard).",
            "experiment.yaml: gate.checks[0].evaluator: 'evaluaton' "
            "(expected one of evaluation, second, third).",
            "experiment.yaml: variants: 'node.variant' is not a variant of flows/standard "
            "(expected one of all, combinations, default).",
        ]
    )
    assert not (use.folder / "runs").exists()
    assert not (use.folder / "reports").exists()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"limits": {"concurrency": 0}}, "limits.concurrency: expected 1 or more, found 0."),
        ({"limits": {"retries": "3"}}, 'limits.retries: expected a whole number, found "3".'),
        ({"limits": {"timeout_s": True}}, "limits.timeout_s: expected a number, found true."),
        ({"limits": {"timeout_s": 0}}, "limits.timeout_s: expected more than 0, found 0."),
        (
            {"limits": {"timeout": 4}},
            "limits: unknown key 'timeout' (expected one of 'concurrency'",
        ),
        ({"datasets": {"name": "a"}}, "datasets: expected a list, found"),
        ({"datasets": [{"name": "a"}]}, "datasets[a].source: missing. Add it."),
        ({"datasets": [{"source": "a"}]}, "datasets[0].name: missing. Add it."),
        ({"datasets": ["a"]}, 'datasets[0]: expected keys and values, found "a".'),
        ({"evaluators": [{"name": "a", "datasets": []}]}, "evaluators[a].datasets: empty."),
        ({"parameters": {"text": "a"}}, 'parameters.text: expected a list, found "a".'),
        ({"parameters": {"text": []}}, "parameters.text: has no values."),
        (
            {"parameters": {"txet": ["a"]}},
            "parameters: 'txet' is no input of flows/standard/flow.py",
        ),
        ({"variants": []}, "variants: empty. List at least one."),
        ({"name": 5}, "name: expected a text, found 5."),
        ({"gate": {"checks": [{"evaluator": "e", "metric": "m"}]}}, "gate.checks[0]: has no limit"),
        ({"prices": {"m": {"prompt": -1}}}, "prices.m.prompt: expected 0 or more, found -1."),
        ({"connections": [{"name": "a", "key": "b"}]}, "connections[a]: unknown key 'key'"),
    ],
)
def test_a_problem_names_file_key_value_and_choices(
    blocks: Json, message: str, use: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    use.configure(**blocks)
    monkeypatch.chdir(use.folder)
    from llmops import validate

    with pytest.raises(UserError) as caught:
        validate.load()
    assert f"experiment.yaml: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("mappings", "message"),
    [
        ({"text": "${run.outputs.answer}"}, "'${run.outputs.answer}' refers to nothing"),
        (
            {"text": "${dta.text}"},
            "'${dta.text}' refers to nothing (expected one of ${data.<column>}).",
        ),
        ({"text": "Q: ${data.text}"}, "'Q: ${data.text}' would be taken as it stands."),
        ({"text": "$data.text"}, "'$data.text' would be taken as it stands."),
        ({"text": "{ data.text }"}, "'{ data.text }' would be taken as it stands."),
        (
            {"text": "${data.a}", "b": 1},
            "no input of flows/standard/flow.py (expected one of text)",
        ),
    ],
)
def test_a_mapping_that_refers_to_nothing_is_found(
    mappings: Json, message: str, use: UseCase
) -> None:
    (dataset,) = use.blocks["datasets"]
    use.configure(datasets=[dataset | {"mappings": mappings}])
    use.run("validate").refused("experiment.yaml: datasets[words].mappings", message)


def test_an_evaluator_can_only_score_outputs_that_there_are(use: UseCase) -> None:
    use.write("flows/standard/flow.flex.yaml", "entry: flow:run\noutputs:\n  answer: {}\n")
    (evaluator,) = use.blocks["evaluators"]
    mappings = {"answer": "${run.outputs.anwser}", "truth": "${run.inputs.txt}"}
    use.configure(evaluators=[evaluator | {"datasets": [{"name": "words", "mappings": mappings}]}])
    use.run("validate").refused(
        "'${run.outputs.anwser}': the scored run has no such output (expected one of answer)",
        "'${run.inputs.txt}': the scored run has no such input (expected one of text, truth)",
    )


def test_literals_and_any_further_input_are_fine(use: UseCase) -> None:
    use.write(
        "flows/standard/flow.py", "def run(text, **more):\n    return {'answer': str(more)}\n"
    )
    (dataset,) = use.blocks["datasets"]
    literals = {"number": 3, "none": None, "list": [1], "word": "plain", "price": "${5}$"}
    use.configure(datasets=[dataset | {"mappings": literals}])
    outcome = use.run("try")
    assert outcome.code == 0, outcome.text
    assert "'number': 3, 'none': None, 'list': [1], 'word': 'plain'" in outcome.out


def test_data_in_azure_is_refused_for_a_local_run(use: UseCase) -> None:
    (dataset,) = use.blocks["datasets"]
    use.configure(datasets=[dataset | {"source": "azureml:words:1"}])
    use.run("validate").refused("datasets[words].source: 'azureml:words:1'", "TARGET=azure")


def test_rows_that_are_matched_line_by_line_must_be_as_many(use: UseCase) -> None:
    (evaluator,) = use.blocks["evaluators"]
    use.rows([{"truth": "A"}], "data/truth.jsonl")
    score = {"name": "test", "reference": "words", "source": "data/truth.jsonl"}
    mappings = {"answer": "${run.outputs.answer}"}
    use.configure(evaluators=[evaluator | {"datasets": [score | {"mappings": mappings}]}])
    use.run("validate").refused(
        "evaluators[evaluation].datasets[test].source: data/truth.jsonl has 1 rows",
        "data/words.jsonl of dataset 'words' has 6",
    )


def test_a_problem_of_an_overlay_names_the_overlay(use: UseCase) -> None:
    use.write("experiment.pr.yaml", "name: other\nlimits: {concurrency: many}\n")
    outcome = use.run("validate", ENV="pr")
    outcome.refused(
        'experiment.pr.yaml: name: "other" differs from "words" in experiment.yaml',
        'experiment.pr.yaml: limits.concurrency: expected a whole number, found "many".',
    )


def test_an_environment_without_its_file_names_the_choices(use: UseCase) -> None:
    use.write("experiment.pr.yaml", "")
    use.write("experiment.prod.yaml", "")
    use.run("validate", ENV="prd").refused(
        "ENV: 'prd' has no file experiment.prd.yaml (expected one of 'dev', 'pr', 'prod')."
    )


def test_the_wrong_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"experiment\.yaml: not found\. Run the task in the folder"
    ):
        config.load("dev", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "line 2: not valid YAML: the key 'name' stands twice"),
        ("name: a\n b: c\n", "line 2: not valid YAML"),
        ("name: [a\n", "line 2: not valid YAML"),
        ("name: !secret a\n", "line 1: not valid YAML"),
        ("name: \x01\n", "not valid YAML"),
        ("- a\n", "expected keys and values at the top, found a list"),
        ("&a [*a]\n", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_what_is_not_yaml_is_told_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "experiment.yaml: "))
    assert message in str(caught.value)


def test_what_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_bytes("name: ä".encode("latin-1"))
    with pytest.raises(UserError, match=r"not UTF-8 \(byte 6\)"):
        config.load("dev", tmp_path)


# ---- Secrets

SECRET = "sk-0123456789-secret"


@pytest.mark.parametrize(
    "connection",
    [
        f"{{name: aoai, api_key: {SECRET}}}",
        f"{{name: aoai, api_key: ['{SECRET}']}}",
        f"{{name: aoai, apikey: {SECRET}}}",
        f"{{name: aoai, api_key: {SECRET}, api_key: {SECRET}}}",
        f"{{name: search, connection_type: CustomConnection, secrets: {{token: {SECRET}}}}}",
        f"{{name: search, connection_type: CustomConnection, secrets: {SECRET}}}",
        f"{SECRET}",
        f"{{name: aoai, api_key: {SECRET}: }}",
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(connection: str, use: UseCase) -> None:
    use.write("experiment.yaml", f"name: a\nconnections:\n- {connection}\n")
    outcome = use.run("validate")
    outcome.refused("experiment.yaml")
    assert SECRET not in outcome.text


def test_a_key_in_the_file_is_told_where_it_belongs(use: UseCase) -> None:
    use.configure(connections=[{"name": "aoai", "api_key": SECRET}])
    use.run("validate").refused("connections[aoai].api_key", "${api_key}", ".env")


def test_a_placeholder_and_a_variable_are_no_secrets(tmp_path: Path) -> None:
    for value in ("${api_key}", "${ TEAM_KEY }", "<your key>"):
        text = f"name: a\nconnections: [{{name: aoai, api_key: '{value}'}}]\n"
        assert load(tmp_path, text).connections[0].api_key == value


# ---- Whatever stands in the file

KEYS = st.one_of(
    st.sampled_from(sorted(config.Experiment.model_fields)),
    st.sampled_from(
        ["source", "mappings", "reference", "checks", "metric", "evaluator", "min", "api_key"]
    ),
    st.text(max_size=5),
)
JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["all", "words", "data/words.jsonl", "${data.text}", "flows/standard"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=4),
        st.builds(lambda item: {"name": "words", **item}, st.dictionaries(KEYS, inner, max_size=3)),
    ),
    max_leaves=15,
)


@pytest.fixture(scope="module")
def junkyard(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    return UseCase(tmp_path_factory.mktemp("junk"))


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(KEYS, JUNK, max_size=5))
def test_junk_is_a_problem_and_never_a_crash(junkyard: UseCase, blocks: Json) -> None:
    from llmops import validate

    file = junkyard.write("experiment.yaml", json.dumps({"name": "words"} | blocks))
    try:
        experiment = config.load("dev", junkyard.folder)
        assert isinstance(experiment, config.Experiment)
        validate.check(experiment, (), junkyard.folder)
    except UserError as error:
        assert str(error)
    finally:
        file.unlink()


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_is_a_problem_or_an_experiment(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.mktemp("text")
    try:
        (folder / "experiment.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        config.load("dev", folder)
    except UserError as error:
        assert str(error)


# ---- Mappings, compared with promptflow's

PROMPTFLOW = """
import json, sys
from promptflow._utils._errors import ApplyInputMappingError
from promptflow._utils.inputs_mapping_utils import apply_inputs_mapping
for line in sys.stdin:
    try:
        answer = apply_inputs_mapping(*json.loads(line))
    except ApplyInputMappingError:
        answer = None
    print(json.dumps(answer), flush=True)
"""
NAMES = st.sampled_from(["a", "b", "a.b", "text", "line_number", "outputs.x", "ü"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=4,
)
RECORDS = st.dictionaries(NAMES, VALUES, max_size=4)
REFERENCES = st.builds(
    "${{{}.{}}}".format, st.sampled_from(["data", "run.outputs", "run.inputs", "run", "x"]), NAMES
)
EXPRESSIONS = st.one_of(REFERENCES, VALUES, st.sampled_from(["${}", "${data}", "${data.a}\n", "$"]))


@pytest.fixture(scope="module")
def promptflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Json | None]]:
    """promptflow's own function, in a process with its telemetry off; null where it raises."""
    home = tmp_path_factory.mktemp("promptflow")
    (home / "pf.yaml").write_text("telemetry:\n  enabled: false\n")
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROMPTFLOW],
        env=os.environ | {"PF_HOME_DIRECTORY": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin and child.stdout

    def ask(*arguments: Json) -> Json | None:
        child.stdin.write(json.dumps(arguments) + "\n")
        child.stdin.flush()
        answer: Json | None = json.loads(child.stdout.readline())
        return answer

    yield ask
    child.stdin.close()
    child.wait(timeout=20)
    child.stdout.close()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(NAMES, EXPRESSIONS, max_size=4), RECORDS, RECORDS, RECORDS)
def test_mappings_mean_what_promptflow_says(
    promptflow: Callable[..., Json | None], mappings: Json, data: Json, inputs: Json, outputs: Json
) -> None:
    sources = {"data": data, "run.inputs": inputs, "run.outputs": outputs}
    theirs = promptflow(sources, mappings)
    if theirs is None:
        with pytest.raises(KeyError):
            apply_mappings(mappings, sources)
    else:
        assert apply_mappings(mappings, sources) == theirs


def test_an_input_that_nothing_maps_is_the_column_of_its_name() -> None:
    inputs = {"text": True, "question": True, "count": False}
    assert complete_mappings({"question": "${data.q}"}, inputs) == {
        "text": "${data.text}",
        "question": "${data.q}",
    }


# ---- The schema for editors


def test_the_shipped_schema_is_that_of_the_models() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == config.schema(), (
        "write it again: python -c 'from llmops import config; config.SCHEMA.write_text("
        'config.schema(), encoding="utf-8")\''
    )
    jsonschema.Draft202012Validator.check_schema(json.loads(config.schema()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_each_example_names_the_schema_and_keeps_to_it(file: Path) -> None:
    first, _, text = file.read_text(encoding="utf-8").partition("\n")
    assert first == f"# yaml-language-server: $schema={config.SCHEMA.as_posix()}"
    document = YAML(typ="safe", pure=True).load(text) or {}
    jsonschema.validate(document, json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_the_schema_refuses_what_loading_refuses() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(config.schema()))
    for wrong in ({"limit": {}}, {"limits": {"concurrency": 0}}, {"datasets": [{"name": "a"}]}):
        assert list(validator.iter_errors(wrong)), wrong


def test_all_examples_are_there() -> None:
    assert len({file.parent for file in FILES}) == 5


def test_two_datasets_of_one_evaluator_over_the_same_runs(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    first = use.blocks["evaluators"][0]["datasets"][0]
    second = {**first, "name": "again", "reference": "words", "source": "data/words.jsonl"}
    use.blocks["evaluators"][0]["datasets"].append(second)
    use.configure()
    use.run("validate").refused("evaluators[evaluation].datasets", "2 of them", "over 'words'")
