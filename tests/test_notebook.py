"""The notebook: as it is committed, and executed on each example as `make notebook` does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import HOUSE
from usecase import UseCase

NOTEBOOK = HOUSE / "notebooks" / "evaluate.ipynb"
EXAMPLES = sorted(path.parent.name for path in HOUSE.glob("examples/*/experiment.yaml"))


class Example(UseCase):
    """An example of the template with the notebook beside it."""

    def __init__(self, place: Path, name: str) -> None:
        super().__init__(place)
        shutil.rmtree(self.folder / "flows")
        shutil.copytree(HOUSE / "examples" / name, self.folder, dirs_exist_ok=True)
        (self.folder / "notebooks").mkdir()
        shutil.copy(NOTEBOOK, self.folder / "notebooks")

    @property
    def executed(self) -> dict[str, str]:
        """What each cell of the executed copy shows, by the cell's id."""
        text = (self.folder / "reports" / NOTEBOOK.name).read_text(encoding="utf-8")
        return {cell["id"]: _shown(cell) for cell in json.loads(text)["cells"]}


def _shown(cell: dict[str, Any]) -> str:
    parts = []
    for output in cell.get("outputs", []):
        assert output["output_type"] in ("display_data", "execute_result"), output
        data = output["data"]
        parts.append("".join(data.get("text/html") or data.get("text/markdown")))
    return "\n".join(parts)


def test_it_is_committed_without_outputs_or_anything_of_this_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 6
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    assert notebook["metadata"]["language_info"] == {"name": "python"}, "no version"
    assert not any(tag in text for tag in ("<<", "<%", "<#"))
    assert text.endswith("}\n")


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_runs_on_every_example(example: str, tmp_path: Path) -> None:
    case = Example(tmp_path, example)
    has_pr = (case.folder / "experiment.pr.yaml").exists()
    first = case.run("experiment", ENV="pr" if has_pr else "dev")
    assert first.code == 0, first.text
    made = first.summary
    assert made is not None
    report = (case.folder / "reports" / "index.html").read_bytes()
    told = case.run("notebook")
    assert (told.code, told.err) == (0, ""), told.text
    assert told.out.startswith("notebook: reports/evaluate.ipynb.")
    shown = case.executed
    assert made["experiment"] in shown["load"]
    for run in made["runs"]:
        assert run["variant"] in shown["variants"]
    for score in made["scores"]:
        assert f"{score['evaluator']}.{score['metric']}" in shown["variants"]
        assert score["metric"] in shown["rescore"]
    assert shown["failures"] == "*None.*"
    assert "Scores of a row: " in shown["lowest"]
    assert "pairs of answers differ" in shown["differ"]
    assert "changed" not in shown["rescore"]
    assert (case.folder / "reports" / "index.html").read_bytes() == report
    assert case.summary == made
    assert [path for path in case.home.rglob("*") if path.is_file()] == []
    assert case.leftovers() == []


def test_a_changed_evaluation_flow_scores_the_stored_outputs_again(tmp_path: Path) -> None:
    case = Example(tmp_path, "blank")
    assert case.run().code == 0
    flow = case.folder / "flows" / "evaluation" / "flow.py"
    text = flow.read_text(encoding="utf-8")
    flow.write_text(text.replace("said == truth", "said != truth"), encoding="utf-8")
    # Not a single answer is left that could be replayed: the flow under test cannot have run.
    shutil.rmtree(case.folder / "recordings")
    shutil.rmtree(case.folder / "flows" / "standard" / "__pycache__", ignore_errors=True)
    told = case.run("notebook", LLM="replay")
    assert told.code == 0, told.text
    rows = case.executed["rescore"].split("<tr>")
    assert all(("changed" in row) == ("exact_match" in row) for row in rows[2:])
    assert sum("changed" in row for row in rows) == 2


def test_failed_and_differing_rows_are_picked(tmp_path: Path) -> None:
    case = UseCase(tmp_path)
    (case.folder / "notebooks").mkdir()
    shutil.copy(NOTEBOOK, case.folder / "notebooks")
    case.configure(parameters={"mode": ["plain", "strict"]})
    case.write(
        "flows/standard/flow.py",
        "def run(text, mode):\n"
        "    assert mode == 'plain' or text != 'dog', 'no <b>dogs</b>'\n"
        "    return {'answer': text if text == 'cat' and mode == 'plain' else text.upper()}\n",
    )
    assert case.run().code == 2
    assert case.run("notebook").code == 0
    shown = Example.executed.fget(case)  # type: ignore[attr-defined]
    assert "no &lt;b&gt;dogs&lt;/b&gt;" in shown["failures"]
    assert shown["failures"].count("<tr>") == 2
    assert "2 of 6 pairs of answers differ" in shown["differ"], "the failed one, and the cat"
    assert "cat" in shown["lowest"].split("<tr>")[2]


def test_without_an_experiment_it_says_what_to_do(tmp_path: Path) -> None:
    case = Example(tmp_path, "blank")
    case.run("notebook").refused("reports/summary.json: not found. Run `make experiment` first.")


def test_a_cell_that_fails_ends_with_its_error(tmp_path: Path) -> None:
    case = Example(tmp_path, "blank")
    assert case.run().code == 0
    (case.folder / "flows" / "evaluation" / "flow.py").write_text("def run(:\n")
    case.run("notebook").refused("notebooks/evaluate.ipynb: UserError: ", "not Python")
    assert not (case.folder / "reports" / NOTEBOOK.name).exists()
