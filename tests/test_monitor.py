"""`make monitor`: a production log scored, judged and compared; every run is a child process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llmops
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llmops import registration, settings
from llmops.assets import Asset
from llmops.data import Table
from llmops.errors import UserError
from llmops.files import parse_yaml
from llmops.monitoring import drift, monitor
from llmops.package import file_hash
from llmops.registration import Registration
from llmops.summary import Score
from usecase import Outcome, UseCase, example

EXAMPLE = Path(llmops.__file__).parents[1] / "examples" / "named_entity_recognition"
LOG, DATA = "data/production_log.jsonl", "data/data.jsonl"
OVERLAY = "experiment.postprod.yaml"
Json = dict[str, Any]


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    """A copy of the named-entity example."""
    return example(tmp_path)


def read(use: UseCase, path: str) -> list[Json]:
    text = (use.folder / path).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def registered(use: UseCase, **metrics: float | None) -> None:
    """Write what `make register` leaves, with these metrics of the evaluator `evaluation`."""
    data = Asset(
        name="ner_training",
        version="3",
        created=True,
        content_hash=file_hash(use.folder / DATA),
    )
    document = Registration(
        experiment="named_entity_recognition",
        env="dev",
        model=Asset(name="named_entity_recognition", version="7", created=True, content_hash="a"),
        data=(data,),
        flow="flow.dag.yaml",
        variant="default",
        commit="",
        gate="pass",
        forced="",
        llm="replay",
        metrics={f"evaluation.{name}": value for name, value in metrics.items()},
        registered_at="2026-11-20T10:00:00+00:00",
    )
    registration.save(document, use.folder / registration.REGISTRATION)


def result(use: UseCase) -> monitor.Monitor:
    return monitor.Monitor.model_validate_json((use.folder / monitor.MONITOR).read_text())


def levels(use: UseCase) -> dict[str, str]:
    return {one.name: one.level for one in result(use).drift}


def passed(outcome: Outcome) -> Outcome:
    assert outcome.code == 0 and not outcome.err.strip(), outcome.text
    return outcome


# --- the task


def test_the_shipped_log_passes_and_nothing_registered_is_said_in_one_line(use: UseCase) -> None:
    outcome = passed(use.run("monitor"))
    assert outcome.summary and outcome.summary["env"] == "postprod"
    lines = outcome.out.splitlines()
    assert sum("reports/registration.json" in line for line in lines) == 1
    found = result(use)
    assert found.gate == "pass" and found.registered == "" and not found.drift
    assert [(log.path, log.rows, log.of) for log in found.logs] == [(LOG, 36, 36)]
    page = (use.folder / monitor.PAGE).read_text()
    assert "gate: pass" in page and "Drift" not in page
    assert not use.leftovers()


def test_the_gate_of_the_overlay_decides_and_drift_is_told_all_the_same(use: UseCase) -> None:
    registered(use)
    overlay = parse_yaml((use.folder / OVERLAY).read_text())
    overlay["gate"]["checks"][0]["min"] = 0.99
    use.write(OVERLAY, json.dumps(overlay))
    outcome = use.run("monitor")
    assert outcome.code == 2 and "gate: fail" in outcome.out, outcome.text
    assert result(use).gate == "fail" and set(levels(use)) == {"entity_type", "text"}
    assert "- fail: post" in (use.folder / monitor.PAGE).read_text()


def test_a_log_of_the_registered_inputs_has_not_drifted(use: UseCase) -> None:
    rows = [
        {**row, "entities": [], "feedback": 5, "id": n} for n, row in enumerate(read(use, DATA))
    ]
    use.rows(rows, "collected/log.jsonl")
    use.rows([{**row, "id": "no input"} for row in read(use, DATA)], DATA)
    open_gate(use)
    registered(use, empty_share=1.0, feedback_mean=5.0)
    outcome = passed(use.run("monitor", LOG="collected/log.jsonl"))
    assert set(levels(use).values()) == {"none"} and len(levels(use)) == 4
    assert all(one.distance == 0 for one in result(use).drift)
    assert "drift since named_entity_recognition:7: none" in outcome.out
    assert result(use).notes == ()
    assert result(use).logs[0].path == "collected/log.jsonl"


def test_a_shifted_log_has_drifted_and_fails_nothing(use: UseCase) -> None:
    registered(use, grounded_share=0.99, f1=0.9)
    shifted = [
        {**row, "text": row["text"] * 4, "entity_type": "a | ship"} for row in read(use, LOG)
    ]
    use.rows(shifted, LOG)
    outcome = passed(use.run("monitor"))
    assert levels(use) == {
        "post_production.grounded_share": "some",
        "entity_type": "strong",
        "text": "strong",
    }
    assert "drift since named_entity_recognition:7: strong in entity_type, text" in outcome.out
    text = {one.name: one.text for one in result(use).drift}
    assert text["entity_type"].startswith("100% of the log's rows") and "ship" in outcome.out
    page = (use.folder / monitor.PAGE).read_text()
    assert "## Drift: strong in entity_type, text" in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {len(monitor.COLUMNS) + 1}


def test_what_cannot_be_compared_is_noted(use: UseCase) -> None:
    registered(use, f1=0.9)
    use.write(DATA, (use.folder / DATA).read_text().replace("Maren", "Karen"))
    use.rows([{**row, "text": [row["text"]]} for row in read(use, DATA)], DATA)
    passed(use.run("monitor"))
    notes = result(use).notes
    assert [note.split(" ")[0] for note in notes] == ["the", DATA, "text:"], notes
    assert "f1" in notes[0] and "ner_training:3" in notes[1]
    (use.folder / DATA).unlink()
    passed(use.run("monitor"))
    assert result(use).notes[1].startswith("inputs are not compared: experiment.yaml: ")
    assert DATA in result(use).notes[1]


def test_a_sample_is_smaller_and_the_same_each_time(use: UseCase) -> None:
    registered(use)
    passed(use.run("monitor", SAMPLE="10"))
    first = use.finished("logged-*")
    assert [(log.rows, log.of) for log in result(use).logs] == [(10, 36)]
    assert use.summary and use.summary["evaluations"][0]["rows"] == len(first) == 10
    passed(use.run("monitor", SAMPLE="10"))
    assert use.finished("logged-*") == first
    texts = [row["text"] for row in read(use, LOG)]
    drawn = [texts.index(row["inputs"]["text"]) for row in first]
    assert drawn == sorted(drawn) and drawn != list(range(10))
    assert "10 of 36 rows" in (use.folder / monitor.PAGE).read_text()


def open_gate(use: UseCase) -> None:
    overlay = parse_yaml((use.folder / OVERLAY).read_text())
    use.write(OVERLAY, json.dumps({**overlay, "gate": None}))


# --- what is refused


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        ({"LOG": "nowhere.jsonl"}, ("LOG: 'nowhere.jsonl'", "no such file")),
        ({"LOG": "data"}, ("LOG: 'data'", "no such file")),
        ({"LOG": "empty.jsonl"}, ("empty.jsonl: has no rows",)),
        ({"LOG": "empty.jsonl", "SAMPLE": "3"}, ("empty.jsonl: has no rows",)),
        ({"LOG": "azureml://datastores/a/paths/b"}, ("SUBSCRIPTION_ID", "unset")),
        ({"LOG": "azureml://jobs/a"}, ("LOG: 'azureml://jobs/a'", "azureml://datastores/<name>")),
        ({"LOG": "https://a.blob.core.windows.net/b/c"}, ("azureml://datastores/", "its path")),
        ({"LOG": LOG, "SINCE": "2026-11-01"}, (f"SINCE: '{LOG}' is a file",)),
        ({"SINCE": "yesterday"}, ("SINCE: 'yesterday'", "2026-11-01..2026-11-07")),
        ({"SINCE": "2026-11-02..2026-11-01"}, ("SINCE: '2026-11-02..2026-11-01'",)),
        ({"LOG": DATA}, (OVERLAY, "entities")),
        ({"SAMPLE": "0"}, ("SAMPLE: '0'", "1 or more")),
        ({"SAMPLE": "half"}, ("SAMPLE: 'half'",)),
        ({"ENV": "dev"}, ("ENV: 'dev'", "ENV=postprod")),
        ({"ENV": "none"}, ("ENV: 'none'", "postprod")),
    ],
)
def test_a_log_that_is_none_is_refused(
    use: UseCase, variables: dict[str, str], parts: tuple[str, ...]
) -> None:
    use.write("empty.jsonl", "\n")
    use.run("monitor", **variables).refused(*parts)
    assert not (use.folder / monitor.MONITOR).exists()


def test_a_missing_log_and_a_broken_registration_are_refused(use: UseCase) -> None:
    use.write("reports/registration.json", "{}")
    use.run("monitor").refused("registration.json", "make register")
    (use.folder / LOG).unlink()
    use.run("monitor").refused(LOG, "is not there")


def test_one_log_cannot_replace_two(use: UseCase) -> None:
    overlay = parse_yaml((use.folder / OVERLAY).read_text())
    (evaluator,) = overlay["evaluators"]
    (dataset,) = evaluator["datasets"]
    evaluator["datasets"] += [{**dataset, "name": "second", "source": "data/second.jsonl"}]
    use.write(OVERLAY, json.dumps(overlay))
    use.rows(read(use, LOG)[:5], "data/second.jsonl")
    use.run("monitor", LOG=LOG).refused("names 2 logs", "data/second.jsonl")
    registered(use)
    passed(use.run("monitor"))
    assert [log.rows for log in result(use).logs] == [36, 5]
    assert "second.text" in levels(use) and "ner_production_log.text" in levels(use)


def test_only_monitor_has_another_default_environment() -> None:
    assert settings.read({}).env == "dev"
    assert settings.read({}, monitor.DEFAULT_ENV).env == "postprod"
    assert settings.read({"ENV": "prod"}, monitor.DEFAULT_ENV).env == "prod"
    with pytest.raises(UserError):
        settings.read({"SAMPLE": "-1"})


# --- distances

numbers = st.lists(st.floats(-1e9, 1e9) | st.integers(-5, 5), min_size=1, max_size=40)
counts = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=12)


@given(numbers, numbers)
def test_ks_is_a_distance_up_to_1(one: list[float], other: list[float]) -> None:
    assert drift.ks(one, one) == drift.ks(one, one * 2) == 0
    assert drift.ks(one, other) == drift.ks(other, one)
    assert 0 <= drift.ks(one, other) <= 1
    assert drift.ks(one, [max(one) + 1]) == 1
    assert 0 < drift.ks_chance(len(one), len(other)) <= 1


@given(counts)
def test_psi_is_symmetric_and_not_negative(pairs: list[tuple[int, int]]) -> None:
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    assert drift.psi(one, one) == 0
    assert drift.psi(one, other) == pytest.approx(drift.psi(other, one))
    assert drift.psi(one, other) >= -1e-12
    assert drift.psi_chance(len(one), 10, 10) >= drift.psi_chance(len(one), 20, 10) >= 0


@given(st.floats(-1e308, 1e308), st.floats(-1e308, 1e308))
def test_the_relative_difference_is_symmetric_and_at_most_2(one: float, other: float) -> None:
    assert drift.relative(one, one) == 0
    assert drift.relative(one, other) == drift.relative(other, one)
    assert 0 <= drift.relative(one, other) <= (1 if (one < 0) == (other < 0) else 2)


def test_figures_known_from_tables() -> None:
    # Smirnov's 1 % value for large samples is 1.63; chi squared with 9 degrees has 21.67.
    assert drift.ks_chance(200, 200) == pytest.approx(1.63 / 10, abs=1e-3)
    assert drift.psi_chance(10, 200, 200) == pytest.approx(21.67 / 100, abs=1e-3)
    assert drift.psi([50, 50], [80, 20]) == pytest.approx(0.6 * 0.6931, abs=0.01)
    assert [drift.level(at) for at in (0.1, 0.11, 0.25, 0.26)] == ["none", "some", "some", "strong"]
    assert drift.level(0.5, chance=0.5) == "none"


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
cells = st.lists(values | st.lists(st.integers()), min_size=1, max_size=30)


@given(cells, cells)
def test_any_two_columns_can_be_judged(one: list[Any], other: list[Any]) -> None:
    found = drift.column("a", one, other)
    assert found is None or (found.level in drift.LEVELS and found.text.endswith("."))
    same = drift.column("a", one, one)
    assert same is None or (same.level == "none" and same.distance == 0)


def test_the_kind_of_a_column_decides_how_it_is_compared() -> None:
    def kind(registered: list[Any], log: list[Any]) -> tuple[str, str] | None:
        found = drift.column("a", registered, log)
        return (found.kind, found.measure) if found else None

    texts = [f"text {number}" for number in range(40)]
    assert kind([1, 2.5, None] * 9, [3]) == ("number", "ks")
    assert kind(["a", "b", None] * 9, ["a"]) == ("category", "psi")
    assert kind([True, False] * 9, [True]) == ("category", "psi")
    assert kind(texts, [None, "a"]) == ("text", "ks")
    assert kind([1, 2], ["a"]) is None
    assert kind([{}], [{}]) is None


def test_an_interval_that_holds_the_registered_figure_is_no_drift() -> None:
    def level(low: float, high: float) -> str:
        score = Score(
            variant="logged", dataset="log", evaluator="e", metric="m",
            value=0.5, ci95=(low, high), scored=9, rows=9,
        )  # fmt: skip
        return drift.metric("evaluation.m", 0.9, score).level

    assert level(0.1, 0.95) == "none"
    assert level(0.45, 0.55) == "strong"


def test_a_sample_of_a_short_table_is_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("log.jsonl")
    path.write_text('{"a": "\\ud800"}\n{"a": 2}\n\n{"a": 3}\n')
    assert monitor.sample(Table(path), 3) == path
    part = monitor.sample(Table(path), 2)
    assert len(Table(part)) == 2 and part == monitor.sample(Table(path), 2)
