"""What holds for every experiment of this repo, whatever its flows do."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops import config, validate

ROOT = Path(__file__).resolve().parents[1]
FILES = [path.name for path in ROOT.glob("experiment*.yaml")]
ENVS = sorted(config.DEFAULT_ENV if n == config.EXPERIMENT else n.split(".")[1] for n in FILES)


@pytest.mark.parametrize("env", ENVS)
def test_the_experiment_of_each_environment_is_valid(env: str) -> None:
    validate.check(config.load(env, ROOT), root=ROOT)


def test_the_schema_that_the_editor_reads_is_that_of_the_code() -> None:
    assert (ROOT / config.SCHEMA).read_text(encoding="utf-8") == config.schema()
