"""Use cases of both upstream generations and code-first repos, as `make onboard` takes them in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llmops import config, validate
from llmops.errors import UserError
from llmops.onboarding import code_first, use_case
from llmops.onboarding.proposal import Proposal
from ruamel.yaml import YAML

FIXTURE = Path(__file__).parent / "onboarding" / "parcel_questions"
Json = dict[str, Any]
BOTH = "flows/grading, flows/grading_strict"
NODES_AND_INCLUDE = "additional_includes:\n- ../../../common\nnodes:\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A use case with experiment.yaml, and with tests, which would be collected below tests/."""
    found = Path(shutil.copytree(FIXTURE, tmp_path / "from" / "parcel_questions"))
    (found / "tests").mkdir()
    for name in ("test_parcels.py", "test_delete_this_file.py"):
        (found / "tests" / name).write_text("def test_it() -> None: ...\n", encoding="utf-8")
    return found


@pytest.fixture
def trio(folder: Path) -> Path:
    """The same use case as the template of 2023 has it."""
    for path in folder.glob("experiment*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    about = {"KEYVAULT_NAME": "kv-parcels", "RESOURCE_GROUP_NAME": "rg", "WORKSPACE_NAME": "ws"}
    flows = {"STANDARD_FLOW_PATH": "flows/answer", "EVALUATION_FLOW_PATH": "flows/grading"}
    log = {"ENV_NAME": "postprodeval", "STANDARD_FLOW_PATH": "flows/after_release"}
    envs: list[Json] = [
        {"ENV_NAME": "pr", "RUNTIME_NAME": "", **about, **flows},
        {"ENV_NAME": "dev", "RUNTIME_NAME": "small", **about, **flows},
        {**log, "RUNTIME_NAME": "", **about},
    ]
    write_json(folder / "llmops_config.json", {"envs": envs})
    rows = [
        ("pr", "pr_data", "data/questions.jsonl", "parcels_pr", None),
        ("dev", "test_data", "data/answers.jsonl", "parcels_test", "parcels_train"),
        ("dev", "training_data", "data/questions.jsonl", "parcels_train", None),
        ("postprodeval", "post_production_eval_data", "data/production_log.jsonl", "log", None),
    ]
    write_json(folder / "configs/data_config.json", {"datasets": [dataset(*row) for row in rows]})
    mapping = {
        "experiment": {"question": "${data.question}"},
        "evaluation": {"grading": {"truth": "${data.truth}", "answer": "${run.outputs.answer}"}},
    }
    write_json(folder / "configs/mapping_config.json", mapping)
    return folder


def dataset(env: str, purpose: str, path: str, name: str, related: str | None) -> Json:
    found = {"ENV_NAME": env, "DATA_PURPOSE": purpose, "DATA_PATH": path, "DATASET_NAME": name}
    more = {"RELATED_EXP_DATASET": related} if related else {}
    return {**found, **more, "DATASET_DESC": f"{name} of {env}"}


def write_json(path: Path, document: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def written(proposal: Proposal, repo: Path) -> Path:
    """A repo that consists of the proposal."""
    for copied in proposal.copies:
        target = repo / copied.target
        target.parent.mkdir(parents=True, exist_ok=True)
        assert not target.exists(), f"{copied.target} twice"
        shutil.copyfile(copied.source, target)
    for path, document in proposal.documents.items():
        assert not (repo / path).exists(), f"{path} twice"
        (repo / path).parent.mkdir(parents=True, exist_ok=True)
        with (repo / path).open("w", encoding="utf-8") as file:
            YAML().dump(document, file)
    for path, text in proposal.texts.items():
        assert not (repo / path).exists(), f"{path} twice"
        (repo / path).parent.mkdir(parents=True, exist_ok=True)
        (repo / path).write_text(text, encoding="utf-8")
    return repo


def valid(repo: Path, *envs: str) -> dict[str, config.Experiment]:
    """The experiment of each environment, all of which pass `make validate`."""
    found = {}
    for env in envs:
        found[env], _ = validate.load(env, root=repo)
    return found


def reasons(proposal: Proposal) -> dict[str, str]:
    return {left.path.name: left.reason for left in proposal.left}


def told(proposal: Proposal, *parts: str) -> bool:
    return any(all(part in note for part in parts) for note in proposal.notes)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# experiment.yaml


def test_an_experiment_that_fits_comes_in_to_the_byte(folder: Path, tmp_path: Path) -> None:
    before = snapshot(folder)
    proposal = use_case.propose(folder)
    repo = written(proposal, tmp_path / "repo")

    assert snapshot(folder) == before
    assert Path("experiment.yaml") not in proposal.documents
    for name in ("experiment.yaml", "experiment.pr.yaml", "configs/deployment_config.json"):
        assert (repo / name).read_bytes() == (folder / name).read_bytes()
    found = valid(repo, "dev", "pr", "postprod")
    assert found["pr"].evaluators == ()
    assert proposal.name == "parcel_questions"
    assert proposal.lines[Path(".env.example")] == [
        "#AOAI_API_ENDPOINT=https://<resource>.openai.azure.com/",
        "#AOAI_API_KEY=<key>",
    ]


def test_post_production_becomes_an_evaluator_over_the_log(folder: Path, tmp_path: Path) -> None:
    proposal = use_case.propose(folder)
    experiment = valid(written(proposal, tmp_path), "postprod")["postprod"]

    assert experiment.datasets == ()
    (evaluator,) = experiment.evaluators
    assert (evaluator.name, evaluator.flow) == ("after_release", "flows/after_release")
    assert evaluator.datasets[0].source == "data/production_log.jsonl"
    assert evaluator.datasets[0].reference is None
    assert told(proposal, "make monitor", "data/production_log.jsonl")


def test_what_stays_behind_is_named_with_what_takes_its_place(folder: Path) -> None:
    proposal = use_case.propose(folder)
    found = reasons(proposal)

    folders = [".github", "environment", "local_execution", "data_pipelines", "experiment-1"]
    assert {*folders, "test_delete_this_file.py"} <= set(found)
    assert all(len(reason) > 20 for reason in found.values())
    targets = {copied.target.as_posix() for copied in proposal.copies}
    assert not [t for t in targets for name in found if name in t.split("/")]
    assert {"tests/test_parcels.py", "flows/grading/compare.py", "sample-request.json"} <= targets
    names = {path.relative_to(folder).as_posix() for path in proposal.requirements}
    assert names == {"flows/answer/requirements.txt", "environment/requirements.txt"}


@pytest.mark.parametrize("name", ["experiment_qa.yaml", "experiment-qa.yaml", "experiment.qa.yml"])
def test_every_spelling_of_an_overlay(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "experiment.pr.yaml").rename(folder / name)
    repo = written(use_case.propose(folder), tmp_path / "repo")

    assert valid(repo, "qa")["qa"].datasets[0].name == "parcels_pr"


def test_of_two_files_for_one_environment_the_newer_name_counts(folder: Path) -> None:
    shutil.copy(folder / "experiment.pr.yaml", folder / "experiment_pr.yaml")

    assert "newer name" in reasons(use_case.propose(folder))["experiment_pr.yaml"]


def test_an_overlay_that_is_wrapped_in_a_key(folder: Path, tmp_path: Path) -> None:
    text = (folder / "experiment.pr.yaml").read_text(encoding="utf-8")
    inner = "".join(f"  {line}\n" for line in text.splitlines())
    (folder / "experiment.pr.yaml").unlink()
    (folder / "experiment_pr.yaml").write_text(f"env_name: pr\n\nexperiment_config:\n{inner}")
    proposal = use_case.propose(folder)

    assert valid(written(proposal, tmp_path), "pr")["pr"].datasets[0].name == "parcels_pr"
    assert told(proposal, "experiment.pr.yaml", "experiment_pr.yaml")


def test_a_change_keeps_the_comments_and_is_told(folder: Path, tmp_path: Path) -> None:
    edit(
        folder / "experiment.yaml",
        ("api_key: ${api_key}", "api_key: 0123456789abcdef\n  owner: parcels"),
        ("source: data/questions.jsonl", "source: questions.jsonl"),
        ('  description: "Questions of', '  conditions: [dev]\n  description: "Questions of'),
    )
    proposal = use_case.propose(folder)
    repo = written(proposal, tmp_path / "repo")
    text = (repo / "experiment.yaml").read_text(encoding="utf-8")

    (connection,) = valid(repo, "dev")["dev"].connections
    assert connection.api_key == "${api_key}"
    assert connection.configs == {"owner": "parcels"}
    assert "# How parcels are asked about" in text
    assert "# four of them" in text
    assert "0123456789abcdef" not in text + str(proposal)
    assert told(proposal, "datasets[parcels_train].source", "'data/questions.jsonl'")
    assert told(proposal, "conditions")
    assert told(proposal, "AOAI_API_KEY", "make a new one")


def test_connections_that_flows_use_and_no_file_names_are_added(
    folder: Path, tmp_path: Path
) -> None:
    text = (folder / "experiment.yaml").read_text(encoding="utf-8")
    head, rest = text.split("connections:")
    (folder / "experiment.yaml").write_text(head + "datasets:" + rest.partition("datasets:")[2])
    proposal = use_case.propose(folder)

    experiment = valid(written(proposal, tmp_path / "repo"), "dev")["dev"]
    assert [one.name for one in experiment.connections] == ["aoai"]
    assert told(proposal, "added aoai")


def test_connections_of_an_environment_are_completed_too(folder: Path, tmp_path: Path) -> None:
    text = "name: parcel_questions\nconnections:\n- name: other\n"
    (folder / "experiment.dev.yaml").write_text(text)
    repo = written(use_case.propose(folder), tmp_path / "repo")

    names = [one.name for one in valid(repo, "dev")["dev"].connections]
    assert names == ["other", "aoai"]


def test_evaluators_without_their_datasets_are_left_out_of_an_overlay(
    folder: Path, tmp_path: Path
) -> None:
    edit(folder / "experiment.pr.yaml", ("evaluators:\n", ""))
    proposal = use_case.propose(folder)

    assert valid(written(proposal, tmp_path), "pr")["pr"].evaluators == ()
    assert told(proposal, "experiment.pr.yaml: evaluators")


def test_a_second_dataset_over_the_same_run_gets_its_own_evaluator(
    folder: Path, tmp_path: Path
) -> None:
    path = folder / "experiment.yaml"
    block = path.read_text(encoding="utf-8").split("  - name: parcels_test")[1]
    path.write_text(f"{path.read_text(encoding='utf-8')}  - name: parcels_again{block}")
    proposal = use_case.propose(folder)

    evaluators = valid(written(proposal, tmp_path), "dev")["dev"].evaluators
    assert [one.name for one in evaluators] == ["grading", "grading_parcels_again"]
    assert told(proposal, "second time")


def test_mappings_to_nothing_are_taken_out(folder: Path, tmp_path: Path) -> None:
    edit(folder / "experiment.pr.yaml", ('question: "${data.question}"', 'q: "${data.q}"'))
    proposal = use_case.propose(folder)

    assert valid(written(proposal, tmp_path), "pr")["pr"].datasets[0].mappings == {}
    assert told(proposal, "q: '${data.q}'", "no such input")


def test_data_that_is_not_there_is_told(folder: Path) -> None:
    edit(folder / "experiment.yaml", ("data/answers.jsonl", "azureml:answers:3"))
    edit(folder / "experiment.pr.yaml", ("data/questions.jsonl", "data/gone.jsonl"))
    proposal = use_case.propose(folder)

    assert told(proposal, "azureml:answers:3", "TARGET=azure")
    assert told(proposal, "experiment.pr.yaml", "data/gone.jsonl", "not there")


def test_another_flow_with_evaluators_is_another_use_case(folder: Path, tmp_path: Path) -> None:
    text = (folder / "experiment.yaml").read_text(encoding="utf-8")
    (folder / "experiment.beta.yaml").write_text(text.replace("flows/answer", "flows/answer_b"))
    proposal = use_case.propose(folder)

    assert "use case of its own" in reasons(proposal)["experiment.beta.yaml"]
    valid(written(proposal, tmp_path / "repo"), "dev")


def test_a_sample_request_without_an_input_is_completed(folder: Path, tmp_path: Path) -> None:
    (folder / "sample-request.json").write_text('{"language": "en"}')
    repo = written(use_case.propose(folder), tmp_path / "repo")

    found = json.loads((repo / "sample-request.json").read_text(encoding="utf-8"))
    assert found == {"question": "Where is parcel 17?", "language": "en"}
    valid(repo, "dev")


def test_a_flow_named_by_its_folder_alone(folder: Path, tmp_path: Path) -> None:
    edit(folder / "experiment.yaml", ("flow: flows/answer", "flow: answer"))
    repo = written(use_case.propose(folder), tmp_path / "repo")

    assert valid(repo, "dev", "postprod")["dev"].flow == "answer"


def test_what_a_flow_includes_from_elsewhere_is_named(folder: Path) -> None:
    edit(folder / "flows/answer/flow.dag.yaml", ("nodes:\n", NODES_AND_INCLUDE))
    (folder.parent / "common").mkdir()

    assert "outside the use case" in reasons(use_case.propose(folder))["common"]


def test_deployments_that_are_refused_later_are_told_now(folder: Path, tmp_path: Path) -> None:
    edit(
        folder / "configs/deployment_config.json",
        ('"ENDPOINT_DESC"', '"COLOUR": "blue", "ENDPOINT_DESC"'),
    )
    proposal = use_case.propose(folder)

    copied = written(proposal, tmp_path / "repo") / "configs/deployment_config.json"
    assert '"COLOUR"' in copied.read_text(encoding="utf-8")
    assert told(proposal, "configs/deployment_config.json", "COLOUR", "make deploy")


def test_the_repos_own_files_keep_their_places(folder: Path) -> None:
    for name in ("README.md", ".env.example", ".gitignore", "requirements.txt", "prompts.md"):
        (folder / name).write_text("text\n")
    proposal = use_case.propose(folder)

    targets = {copied.target.as_posix() for copied in proposal.copies}
    assert "prompts.md" in targets
    left = reasons(proposal)
    for name in ("README.md", ".env.example", ".gitignore", "requirements.txt"):
        assert name in left
        assert name not in targets
    assert folder / "requirements.txt" in proposal.requirements


def test_a_flow_outside_the_folder_is_named(folder: Path) -> None:
    shutil.move(folder / "flows/grading", folder.parent / "grading")
    edit(folder / "experiment.yaml", ("flows/grading", "../grading"))

    assert "outside of the folder" in reasons(use_case.propose(folder))["grading"]


def test_a_flow_that_is_not_there_is_told(folder: Path) -> None:
    edit(folder / "experiment.yaml", ("flow: flows/grading", "flow: flows/marking"))

    assert told(use_case.propose(folder), "'flows/marking' is not there", "flows/grading")


def test_broken_files_are_named(folder: Path) -> None:
    (folder / "experiment.pr.yaml").write_text("name: [")
    with pytest.raises(UserError, match=r"experiment\.pr\.yaml: line"):
        use_case.propose(folder)


def test_a_folder_of_use_cases_names_them(folder: Path) -> None:
    assert not use_case.recognise(folder.parent)
    assert not use_case.recognise(folder / "flows" / "answer")
    with pytest.raises(UserError, match="use cases below it: parcel_questions"):
        use_case.propose(folder.parent)


# llmops_config.json, data_config.json, mapping_config.json


def test_the_three_files_become_experiment_files(trio: Path, tmp_path: Path) -> None:
    proposal = use_case.propose(trio)
    found = valid(written(proposal, tmp_path / "repo"), "dev", "pr", "postprod")

    dev = found["dev"]
    assert (dev.name, dev.flow, dev.runtime) == ("parcel_questions", "flows/answer", "small")
    assert [one.name for one in dev.datasets] == ["parcels_train"]
    assert dev.datasets[0].description == "parcels_train of dev"
    assert dev.datasets[0].mappings == {"question": "${data.question}"}
    (evaluator,) = dev.evaluators
    assert (evaluator.name, evaluator.flow) == ("grading", "flows/grading")
    assert evaluator.datasets[0].reference == "parcels_train"
    assert evaluator.datasets[0].mappings["answer"] == "${run.outputs.answer}"
    assert [one.name for one in dev.connections] == ["aoai"]
    assert [one.name for one in found["pr"].datasets] == ["parcels_pr"]
    assert found["pr"].runtime is None
    assert found["postprod"].datasets == ()
    assert found["postprod"].evaluators[0].datasets[0].name == "log"


def test_each_old_key_is_accounted_for(trio: Path) -> None:
    edit(
        trio / "configs/data_config.json",
        ('"ENV_NAME": "pr"', '"AZURE_RM_SVC_CONNECTION": "sc", "FORMAT": 2, "ENV_NAME": "pr"'),
    )
    proposal = use_case.propose(trio)

    for key, variable in [
        ("KEYVAULT_NAME 'kv-parcels'", "KEY_VAULT_NAME"),
        ("RESOURCE_GROUP_NAME 'rg'", "RESOURCE_GROUP_NAME"),
        ("WORKSPACE_NAME 'ws'", "WORKSPACE_NAME"),
    ]:
        assert told(proposal, key, f"the variable {variable} of the environment 'pr'")
    assert told(proposal, "AZURE_RM_SVC_CONNECTION", "not needed")
    assert told(proposal, "FORMAT", "no place")
    assert told(proposal, "experiment.pr.yaml", "flows/grading", "for evaluation")
    left = reasons(proposal)
    assert {"llmops_config.json", "data_config.json", "mapping_config.json"} <= set(left)


def test_several_evaluation_flows_and_datasets(trio: Path, tmp_path: Path) -> None:
    shutil.copytree(trio / "flows/grading", trio / "flows/grading_strict")
    edit(
        trio / "llmops_config.json",
        ('"EVALUATION_FLOW_PATH": "flows/grading"', f'"EVALUATION_FLOW_PATH": "{BOTH}"'),
    )
    data = json.loads((trio / "configs/data_config.json").read_text(encoding="utf-8"))
    data["datasets"] += [
        dataset("dev", "training_data", "data/questions.jsonl", "more", None),
        dataset("dev", "test_data", "data/answers.jsonl", "more_test", "more"),
    ]
    write_json(trio / "configs/data_config.json", data)
    proposal = use_case.propose(trio)

    dev = valid(written(proposal, tmp_path), "dev", "pr")["dev"]
    assert [one.name for one in dev.evaluators] == ["grading", "grading_strict"]
    for evaluator in dev.evaluators:
        assert [d.reference for d in evaluator.datasets] == ["parcels_train", "more"]
        assert set(evaluator.datasets[0].mappings) == {"truth", "answer"}
    assert told(proposal, "mapping_config.json", "grading_strict")


def test_json_with_comments_and_trailing_commas(trio: Path, tmp_path: Path) -> None:
    edit(
        trio / "llmops_config.json",
        ('"RUNTIME_NAME": "small",', '// "RUNTIME_NAME": "https://x",'),
        ('"WORKSPACE_NAME": "ws"', '"WORKSPACE_NAME": "ws" /* ours */'),
        ('"EVALUATION_FLOW_PATH": "flows/grading"', '"EVALUATION_FLOW_PATH": "flows/grading",'),
    )
    repo = written(use_case.propose(trio), tmp_path / "repo")

    assert valid(repo, "dev", "pr")["dev"].runtime is None


def test_without_dev_the_first_environment_is_the_base(trio: Path, tmp_path: Path) -> None:
    for name in ("llmops_config.json", "configs/data_config.json"):
        edit(trio / name, ('"ENV_NAME": "dev"', '"ENV_NAME": "prod"'))
    data = json.loads((trio / "llmops_config.json").read_text(encoding="utf-8"))
    data["envs"].reverse()
    data["envs"].append(data["envs"].pop(0))
    write_json(trio / "llmops_config.json", data)
    repo = written(use_case.propose(trio), tmp_path / "repo")

    found = valid(repo, "dev", "prod", "pr", "postprod")
    assert found["dev"].datasets == found["prod"].datasets
    assert found["prod"].datasets[0].name == "parcels_train"


def test_paths_written_from_the_root_of_the_old_repo(trio: Path, tmp_path: Path) -> None:
    edit(
        trio / "llmops_config.json",
        ('"flows/answer"', '"parcel_questions/flows/answer/flow.dag.yaml"'),
    )
    edit(trio / "configs/data_config.json", ('"data/', '"parcel_questions/data/'))
    repo = written(use_case.propose(trio), tmp_path / "repo")

    assert valid(repo, "dev", "pr", "postprod")["dev"].flow == "flows/answer"


def as_yaml(path: Path, document: Json) -> None:
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(document, file)


def from_json(path: Path) -> Json:
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return found


def three_yaml_files(folder: Path) -> None:
    names = ("llmops_config.json", "configs/data_config.json", "configs/mapping_config.json")
    for path in (folder / name for name in names):
        as_yaml(path.with_suffix(".yaml"), from_json(path))


def one_yaml_file(folder: Path) -> None:
    """All of it by environment, with the deployments."""
    envs = from_json(folder / "llmops_config.json")["envs"]
    data: Json = {}
    for one in from_json(folder / "configs/data_config.json")["datasets"]:
        data.setdefault(one["ENV_NAME"], []).append(one)
    deployments = from_json(folder / "configs/deployment_config.json")
    document = {
        "llmops_config": {env["ENV_NAME"]: env for env in envs},
        "datasets_config": data,
        "mapping_config": from_json(folder / "configs/mapping_config.json"),
        "deployment_configs": {
            section: {entry["ENV_NAME"]: entry for entry in entries}
            for section, entries in deployments.items()
        },
    }
    as_yaml(folder / "configs/config.yaml", document)


def old_name(folder: Path) -> None:
    (folder / "llmops_config.json").rename(folder / "config.json")


@pytest.mark.parametrize("rewrite", [three_yaml_files, one_yaml_file, old_name])
def test_other_shapes_of_the_three_files(
    trio: Path, tmp_path: Path, rewrite: Callable[[Path], None]
) -> None:
    rewrite(trio)
    repo = written(use_case.propose(trio), tmp_path / "repo")

    found = valid(repo, "dev", "pr", "postprod")
    assert found["dev"].evaluators[0].datasets[0].reference == "parcels_train"
    deployments = json.loads((repo / "configs/deployment_config.json").read_text(encoding="utf-8"))
    assert deployments["azure_managed_endpoint"][0]["ENDPOINT_DESC"] == "answers about parcels"


def test_an_experiment_and_its_environments_in_one_file(folder: Path, tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    parts = {p.name: yaml.load(p.read_text(encoding="utf-8")) for p in folder.glob("exp*.yaml")}
    for name in parts:
        (folder / name).unlink()
    experiment = parts["experiment.yaml"]
    connection = experiment.pop("connections")[0]
    connection["connection"] = connection.pop("name")
    connection["api_key"] = "${PARCELS_KEY}"
    document = {
        "azure_config": {"workspace_name": "${WORKSPACE_NAME}", "compute_target": "cluster"},
        "connections": [connection],
        "experiment": experiment,
        "environments": {
            "pr": {"env_name": "pr", "experiment": parts["experiment.pr.yaml"]},
            "dev": {"env_name": "dev", "experiment": None},
            "postprod": {
                "env_name": "postprodeval",
                "experiment": parts["experiment-postprod.yaml"],
            },
        },
    }
    as_yaml(folder / "llmops_config.yaml", document)
    proposal = use_case.propose(folder)

    found = valid(written(proposal, tmp_path / "repo"), "dev", "pr", "postprod")
    assert found["dev"].connections[0].name == "aoai"
    assert "#PARCELS_KEY=<key>" in proposal.lines[Path(".env.example")]
    assert told(proposal, "compute_target 'cluster'")


def test_what_has_the_wrong_shape_is_named(trio: Path) -> None:
    write_json(trio / "configs/mapping_config.json", {"experiment": ["question"]})
    with pytest.raises(UserError, match=r"mapping_config\.json: experiment: expected keys"):
        use_case.propose(trio)
    write_json(trio / "configs/data_config.json", {"datasets": {"ENV_NAME": "dev"}})
    with pytest.raises(UserError, match=r"data_config\.json: datasets: expected a list"):
        use_case.propose(trio)


def test_an_environment_without_a_flow_is_refused(trio: Path) -> None:
    edit(trio / "llmops_config.json", ('"STANDARD_FLOW_PATH": "flows/answer"', '"X": ""'))
    with pytest.raises(UserError, match=r"llmops_config\.json: envs: 'pr': STANDARD_FLOW_PATH"):
        use_case.propose(trio)


# Code-first repos


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A repo with config/config.yaml, two flows, and a script that evaluates."""
    root = tmp_path / "code"
    shutil.copytree(FIXTURE / "flows/answer", root / "flows/parcels/standard")
    shutil.copytree(FIXTURE / "flows/answer", root / "flows/letters/standard")
    shutil.copytree(FIXTURE / "data", root / "data")
    (root / "flows/parcels/evaluate").mkdir()
    (root / "flows/parcels/evaluate/evaluate.py").write_text("print('scores')\n")
    (root / "config").mkdir()
    (root / "config/config.yaml").write_text(CONFIG, encoding="utf-8")
    return root


CONFIG = """\
aistudio_config:
  subscription_id: ${SUBSCRIPTION_ID}
  resource_group_name: rg-parcels
  project_name: ws-parcels
aoai_config:
  aoai_api_base: ${AOAI_BASE_ENDPOINT}
  aoai_api_type: azure
  aoai_api_version: 2023-07-01-preview
  aoai_api_key: ${AOAI_API_KEY}
flow_configs:
  parcels_pr:
    standard_flow_path: flows/parcels/standard
    deployment_name: gpt-4o
    connection_name: aoai
    data_path: data/questions.jsonl
    eval_data_path: data/answers.jsonl
    column_mapping:
      question: ${data.question}
      letter: ${data.letter}
  parcels_dev:
    standard_flow_path: flows/parcels/standard
    deployment_name: gpt-4o
    connection_name: aoai
    data_path: data/production_log.jsonl
    SPEED: fast
    column_mapping:
      question: ${data.question}
  letters_pr:
    standard_flow_path: flows/letters/standard
    data_path: data/questions.jsonl
"""


def test_a_flow_of_a_code_first_repo(code: Path, tmp_path: Path) -> None:
    before = snapshot(code)
    proposal = code_first.propose(code, "parcels")
    found = valid(written(proposal, tmp_path / "repo"), "dev", "pr")

    assert snapshot(code) == before
    dev = found["dev"]
    assert (dev.name, dev.flow) == ("parcels", "flows/parcels/standard")
    assert dev.datasets[0].source == "data/production_log.jsonl"
    assert dev.datasets[0].mappings == {"question": "${data.question}"}
    (connection,) = dev.connections
    assert connection.api_base == "${AOAI_BASE_ENDPOINT}"
    assert connection.api_version == "2023-07-01-preview"
    assert connection.model == "gpt-4o"
    assert found["pr"].datasets[0].source == "data/questions.jsonl"
    targets = {copied.target.as_posix() for copied in proposal.copies}
    assert {"data/answers.jsonl", "flows/parcels/evaluate/evaluate.py"} <= targets
    assert not [target for target in targets if "letters" in target or "config.yaml" in target]


def test_what_a_code_first_repo_says_beside_the_flow(code: Path) -> None:
    proposal = code_first.propose(code, "parcels")
    lines = proposal.lines[Path(".env.example")]

    assert told(proposal, "evaluate.py", "no task calls it")
    assert told(proposal, "data/answers.jsonl", "came along")
    assert told(proposal, "project_name 'ws-parcels'", "WORKSPACE_NAME")
    assert told(proposal, "deployment_name", "gpt-4o", "gpt-35-turbo")
    assert told(proposal, "SPEED")
    assert told(proposal, "letter: '${data.letter}'")
    (tracking,) = [line for line in lines if "MLFLOW_TRACKING_URI" in line]
    assert "<subscription_id>" in tracking
    assert "rg-parcels" in tracking
    assert "#AOAI_BASE_ENDPOINT=https://<resource>.openai.azure.com/" in lines


def test_flow_chooses_among_several(code: Path, tmp_path: Path) -> None:
    assert code_first.recognise(code)
    assert code_first.choices(code) == ("letters", "parcels")
    with pytest.raises(UserError, match=r"FLOW: unset.*letters.*parcels"):
        code_first.propose(code)
    with pytest.raises(UserError, match=r"FLOW: 'stamps'.*letters"):
        code_first.propose(code, "stamps")
    assert code_first.propose(code, "parcels_pr").name == "parcels"
    letters = code_first.propose(code, "letters")
    assert valid(written(letters, tmp_path / "repo"), "dev", "pr")["pr"].connections


def model_config(code: Path, key: str, name: str, **more: Any) -> None:
    (code / "config/config.yaml").unlink()
    entries = [
        {
            name: "parcels",
            "ENV_NAME": env,
            "EXPERIMENT_BASE_NAME": "mlops",
            "RUNTIME_NAME": "small",
            "RESOURCE_GROUP_NAME": "rg-parcels",
            "WORKSPACE_NAME": "ws-parcels",
            "CONNECTION_NAME": "aoai",
            "DEPLOYMENT_NAME": "gpt-35-turbo",
            "STANDARD_FLOW_PATH": "flows/parcels/standard",
            "EVALUATION_FLOW_PATH": "flows/parcels/evaluation",
            **more,
        }
        for env in ("pr", "dev")
    ]
    write_json(code / "config/model_config.json", {key: entries})
    shutil.copytree(FIXTURE / "flows/grading", code / "flows/parcels/evaluation")


def test_model_config_with_a_file_of_data(code: Path, tmp_path: Path) -> None:
    model_config(
        code,
        "models",
        "ML_MODEL_CONFIG_NAME",
        DATA_CONFIG_PATH="flows/parcels/configs/data_config.json",
        REALTIME_DEPLOYMENT_CONFIG="flows/parcels/configs/deployment_config.json",
    )
    rows = [
        ("pr", "pr_data", "data/questions.jsonl", "quick", None),
        ("dev", "test_data", "data/answers.jsonl", "parcels_test", None),
        ("dev", "training_data", "data/questions.jsonl", "parcels_train", None),
    ]
    data = [{**dataset(*row), "ML_MODEL_CONFIG_NAME": "parcels"} for row in rows]
    write_json(code / "flows/parcels/configs/data_config.json", {"datasets": data})
    entry = {"ENV_NAME": "dev", "ENDPOINT_NAME": "parcels-1", "DEPLOYMENT_NAME": "green"}
    more = {"DEPLOYMENT_TRAFFIC_ALLOCATION": 100, "DEPLOYMENT_CONDA_PATH": "conda.yml"}
    deployments = {"real_time": [{**entry, **more}]}
    write_json(code / "flows/parcels/configs/deployment_config.json", deployments)
    proposal = code_first.propose(code, "parcels")
    repo = written(proposal, tmp_path / "repo")

    dev = valid(repo, "dev", "pr")["dev"]
    assert dev.runtime == "small"
    assert dev.connections[0].model is None
    (evaluator,) = dev.evaluators
    (scored,) = evaluator.datasets
    assert (scored.source, scored.reference) == ("data/answers.jsonl", dev.datasets[0].name)
    assert scored.mappings == {"truth": "${data.truth}", "answer": "${run.outputs.answer}"}
    text = (repo / "configs/deployment_config.json").read_text(encoding="utf-8")
    (kept,) = json.loads(text)["azure_managed_endpoint"]
    assert kept["CURRENT_DEPLOYMENT_NAME"] == "green"
    assert told(proposal, "DEPLOYMENT_CONDA_PATH")
    assert told(proposal, "EXPERIMENT_BASE_NAME")


def test_model_config_with_paths_and_mappings(code: Path, tmp_path: Path) -> None:
    mapping = {"truth": "${data.truth}", "answer": "${run.outputs.answer}"}
    model_config(
        code,
        "flows",
        "PROMPT_FLOW_CONFIG_NAME",
        DATA_PATH="data/questions.jsonl",
        COLUMN_MAPPING={"question": "${data.question}"},
        EVAL_DATA_PATH="data/answers.jsonl",
        EVAL_COLUMN_MAPPING=mapping,
        MLFLOW_TRACKING_URI="https://mlflow.parcels.example",
    )
    proposal = code_first.propose(code)

    found = valid(written(proposal, tmp_path / "repo"), "dev", "pr")
    assert found["pr"].evaluators[0].datasets[0].mappings == mapping
    lines = proposal.lines[Path(".env.example")]
    assert "#MLFLOW_TRACKING_URI=https://mlflow.parcels.example" in lines


def test_an_input_that_nothing_fits_is_asked(code: Path) -> None:
    model_config(code, "models", "ML_MODEL_CONFIG_NAME", DATA_PATH="data/questions.jsonl")
    (question,) = code_first.propose(code).questions

    assert question.file == Path("experiment.yaml")
    assert question.place == ("evaluators", 0, "datasets", 0, "mappings", "truth")
    assert question.choices == ("${data.question}", "${run.outputs.answer}")


def test_model_config_with_three_files(trio: Path, tmp_path: Path) -> None:
    """The first repo of the template: model_config.json over data and mapping files a use case."""
    root = trio.parent
    envs = from_json(trio / "llmops_config.json")["envs"][:2]
    home = "parcel_questions"
    shutil.copytree(trio / "flows/grading", trio / "flows/grading_strict")
    for env in envs:
        env["PROMPT_FLOW_CONFIG_NAME"] = "parcels"
        env["STANDARD_FLOW_PATH"] = f"{home}/flows/answer"
        env["EVALUATION_FLOW_PATH"] = f"{home}/flows/grading, {home}/flows/grading_strict"
        env["DATA_CONFIG_PATH"] = f"{home}/configs/data_config.json"
        env["DATA_MAPPING_CONFIG"] = f"{home}/configs/mapping_config.json"
        env["REALTIME_DEPLOYMENT_CONFIG"] = f"{home}/configs/deployment_config.json"
    write_json(root / "config/model_config.json", {"flows": envs})
    edit(trio / "configs/data_config.json", ('"data/', f'"{home}/data/'))
    proposal = code_first.propose(root)
    repo = written(proposal, tmp_path / "repo")

    dev = valid(repo, "dev", "pr")["dev"]
    assert [one.name for one in dev.evaluators] == ["grading", "grading_strict"]
    assert dev.evaluators[0].datasets[0].reference == "parcels_train"
    assert dev.datasets[0].source == f"{home}/data/questions.jsonl"
    deployed = (repo / "configs/deployment_config.json").read_bytes()
    assert deployed == (trio / "configs/deployment_config.json").read_bytes()


def test_a_path_that_leads_to_no_flow(code: Path) -> None:
    edit(code / "config/config.yaml", ("flows/letters/standard", "flows/letters/gone"))
    with pytest.raises(UserError, match=r"letters \(pr\): standard_flow_path: 'flows/letters/gone"):
        code_first.propose(code, "letters")
