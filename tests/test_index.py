"""`make index`, and what the tasks do with an index: built from documents, searched by a flow."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmops import flows
from llmops.config import Index, Limits
from llmops.connections import Connection
from llmops.errors import UserError
from llmops.indexing import chunks, reading, store
from llmops.indexing.build import build
from llmops.indexing.manifest import FILE, Place
from llmops.indexing.reading import Section
from pydantic import SecretStr
from standin import StandIn
from test_compare import commit, git
from usecase import AOAI, LIBRARY, Json, Outcome, UseCase, wait_until

DIMENSIONS = 16
INDEX: Json = {
    "documents": "data/documents",
    "connection": "aoai",
    "model": "vectors-small",
    "dimensions": DIMENSIONS,
}
SEARCH = LIBRARY / "examples/question_answering/flows/standard/search.py"
LEAVE = "# Leave\n\nThirty days.\n\n## Parents\n\nFourteen weeks for parents.\n"
TRAMS = (
    "<!DOCTYPE html><h1>Trams</h1><p>Line <b>4</b> runs every\nten minutes.</p>"
    "<script>wrong()</script>"
)
NUMBERED = " ".join(f"w{number}" for number in range(400))
FLOW = """
from search import search


def run(text):
    found = search(text, None, mode="keyword", top_k=1)
    return {"answer": found[0]["id"] if found else ""}
