"""The figures of an index over documents, measured on this machine.

    python tests/bench_index.py                10,000 passages built, 100,000 searched: minutes
    python tests/bench_index.py --wide         vectors of 1536 dimensions, as large models give

Texts are drawn by Zipf's law from 50,000 words, vectors around 2,000 centres. The stand-in embeds
at once. What is built is built by `make index`'s script; what is searched, by the example's
search.py as a flow calls it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy
from standin import StandIn
from tabulate import tabulate

HERE = Path(__file__).resolve().parent
(HOUSE,) = HERE.parent.glob("*cookiecutter.project*")
SEARCH = HOUSE / "examples/question_answering/flows/standard/search.py"
HEADERS = ("figure", "wanted", "measured")
WORDS, PASSAGE, VOCABULARY, CENTRES = 120, 100, 50_000, 2_000
BUILT, SEARCHED, QUESTIONS = 10_000, 100_000, 200


def main() -> None:
    """Measure and print."""
    sys.path.insert(0, str(HOUSE))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wide", action="store_true", help="1536 dimensions instead of 256")
    print(table(1536 if parser.parse_args().wide else 256))


def table(dimensions: int = 256) -> str:
    """All figures."""
    lines = [*building(dimensions), *searching(dimensions)]
    return tabulate(lines, headers=HEADERS, tablefmt="github")


def texts(count: int, seed: int) -> Iterator[str]:
    """So many passages."""
    random = numpy.random.default_rng(seed)
    words = numpy.array([f"word{number}" for number in range(VOCABULARY)])
    for _ in range(count):
        drawn = random.zipf(1.15, size=WORDS)
        yield " ".join(words[numpy.minimum(drawn, VOCABULARY) - 1])


def building(dimensions: int) -> Iterator[tuple[str, str, str]]:
    """Build 10,000 passages, those of one document again, and nothing."""
    with tempfile.TemporaryDirectory() as name, StandIn() as model:
        folder = use_case(Path(name), dimensions)
        task(folder, model)
        kept = folder / "runs/index/embedded.sqlite"
        journal(folder / "flow/index", kept)
        asked = model.requests
        seconds, memory = task(folder, model)
        assert model.requests == asked, "vectors were kept"
        size = sum(path.stat().st_size for path in (folder / "flow/index").iterdir()) / 1e6
        what = f"index {BUILT:,} passages of {dimensions} dimensions, without embedding"
        yield what, "30 s", f"{seconds:.1f} s, {memory:.0f} MB, index {size:.0f} MB"
        changed = folder / "documents/7.txt"
        changed.write_text(changed.read_text() + "\n\nOne more paragraph at its end.")
        asked = model.requests
        seconds, _ = task(folder, model)
        embedded = len(model.last["body"]["input"])
        requests = model.requests - asked
        yield "one of 100 documents changed", "", f"{seconds:.1f} s, {requests} request"
        yield "passages embedded then", "its own", f"{embedded} of {BUILT:,}"
        yield "nothing changed", "", f"{task(folder, model)[0]:.1f} s"


def use_case(folder: Path, dimensions: int) -> Path:
    """A flow and 100 documents of 100 passages each."""
    (folder / "documents").mkdir()
    (folder / "flow").mkdir()
    (folder / "flow/flow.py").write_text("def run(text):\n    return {'answer': text}\n")
    (folder / "data.jsonl").write_text('{"text": "x"}\n')
    every = list(texts(BUILT, 1))
    for number in range(BUILT // PASSAGE):
        own = every[number * PASSAGE : (number + 1) * PASSAGE]
        (folder / f"documents/{number}.txt").write_text("\n\n".join(own))
    index = {"documents": "documents", "connection": "aoai", "model": "m", "dimensions": dimensions}
    document: dict[str, Any] = {
        "name": "bench",
        "flow": "flow",
        "connections": [{"name": "aoai"}],
        "datasets": [{"name": "rows", "source": "data.jsonl"}],
        "index": {**index, "chunk_words": WORDS, "overlap_words": 0},
    }
    (folder / "experiment.yaml").write_text(json.dumps(document))
    return folder


def task(folder: Path, model: StandIn) -> tuple[float, float]:
    """`make index`: seconds and MB."""
    from bench import measure

    variables = {"PYTHONPATH": str(HOUSE), "AOAI_API_KEY": "k", "AOAI_API_BASE": model.url}
    found = measure(
        [sys.executable, "-m", "scripts.index"], folder, {**os.environ, **variables}, model
    )
    return found.seconds, found.memory


def journal(index: Path, kept: Path) -> None:
    """Take an index away but for its vectors, as a build that was killed leaves them."""
    import shutil

    from llmops.indexing.kept import Journal, Older

    with closing(sqlite3.connect(index / "chunks.sqlite")) as database:
        names = [row[0] for row in database.execute("SELECT embedded FROM chunks")]
    vectors = Older(index).vectors(names)
    with closing(Journal(kept.parent)) as found:
        found.keep(list(vectors), list(vectors.values()))
    shutil.rmtree(index)


def searching(dimensions: int) -> Iterator[tuple[str, str, str]]:
    """Ask 200 questions in each mode."""
    with tempfile.TemporaryDirectory() as name:
        questions = list(large_index(Path(name), dimensions))
        reader = module(SEARCH)
        for mode in ("vector", "keyword", "hybrid"):
            seconds = []
            for question, vector in questions:
                start = time.perf_counter()
                found = reader.search(question, vector, mode=mode, top_k=5, folder=Path(name))
                seconds.append(time.perf_counter() - start)
                assert len(found) == 5
            p50, p95 = (statistics.quantiles(seconds, n=20)[at] * 1000 for at in (9, 18))
            what = f"{mode} among {SEARCHED:,} passages of {dimensions} dimensions"
            yield what, "p50 10 ms", f"p50 {p50:.1f} ms, p95 {p95:.1f} ms"
        yield (
            "nearest 5 found of those that are nearest",
            "",
            f"{recall(Path(name), questions):.1%}",
        )


def large_index(folder: Path, dimensions: int) -> Iterator[tuple[str, Any]]:
    """Write an index of 100,000 passages; gives questions with their vectors."""
    from llmops.indexing import manifest, store
    from llmops.indexing.chunks import Chunk

    random = numpy.random.default_rng(3)
    centres = random.standard_normal((CENTRES, dimensions), dtype=numpy.float32)
    vectors = numpy.empty((SEARCHED, dimensions), dtype=numpy.float16)
    for start in range(0, SEARCHED, 10_000):
        noise = random.standard_normal((10_000, dimensions), dtype=numpy.float32)
        vectors[start : start + 10_000] = (
            centres[random.integers(0, CENTRES, 10_000)] + 0.7 * noise
        ) / dimensions**0.5
    chunks = [
        Chunk(f"d.txt#{number}", "d.txt", None, "", text)
        for number, text in enumerate(texts(SEARCHED, 2))
    ]
    store.write(folder, chunks, [str(number) for number in range(SEARCHED)], vectors)
    made = manifest.Manifest(
        version="0" * 64,
        documents={"d.txt": manifest.Counted(sha256="0" * 64, chunks=SEARCHED)},
        chunks=SEARCHED,
        embedding=manifest.Embedding(model="m", dimensions=dimensions, chosen=True, origin="live"),
        chunking=manifest.Chunking(words=WORDS, overlap=0),
    )
    (folder / "index.json").write_text(manifest.dump(made))
    for number in random.integers(0, SEARCHED, QUESTIONS):
        noise = random.standard_normal(dimensions, dtype=numpy.float32)
        words = chunks[number].text.split()
        yield (
            " ".join(words[:12]),
            vectors[number].astype(numpy.float32) + 0.3 * noise / dimensions**0.5,
        )


def recall(folder: Path, questions: list[tuple[str, Any]]) -> float:
    """The share of the 5 nearest that are found, over 50 questions."""
    from usearch.index import Index

    index = Index.restore(str(folder / "vectors.usearch"), view=True)
    shares = []
    for _, vector in questions[:50]:
        exact = set(index.search(vector, 5, exact=True).keys.tolist())
        shares.append(len(exact & set(index.search(vector, 5).keys.tolist())) / 5)
    return statistics.mean(shares)


def module(path: Path) -> Any:
    """A Python file of a flow."""
    spec = importlib.util.spec_from_file_location("search_of_the_bench", path)
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


if __name__ == "__main__":
    main()
