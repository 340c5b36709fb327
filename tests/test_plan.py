"""Which cells an experiment has: variants, combinations, selections and grids over datasets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmops.config import Experiment
from llmops.errors import UserError
from llmops.flows import Flow, describe
from llmops.plan import Variant, plan
from usecase import UseCase

Json = dict[str, Any]

NODES = {"fetch": ["fast", "slow"], "write": ["plain", "brief", "rhyme"]}


def prompt(name: str, temperature: float = 0) -> Json:
    """An LLM node that differs from others by its prompt."""
    return {
        "type": "llm",
        "source": {"type": "code", "path": f"{name}.jinja2"},
        "inputs": {
            "deployment_name": "small",
            "temperature": temperature,
            "text": "${inputs.text}",
        },
        "connection": "aoai",
        "api": "chat",
    }


def dag(nodes: dict[str, list[str]], same: bool = False) -> Json:
    """A DAG whose nodes have these variants; `same` gives all variants of a node one content."""
    return {
        "inputs": {"text": {"type": "string"}, "tone": {"type": "string", "default": "dry"}},
        "outputs": {"answer": {"type": "string", "reference": "${end.output}"}},
        "nodes": [
            *({"name": name, "use_variants": True} for name in nodes),
            {"name": "end", "type": "python", "inputs": {"width": 80}},
        ],
        "node_variants": {
            name: {
                "default_variant_id": variants[0],
                "variants": {v: {"node": prompt(name if same else v)} for v in sorted(variants)},
            }
            for name, variants in nodes.items()
        },
    }


def flow(nodes: dict[str, list[str]] = NODES, same: bool = False) -> Flow:
    """The DAG as llmops reads it."""
    variants = {name: tuple(names) for name, names in nodes.items()}
    inputs = {"text": True, "tone": False}
    return Flow(
        Path("flows/standard"),
        "flow.dag.yaml",
        "dag",
        inputs,
        ("answer",),
        variants=variants,
        definition=dag(nodes, same),
    )


def experiment(datasets: int = 1, **blocks: Any) -> Experiment:
    """An experiment over so many datasets."""
    sources = [{"name": f"data{n}", "source": f"{n}.jsonl"} for n in range(datasets)]
    return Experiment.model_validate({"name": "words", "datasets": sources} | blocks)


def variants(flow: Flow, *selection: str, **blocks: Any) -> list[Variant]:
    """The variants over the first dataset."""
    cells = plan(experiment(**blocks), flow, selection)
    return [cell.variant for cell in cells if cell.dataset.name == "data0"]


def names(flow: Flow, *selection: str, **blocks: Any) -> list[str]:
    return [variant.name for variant in variants(flow, *selection, **blocks)]


# ---- Variants


def test_all_changes_one_node_at_a_time() -> None:
    assert names(flow()) == ["default", "fetch.slow", "write.brief", "write.rhyme"]


def test_combinations_change_all_nodes() -> None:
    assert names(flow(), "combinations") == [
        "default",
        "write.brief",
        "write.rhyme",
        "fetch.slow",
        "fetch.slow+write.brief",
        "fetch.slow+write.rhyme",
    ]


def test_a_selection_is_in_its_own_order() -> None:
    assert names(flow(), "write.rhyme", "default") == ["write.rhyme", "default"]
    assert names(flow(), "fetch.slow+write.brief") == ["fetch.slow+write.brief"]


def test_what_comes_to_the_same_is_run_once() -> None:
    assert names(flow(), "default", "fetch.fast", "all", "write.plain+fetch.fast") == [
        "default",
        "fetch.slow",
        "write.brief",
        "write.rhyme",
    ]
    assert names(flow(same=True), "combinations") == ["default"]


def test_a_flow_without_variants_has_one_cell_in_every_mode() -> None:
    for mode in ("all", "combinations", "default"):
        assert names(flow({}), mode) == ["default"]


def test_the_definition_has_the_chosen_nodes_and_no_variants_left() -> None:
    (variant,) = variants(flow(), "write.brief")
    nodes = {node["name"]: node for node in variant.definition["nodes"]}
    assert nodes["write"]["source"]["path"] == "brief.jinja2"
    assert nodes["fetch"]["source"]["path"] == "fast.jinja2"
    assert "node_variants" not in variant.definition


def test_variants_goes_before_the_file() -> None:
    assert names(flow(), variants=["write.brief"]) == ["write.brief"]
    assert names(flow(), "default", variants=["write.brief"]) == ["default"]
    assert names(flow(), variants="default, write.brief") == ["default", "write.brief"]


def test_an_unknown_variant_names_the_choices() -> None:
    for word in ("write.breif", "write", "rite.brief", "default+write.breif"):
        with pytest.raises(UserError) as caught:
            plan(experiment(), flow(), ["default", word])
        assert str(caught.value).startswith("VARIANTS: '")
        assert "(expected one of all, combinations, default, fetch.fast, " in str(caught.value)
    with pytest.raises(UserError, match=r"experiment\.yaml: variants: 'write\.breif' is not"):
        plan(experiment(variants="write.breif"), flow())


# ---- Grids


def test_a_grid_over_a_node_input() -> None:
    found = variants(flow(), "default", parameters={"write.temperature": [0, 0.7]})

    assert [variant.name for variant in found] == [
        "default [write.temperature=0]",
        "default [write.temperature=0.7]",
    ]
    nodes = [variant.definition["nodes"][1] for variant in found]
    assert [node["inputs"]["temperature"] for node in nodes] == [0, 0.7]
    assert [variant.inputs for variant in found] == [{}, {}]


def test_a_grid_over_a_flow_input() -> None:
    found = variants(flow(), "default", parameters={"tone": ["dry", "warm"]})

    assert [variant.name for variant in found] == ["default [tone=dry]", "default [tone=warm]"]
    assert [variant.inputs for variant in found] == [{"tone": "dry"}, {"tone": "warm"}]
    assert found[0].definition == found[1].definition


def test_a_grid_is_the_product_of_its_lists_for_every_variant() -> None:
    grid = {"write.temperature": [0, 1], "end.width": [40, 80, 120]}
    assert len(variants(flow(), parameters=grid)) == 4 * 6


def test_an_llm_node_takes_what_models_take_though_the_dag_does_not_set_it() -> None:
    assert len(variants(flow(), "default", parameters={"write.top_p": [0.5, 1]})) == 2


def test_values_that_look_alike_have_different_names() -> None:
    alike = [1, "1", True, "true", None, "null", [1], "[1]", "x" * 90, "x" * 91, "", " "]
    found = names(flow(), "default", parameters={"tone": alike})
    assert len(set(found)) == len(alike)
    assert max(map(len, found)) < 70


@pytest.mark.parametrize("key", ["write.temprature", "end.temperature", "rite.text", "txt", ""])
def test_an_unknown_parameter_names_the_choices(key: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(experiment(parameters={key: [1]}), flow())
    message = str(caught.value)
    assert f"experiment.yaml: parameters: '{key}' is no input of flows/standard/flow.dag" in message
    for choice in ("text, tone", "write.temperature", "end.width"):
        assert choice in message


def test_a_parameter_without_values_is_refused() -> None:
    with pytest.raises(UserError, match=r"experiment\.yaml: parameters\.tone: has no values"):
        plan(experiment(parameters={"tone": []}), flow())


# ---- The cap


def test_more_cells_than_the_cap_are_refused_with_their_number() -> None:
    assert len(plan(experiment(2, limits={"max_cells": 8}), flow())) == 8
    with pytest.raises(UserError) as caught:
        plan(experiment(2, limits={"max_cells": 7}), flow())
    assert "limits.max_cells: 7, but the plan has 4 variants over 2 datasets" in str(caught.value)


def test_a_grid_beyond_measure_is_refused_at_once() -> None:
    grid = {f"write.{name}": list(range(1000)) for name in ("n", "seed", "user", "stop")}
    with pytest.raises(UserError, match="the plan has 6000000000000 variants"):
        plan(experiment(parameters=grid), flow(), ["combinations"])


# ---- In general

NAMED = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.lists(st.sampled_from(["v0", "v1", "v2", "v3"]), min_size=1, max_size=4, unique=True),
    max_size=3,
)
GRIDS = st.dictionaries(
    st.sampled_from(["tone", "end.width"]),
    st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
    max_size=2,
)


@settings(max_examples=200, deadline=None)
@given(NAMED, GRIDS, st.integers(1, 3))
def test_the_number_of_cells_and_their_order(
    nodes: dict[str, list[str]], grid: dict[str, list[int]], datasets: int
) -> None:
    sizes = [len(variants) for variants in nodes.values()]
    expected = {"default": 1, "all": 1 + sum(sizes) - len(sizes), "combinations": math.prod(sizes)}
    for mode, count in expected.items():
        plans = [
            plan(
                experiment(datasets, parameters=grid, limits={"max_cells": 10_000}),
                flow(nodes),
                [mode],
            )
            for _ in range(2)
        ]
        cells = [(cell.variant.name, cell.dataset.name) for cell in plans[0]]
        assert cells == [(cell.variant.name, cell.dataset.name) for cell in plans[1]]
        assert len(set(cells)) == len(cells)
        assert len(cells) == datasets * count * math.prod(map(len, grid.values()))
        assert cells[0][0].partition(" ")[0] == "default"
        assert [name for _, name in cells] == sorted(name for _, name in cells)


# ---- As the tasks tell it


def test_validate_shows_the_plan_and_its_cost(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    use.configure(parameters={"text": ["one", "two"]})
    outcome = use.run("validate")

    assert outcome.code == 0, outcome.text
    assert "2 cells:" in outcome.out
    assert "default [text=one] over words: 6 rows" in outcome.out
    assert "default [text=two] over words: 6 rows" in outcome.out


def test_a_grid_over_a_flow_input_needs_no_column(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    use.write("flows/standard/flow.py", "def run(text, end):\n    return {'answer': text + end}\n")
    use.configure(parameters={"end": ["!", "?"]})
    outcome = use.run()

    assert outcome.code == 0, outcome.text
    assert outcome.summary is not None
    runs = {run["variant"]: run["parameters"] for run in outcome.summary["runs"]}
    assert runs == {'default [end="!"]': {"end": "!"}, 'default [end="?"]': {"end": "?"}}
    ends = {row["outputs"]["answer"][-1] for row in use.finished("default-end*words-????????????")}
    assert ends == {"!", "?"}
    assert use.run("try").code == 0


def test_read_from_a_file_the_default_is_first(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    (use.folder / "flows/standard/flow.py").unlink()
    text = str(dag({"write": ["rhyme", "brief", "plain"]})).replace("'", '"')
    use.write("flows/standard/flow.dag.yaml", text.replace("True", "true"))
    found = describe("flows/standard", use.folder)

    assert found.variants == {"write": ("rhyme", "brief", "plain")}
    assert found.inputs == {"text": True, "tone": False}
    assert found.outputs == ("answer",)