"""


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    """A model that embeds."""
    with StandIn() as model:
        yield model


@pytest.fixture
def use(tmp_path: Path, model: StandIn) -> Iterator[UseCase]:
    """A use case with three documents and an index."""
    use = UseCase(tmp_path)
    use.write("data/documents/leave.md", LEAVE)
    use.write("data/documents/trams.html", TRAMS)
    use.write("data/documents/the report.pdf", pdf.document(["Opened in 1912.", "Ends (1990)."]))
    use.configure(connections=[AOAI], index=INDEX, limits={"retries": 0, "timeout_s": 20})
    yield use
    model.fail()


Run = Callable[..., Outcome]


@pytest.fixture
def run(use: UseCase, model: StandIn) -> Run:
    """run(task="index", **variables), with a key."""

    def run(task: str = "index", /, **more: str) -> Outcome:
        return use.run(task, **{"AOAI_API_KEY": "k", "AOAI_API_BASE": model.url, **more})

    return run


def folder(use: UseCase) -> Path:
    """Where the index is."""
    return use.folder / "flows/standard/index"


def manifest(use: UseCase) -> Json:
    """index.json."""
    return json.loads((folder(use) / "index.json").read_text(encoding="utf-8"))


def rows(use: UseCase) -> list[tuple[Any, ...]]:
    """The passages of a use case."""
    return rows_in(folder(use))


def rows_in(place: Path) -> list[tuple[Any, ...]]:
    """The passages in the order of an index."""
    with sqlite3.connect(place / "chunks.sqlite") as database:
        return database.execute(
            "SELECT id, page, heading, text FROM chunks ORDER BY number"
        ).fetchall()


def vector_of(text: str) -> list[float]:
    """What the stand-in answers to a text."""
    digest = hashlib.sha256(text.encode()).digest()
    return [byte / 255 for byte in digest[:DIMENSIONS]]


@pytest.fixture
def reader() -> ModuleType:
    """search.py of the example."""
    spec = importlib.util.spec_from_file_location("search_of_the_example", SEARCH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- Built, and found again


def test_every_kind_of_document_is_found(use: UseCase, run: Run, reader: ModuleType) -> None:
    done = run()
    assert done.code == 0, done.text
    assert "3 documents, 5 chunks (5 embedded by vectors-small) in flows/standard/index" in done.out
    assert rows(use) == [
        ("leave.md#1", None, "Leave", "Thirty days."),
        ("leave.md#2", None, "Leave > Parents", "Fourteen weeks for parents."),
        ("the report.pdf#p1.1", 1, "", "Opened in 1912."),
        ("the report.pdf#p2.1", 2, "", "Ends (1990)."),
        ("trams.html#1", None, "Trams", "Line 4 runs every ten minutes."),
    ]
    vector = vector_of("Ends (1990).")
    for mode, question in (("vector", "?"), ("keyword", "when did it end"), ("hybrid", "ENDS")):
        best, *_ = reader.search(question, vector, mode=mode, top_k=3, folder=folder(use))
        assert (best["source"], best["page"], best["id"]) == (
            "the report.pdf",
            2,
            "the report.pdf#p2.1",
        )


def test_the_manifest_says_what_it_is_of(use: UseCase, run: Run) -> None:
    run()
    made = manifest(use)
    assert list(made) == [
        *("format", "version", "documents", "chunks", "embedding", "chunking", "search"),
    ]
    content = hashlib.sha256(LEAVE.encode()).hexdigest()
    assert made["documents"]["leave.md"] == {"sha256": content, "chunks": 2}
    assert made["embedding"] == {
        "model": "vectors-small",
        "dimensions": DIMENSIONS,
        "chosen": True,
        "origin": "live",
    }
    assert made["chunking"] == {"words": 120, "overlap": 20}
    before = (folder(use) / "index.json").read_bytes()
    run(FRESH="1")
    assert (folder(use) / "index.json").read_bytes() == before
    assert use.leftovers() == []


def test_only_what_changed_is_embedded(use: UseCase, run: Run, model: StandIn) -> None:
    run()
    asked = model.requests
    assert "(5 unchanged)" in run().out
    assert model.requests == asked
    use.write("data/documents/leave.md", LEAVE.replace("Thirty", "Forty"))
    (use.folder / "data/documents/trams.html").unlink()
    use.write("data/documents/sub/über uns.txt", "We are a tram company.")
    done = run()
    assert "3 documents, 5 chunks (2 embedded by vectors-small, 3 unchanged)" in done.out
    assert model.last["body"]["input"] == ["Leave\n\nForty days.", "We are a tram company."]
    assert [row[0] for row in rows(use)][2:] == [
        *("sub/über uns.txt#1", "the report.pdf#p1.1", "the report.pdf#p2.1"),
    ]


@pytest.mark.parametrize(
    ("change", "embedded"),
    [
        ({"model": "vectors-large"}, 5),
        ({"dimensions": 8}, 5),
        ({"chunk_words": 10, "overlap_words": 0}, 0),
    ],
    ids=["model", "dimensions", "chunking"],
)
def test_other_settings_build_another(use: UseCase, run: Run, change: Json, embedded: int) -> None:
    run()
    before = manifest(use)
    use.configure(index={**INDEX, **change})
    done = run()
    assert f"({embedded} embedded" in done.out if embedded else "(5 unchanged)" in done.out
    assert manifest(use)["version"] != before["version"]


def test_the_same_content_twice_stands_once(use: UseCase, run: Run) -> None:
    use.write("data/documents/holidays.md", LEAVE)
    use.write("data/documents/notes.docx", b"x")
    use.write("data/documents/.hidden.md", "# No")
    done = run()
    assert "not read: notes.docx (documents are .txt, .md, .html, .htm, .pdf)" in done.out
    assert "not read: leave.md has the same content as holidays.md" in done.out
    assert manifest(use)["documents"]["leave.md"]["chunks"] == 0
    assert manifest(use)["chunks"] == 5


def test_a_document_of_200_pages(use: UseCase, run: Run) -> None:
    pages = [f"Page {number}. {NUMBERED}"[:400] for number in range(1, 201)]
    use.write("data/documents/long.pdf", pdf.document(pages))
    assert run().code == 0
    found = [row for row in rows(use) if row[0].startswith("long.pdf")]
    assert [row[1] for row in found] == sorted(row[1] for row in found)
    assert found[-1][0].startswith("long.pdf#p200.") and "Page 200." in found[-1][3]


# ---- What is refused


def encrypted() -> bytes:
    """A PDF that opens with a password only."""
    import io

    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf.document(["secret"]))))
    writer.encrypt("password", algorithm="RC4-128")
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


BAD = {
    "empty.pdf": (b"", ["empty.pdf: the file is empty"]),
    "scan.pdf": (pdf.document(["", ""]), ["scan.pdf: holds no text: a scan", "OCR"]),
    "corrupt.pdf": (b"%PDF-1.7 and then nothing", ["corrupt.pdf: cannot be read as PDF"]),
    "cut.pdf": (pdf.document(["some text"])[:200], ["cut.pdf: "]),
    "encrypted.pdf": (encrypted(), ["encrypted.pdf: is encrypted", "without a password"]),
    "old.txt": ("Grüße".encode("latin-1"), ["old.txt: not UTF-8 (byte 3)", "Save it as UTF-8"]),
    "empty.md": (b"---\ntitle: x\n---\n", ["empty.md: holds no text"]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_document_that_cannot_be_read(use: UseCase, run: Run, name: str) -> None:
    run()
    before = (folder(use) / "index.json").read_bytes()
    content, parts = BAD[name]
    use.write(f"data/documents/{name}", content)
    use.write("data/documents/also.txt", b"\xff")
    run().refused(*parts, "also.txt: not UTF-8")
    assert (folder(use) / "index.json").read_bytes() == before
    assert use.leftovers() == []


def test_a_link_out_of_the_folder(use: UseCase, run: Run) -> None:
    outside = use.write("secret.txt", "No document.")
    (use.folder / "data/documents/link.txt").symlink_to(outside)
    (use.folder / "data/documents/more").symlink_to(use.home)
    run().refused("link.txt: a link to a folder or out of", "more: a link to a folder or out of")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"connection": "other"}, "index.connection: 'other' (expected one of aoai)"),
        ({"documents": "data/none"}, "index.documents: data/none: no such folder"),
        ({"documents": "data/empty"}, "index.documents: data/empty: holds no document"),
        ({"overlap_words": 120}, "overlap_words (120) must be less than chunk_words (120)"),
        ({"folder": "elsewhere"}, "index.folder: 'elsewhere' is not below flows/standard"),
        ({"folder": "flows/standard"}, "index.folder: 'flows/standard' is not below"),
        ({"folder": "flows/standard/kept"}, "flows/standard/kept: index.folder is replaced"),
        ({"dimensions": 0}, "dimensions"),
        ({"chunks": 3}, "index: unknown key 'chunks'"),
    ],
)
def test_what_validate_says(use: UseCase, change: Json, part: str) -> None:
    use.write("flows/standard/kept/mine.txt", "not to be lost")
    use.write("data/empty/notes.docx", "x")
    use.configure(index={**INDEX, **change})
    use.run("validate", LLM="replay").refused(part)


def test_no_index_is_wanted(use: UseCase, run: Run) -> None:
    del use.blocks["index"]
    use.configure()
    run().refused("experiment.yaml: index: missing", "Add it with documents")


def test_sqlite_without_full_text_search(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(sqlite3.Connection):
        def execute(self, *_: Any) -> Any:
            raise sqlite3.OperationalError("no such module: fts5")

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name: real(name, factory=Plain))
    with pytest.raises(UserError, match=r"no full-text search \(FTS5\)"):
        store.check()


def test_the_reader_refuses_what_does_not_fit(use: UseCase, run: Run, reader: ModuleType) -> None:
    place = folder(use)

    def refused(part: str, **change: Any) -> None:
        given: Json = {"vector": vector_of("x"), "mode": "hybrid", "top_k": 2, "folder": place}
        given |= change
        with pytest.raises(reader.SearchError, match=part):
            reader.search("a question", given.pop("vector"), **given)

    refused("there is no index. Run `make index`")
    run()
    refused("16 dimensions .* the question's has 3", vector=[1, 2, 3])
    refused("embedded by 'vectors-small', the question by 'other'", model="other")
    refused("mode: value 'best' .expected one of vector, keyword, hybrid", mode="best")
    refused("needs the question's embedding", vector=None)
    refused("top_k: value 0", top_k=0)
    (place / "vectors.usearch").unlink()
    refused("vectors.usearch: not found")
    assert reader.search('the "parents" AND * -', None, mode="keyword", top_k=9, folder=place)
    assert reader.search("?!", None, mode="keyword", top_k=9, folder=place) == []
    made = {**manifest(use), "format": 2}
    (place / "index.json").write_text(json.dumps(made))
    refused("format 2, this flow reads 1")


# ---- An endpoint that fails, a disk that is full, a build that is killed


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ({"status": 429, "retry_after": 0}, ["429 in 2 tries"]),
        ({"status": 500}, ["500 in 2 tries"]),
        ({"status": 400}, ["cannot embed: 400 in 1 try: "]),
        ({"drop": True}, ["no answer in 2 tries"]),
        ({"hang": 9}, ["no answer in 2 tries", "limits.timeout_s: 0.5"]),
        ({"body": "hello"}, ["answers, but not with embeddings"]),
    ],
    ids=["429", "500", "400", "dropped", "too slow", "no JSON"],
)
def test_an_endpoint_that_fails(
    use: UseCase, run: Run, model: StandIn, fault: Json, parts: list[str]
) -> None:
    use.configure(limits={"retries": 1, "timeout_s": 0.5 if "hang" in fault else 20})
    model.fail(fault)
    run().refused("connection 'aoai': model 'vectors-small'", *parts)
    assert not folder(use).exists()
    model.fail(*([{**fault, "times": 1}] if "status" in fault and fault["status"] != 400 else []))
    assert run().code == 0


def test_vectors_of_another_dimension(use: UseCase, run: Run, model: StandIn) -> None:
    body: Json = {"data": [{"index": n, "embedding": [0.5] * 4} for n in range(5)]}
    model.fail({"body": json.dumps(body)})
    run().refused("vectors of 4 dimensions, but", "index.dimensions says 16. Write 4")
    body["data"][0]["embedding"] = [0.5] * 3
    model.fail({"body": json.dumps(body)})
    run().refused("answers 5 vectors, not 5 of one length")
    body["data"].pop()
    model.fail({"body": json.dumps(body)})
    run().refused("answers 4 vectors, not 5 of one length")
    assert not folder(use).exists()


def many(use: UseCase, documents: int = 300) -> None:
    """As many documents of one passage as make several requests."""
    for number in range(documents):
        use.write(f"data/documents/{number:03}.txt", f"Document {number}.")


def test_a_build_that_is_killed_goes_on(use: UseCase, run: Run, model: StandIn) -> None:
    many(use)
    use.configure(limits={"concurrency": 1, "retries": 0, "timeout_s": 60})
    model.fail({"when": "Document 150.", "hang": 60})
    asked = model.requests
    child = use.start("index", AOAI_API_KEY="k", AOAI_API_BASE=model.url)
    wait_until(lambda: model.requests == asked + 3)
    assert use.end(child, signal.SIGKILL).code == -signal.SIGKILL
    assert not folder(use).exists()
    model.fail()
    done = run()
    assert model.requests == asked + 6, "three of five requests are left"
    assert "305 chunks (177 embedded by vectors-small, 128 unchanged)" in done.out
    assert not (use.folder / "runs/index/embedded.sqlite").exists()


def test_ctrl_c_keeps_what_is_paid_for(use: UseCase, run: Run, model: StandIn) -> None:
    many(use, 100)
    use.configure(limits={"concurrency": 1, "retries": 0, "timeout_s": 60})
    model.fail({"when": "Document 80.", "hang": 60})
    asked = model.requests
    child = use.start("index", AOAI_API_KEY="k", AOAI_API_BASE=model.url)
    wait_until(lambda: model.requests == asked + 2)
    assert use.end(child, signal.SIGINT).code == 130
    model.fail()
    assert "(41 embedded by vectors-small, 64 unchanged)" in run().out


def test_two_builds_at_once(use: UseCase, model: StandIn) -> None:
    model.fail({"hang": 1, "times": 1})
    variables = {"AOAI_API_KEY": "k", "AOAI_API_BASE": model.url}
    children = [use.start("index", **variables) for _ in range(2)]
    ends = [use.end(child) for child in children]
    assert [end.code for end in ends] == [0, 0], [end.text for end in ends]
    assert any("Another task builds the index; waiting" in end.err for end in ends)
    assert manifest(use)["chunks"] == 5


def test_a_full_disk(use: UseCase, run: Run, model: StandIn) -> None:
    use.write("data/documents/long.txt", NUMBERED * 50)
    run()
    before = (folder(use) / "index.json").read_bytes()
    use.write("data/documents/long.txt", NUMBERED * 60)
    environment = use.clean(AOAI_API_KEY="k", AOAI_API_BASE=model.url)
    limit = (100_000, 100_000)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.index"],
        cwd=use.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert done.returncode == 1, done
    assert "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert (folder(use) / "index.json").read_bytes() == before
    assert not (use.folder / "runs/index/new").exists()
    assert run().code == 0


def test_a_folder_that_cannot_be_written(use: UseCase, run: Run) -> None:
    use.write("runs", "a file")
    run().refused("runs is a file, not a folder")


# ---- Recordings


def test_recorded_embeddings_are_replayed_in_other_batches(
    use: UseCase, run: Run, model: StandIn
) -> None:
    assert "5 embedded" in run(LLM="record").out
    lines = (use.folder / "recordings/recorded.jsonl").read_text().splitlines()
    assert len(lines) == 5
    first = json.loads(lines[0])
    assert first["request"]["input"] == "Leave\n\nThirty days."
    assert len(first["response"]["data"]) == 1
    asked = model.requests
    (use.folder / "data/documents/leave.md").unlink()
    done = use.run("index")
    assert "3 chunks (3 embedded by vectors-small)" in done.out
    assert manifest(use)["embedding"]["origin"] == "recorded"
    assert model.requests == asked
    use.write("data/documents/new.md", "# New\n\nNobody recorded this.")
    use.run("index").refused("No recording of this request", "Nobody", "`make record`")
    assert manifest(use)["chunks"] == 3


# ---- What the tasks do with it


def searching(use: UseCase) -> None:
    """Let the flow search, by words alone."""
    shutil.copy(SEARCH, use.folder / "flows/standard")
    use.write("flows/standard/flow.py", FLOW)
    use.rows([{"text": "parents", "truth": "leave.md#2"}, {"text": "1912", "truth": "x"}])


def test_an_experiment_brings_it_up_to_date(use: UseCase, run: Run) -> None:
    searching(use)
    done = run("experiment")
    assert done.code == 0, done.text
    assert "index: 3 documents, 5 chunks (5 embedded" in done.out
    assert done.summary and done.summary["scores"][0]["value"] == 0.5
    assert done.summary["index"] == {
        "version": manifest(use)["version"],
        "documents": 3,
        "chunks": 5,
        "model": "vectors-small",
        "dimensions": DIMENSIONS,
        "origin": "live",
        "search": None,
    }
    again = run("experiment")
    assert "index:" not in again.out
    use.write("data/documents/leave.md", LEAVE.replace("Fourteen", "Sixteen"))
    assert "index: 3 documents, 5 chunks (1 embedded" in run("experiment").out
    assert len(list(use.folder.glob("runs/*default*"))) >= 2, "another index, other runs"
    scored = run("evaluate").summary
    assert scored and scored["index"]["version"] == manifest(use)["version"]


def test_try_and_image(use: UseCase, run: Run) -> None:
    searching(use)
    environment = use.folder / "environment"
    shutil.copytree(LIBRARY / "environment", environment)
    shutil.copytree(LIBRARY / "requirements", use.folder / "requirements")
    run("image", CONTEXT_ONLY="1").refused("there is no index. Run `make index`")
    assert '"leave.md#2"' in run("try", INPUTS="text=parents").out
    done = run("image", CONTEXT_ONLY="1")
    assert done.code == 0, done.text
    (context,) = (use.folder / "runs/image").glob("[!.]*")
    inside = {path.name for path in context.glob("srv/bundle/flow/index/*")}
    assert inside == {"index.json", "chunks.sqlite", "vectors.usearch"}
    assert (context / "index-requirements.txt").is_file()
    use.write("data/documents/leave.md", "# Other")
    use.write("data/documents/leave.md", "# Other\n\nText.")
    run("image", CONTEXT_ONLY="1").refused("not of the documents as they are now. Run `make index`")


def test_register_wants_it_current(use: UseCase, run: Run) -> None:
    searching(use)
    assert run("experiment").code == 0
    use.write("data/documents/leave.md", "# Other\n\nText.")
    run("register").refused("not of the documents as they are now. Run `make index`")


def test_compare_builds_the_base_s_and_pays_for_nothing_twice(
    use: UseCase, run: Run, model: StandIn
) -> None:
    searching(use)
    use.write(".gitignore", "runs/\nreports/\nindex/\n")
    git(use, "init", "--quiet", "--initial-branch=main")
    commit(use)
    use.write("data/documents/new.txt", "Nineteen twelve is 1912, and 1912 it is.")
    asked = model.requests
    done = run("compare", BASE="main")
    assert done.code == 0, done.text
    assert model.requests == asked + 1, "the base's passages are those of the working tree"
    assert done.summary and done.summary["base"]["not_comparable"] == []
    assert done.summary["base"]["runs"][0]["outputs"] != done.summary["runs"][0]["outputs"]


def test_a_flow_s_hash_counts_the_manifest_alone(use: UseCase, run: Run) -> None:
    run()
    flow = flows.describe("flows/standard", use.folder)
    before = flows.digest(flow, {})
    (folder(use) / "vectors.usearch").write_bytes(b"other bytes")
    assert flows.digest(flow, {}) == before
    (folder(use) / "index.json").write_text("{}")
    assert flows.digest(flow, {}) != before
    use.write("flows/standard/data/chunks.sqlite", "the flow's own")
    assert flows.digest(flow, {}) != (before := flows.digest(flow, {})) or before
    alone = flows.digest(flow, {})
    use.write("flows/standard/data/chunks.sqlite", "changed")
    assert flows.digest(flow, {}) != alone


def test_a_repo_without_an_index_imports_none_of_its_packages(use: UseCase) -> None:
    del use.blocks["index"]
    use.configure()
    for name in ("usearch", "pypdf", "bs4", "markdown_it"):
        use.write(f"blocked/{name}.py", "raise ImportError('imported')")
    path = os.pathsep.join((str(use.folder / "blocked"), str(LIBRARY)))
    for task in ("validate", "experiment"):
        done = use.run(task, PYTHONPATH=path, LLM="replay")
        assert done.code == 0, done.text


# ---- Cut into passages


PLAIN = st.text(st.sampled_from("ab.! \n\t\u00a0é漢"), max_size=400)
SIZES = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1)))


@given(PLAIN, SIZES)
def test_no_word_is_lost_and_the_overlap_is_right(text: str, size: tuple[int, int]) -> None:
    words, overlap = size
    pieces = chunks.split(text, words, overlap)
    assert pieces == chunks.split(text, words, overlap)
    whole: list[str] = []
    for number, piece in enumerate(pieces):
        parts = [word for word, _ in chunks._PIECE.findall(piece)]
        assert 0 < len(parts) <= words
        if number:
            assert parts[:overlap] == whole[len(whole) - overlap :]
        whole += parts[overlap if number else 0 :]
    assert whole == [word for word, _ in chunks._PIECE.findall(text.strip())]


def test_a_passage_ends_with_a_paragraph_or_a_sentence() -> None:
    text = "one two three four five six\n\nseven eight nine ten eleven"
    assert chunks.split(text, 8, 0) == ["one two three four five six", text.partition("\n\n")[2]]
    text = "one two three four five six. seven eight nine ten eleven"
    assert chunks.split(text, 8, 2) == [
        "one two three four five six.",
        "five six. seven eight nine ten eleven",
    ]


def test_a_very_long_word_counts_as_several() -> None:
    pieces = chunks.split("x" * 4000, 10, 0)
    assert [len(piece) for piece in pieces] == [400] * 10
    assert "".join(pieces) == "x" * 4000


def test_no_passage_reaches_over_a_heading_or_a_page() -> None:
    sections = [Section("a b c", "One"), Section("d", "Two"), Section("e", page=7)]
    found = chunks.cut("x.md", sections, 10, 0)
    assert [(one.id, one.heading, one.page) for one in found] == [
        ("x.md#1", "One", None),
        ("x.md#2", "Two", None),
        ("x.md#p7.1", "", 7),
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.md",
            "---\r\nt: 1\r\n---\r\nIntro\r\n\r\nUnder\r\n=====\r\n\r\nx\r\n\r\n"
            "```\r\n# no\r\n```\r\n### D\r\ny",
            [("", "Intro"), ("Under", "x\n\n```\n# no\n```"), ("Under > D", "y")],
        ),
        ("b.md", "\ufeff# *Big* `one` #\n\ntext", [("*Big* `one`", "text")]),
        (
            "c.html",
            "2024 <b>is</b> first<h2>A &lt;b&gt;</h2><style>p{}</style><!-- no --><p>one<br>two"
            "<p>three<pre>x\n  y</pre><h3>B</h3><table><tr><td>1</td><td>2</td></tr></table>",
            [
                ("", "2024 is first"),
                ("A <b>", "one\ntwo\n\nthree\n\nx\ny"),
                ("A <b> > B", "1 2"),
            ],
        ),
        ("d.txt", "# no heading\n\nx", [("", "# no heading\n\nx")]),
    ],
)
def test_headings(tmp_path: Path, name: str, content: str, expected: list[Any]) -> None:
    (tmp_path / name).write_bytes(content.encode())
    sections = reading.read(tmp_path / name)
    found = [(s.heading, chunks.split(s.text, 99, 0)[0]) for s in sections]
    assert found == expected


# ---- Step by step gives what all at once gives


class Live:
    """The connections of a task that asks a model; see `llmops.answers.Answers`."""

    mode = "live"

    def __init__(self, url: str) -> None:
        self._link = Connection(
            name="aoai",
            type="OpenAIConnection",
            values={"base_url": f"{url}/v1"},
            secrets={"api_key": SecretStr("k")},
        )

    def connections(self) -> dict[str, Connection]:
        """The one that embeds."""
        return {"aoai": self._link}

    def open(self) -> None:
        """Nothing is to be started."""

    close = open


STATES = st.lists(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), min_size=1), min_size=1, max_size=4
)


@settings(max_examples=15, deadline=None)
@given(STATES)
def test_incremental_is_as_a_full_build(model: StandIn, states: list[dict[str, int]]) -> None:
    block = Index.model_validate({**INDEX, "chunk_words": 30, "overlap_words": 5})
    answers: Any = Live(model.url)

    def contents(place: Place, *, fresh: bool) -> tuple[Any, ...]:
        build(place, answers, Limits(), fresh=fresh)
        return rows_in(place.folder), stored(place.folder), (place.folder / FILE).read_bytes()

    with tempfile.TemporaryDirectory() as name:
        place = Place(block, Path(name, "index"), Path(name))
        for state in states:
            shutil.rmtree(place.documents, ignore_errors=True)
            place.documents.mkdir(parents=True)
            for document, version in state.items():
                text = NUMBERED[: 200 + 70 * version].replace("w", f"{document}x{version % 2}")
                (place.documents / f"{document}.txt").write_text(text)
            step = contents(place, fresh=False)
        assert contents(place, fresh=True) == step


def stored(place: Path) -> list[list[float]]:
    """The vectors in the order of the passages."""
    import numpy
    from usearch.index import Index as Stored

    index = Stored.restore(str(place / "vectors.usearch"))
    found = index.get(numpy.arange(len(index), dtype=numpy.uint64), numpy.float16)
    return [vector.tolist() for vector in found]


def test_a_very_long_question(use: UseCase, run: Run, reader: ModuleType) -> None:
    run()
    question = " ".join(f"word{number}" for number in range(20_000)) + " parents \ud800 \0 NEAR(x"
    found = reader.search(question, None, mode="keyword", top_k=3, folder=folder(use))
    assert isinstance(found, list)
    (best,) = reader.search(
        "parents \ud800 \0 NEAR(x", None, mode="keyword", top_k=3, folder=folder(use)
    )
    assert best["id"] == "leave.md#2"
