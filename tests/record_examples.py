"""Make each example's recordings from the answers that were written by hand for it.

    python tests/record_examples.py [EXAMPLE …]

Run it after a prompt, the data or `tests/answers/<example>.jsonl` changed. A stand-in gives
the answers, the generated repo's own `record` task keeps them, and their source says whose they
are. Embeddings for an example with an index are counted words, see `word_vectors.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from standin import StandIn

PROJECT = Path(__file__).resolve().parents[1] / "<<cookiecutter.project>>"
ANSWERS = Path(__file__).parent / "answers"
SOURCE = "written by hand for this example"
COUNTED = "computed from word counts for this example, no model"
ENVS = ({"VARIANTS": "combinations"}, {"ENV": "pr"}, {"ENV": "prod"})
# Eight combinations of long prompts would fill megabytes.
FIRST = {"question_answering": {"VARIANTS": "all"}}


def main(examples: list[str]) -> None:
    """Write `recordings/written_by_hand.jsonl` of the examples, all of them by default."""
    for name in examples or sorted(path.stem for path in ANSWERS.glob("*.jsonl")):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            shutil.copytree(PROJECT / "examples" / name, folder)
            shutil.rmtree(folder / "recordings", ignore_errors=True)
            record(name, folder)
            count = keep(folder, PROJECT / "examples" / name)
        print(f"{name}: {count} recordings")


def record(name: str, folder: Path) -> None:
    """Run the example in each of its environments against the hand-written answers."""
    answers = [json.loads(line) for line in (ANSWERS / f"{name}.jsonl").open(encoding="utf-8")]
    with StandIn(answers=answers, vectors="word_vectors") as model:
        for variables in (FIRST.get(name, ENVS[0]), *ENVS[1:]):
            if "ENV" in variables and not (folder / f"experiment.{variables['ENV']}.yaml").exists():
                continue
            environment = {
                **os.environ,
                **variables,
                "PYTHONPATH": str(PROJECT),
                "AOAI_API_BASE": model.url,
                "AOAI_API_KEY": "stand-in",
            }
            task = [sys.executable, "-m", "scripts.record"]
            subprocess.run(task, cwd=folder, env=environment, check=True)


def keep(folder: Path, example: Path) -> int:
    """Put the recordings into the example, in a stable order; gives their number."""
    recorded = (folder / "recordings" / "recorded.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [sourced(json.loads(line)) for line in recorded]
    lines.sort(key=lambda line: json.dumps(line["request"], sort_keys=True))
    target = example / "recordings" / "written_by_hand.jsonl"
    target.parent.mkdir(exist_ok=True)
    texts = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    target.write_text("".join(texts), encoding="utf-8")
    return len(lines)


def sourced(line: dict[str, Any]) -> dict[str, Any]:
    """A recording that says where its answer comes from."""
    return line | {"source": COUNTED if line["path"] == "/embeddings" else SOURCE}


if __name__ == "__main__":
    main(sys.argv[1:])
