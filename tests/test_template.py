"""The template itself: which answers it takes, and what each of them makes of the repo."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from conftest import HOUSE, ROOT, Bake, Run
from cookiecutter.exceptions import FailedHookException, OutputDirExistsException

QUESTIONS = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
EXAMPLES = [example for example in QUESTIONS["example"] if example != "none"]
CHOICES = [
    dict(zip(("example", "ci", "licence"), answers, strict=True))
    for answers in itertools.product(EXAMPLES, QUESTIONS["ci"], QUESTIONS["licence"])
] + [{"python_version": version} for version in QUESTIONS["python_version"][1:]]

ACCEPTED = [
    ("project", "abc"),
    ("project", "a" * 32),
    ("project", "a1_b-2"),
    ("project", "x--y__9"),
    (
        "description",
        "A colon: a 'quote', {braces}, {{two}}, {% these %}, $HOME, #tag, `tick` & <tag>",
    ),
    ("description", "Größe, 日本語, 🙂"),
    ("description", "- yes"),
    ("description", "x" * 200),
    ("owner", "O'Brien & Söhne (R&D), 50 %"),
]
REJECTED = [
    ("project", "", "3 to 32 characters"),
    ("project", "ab", "3 to 32 characters"),
    ("project", "a" * 33, "3 to 32 characters"),
    ("project", "9lives", "begin with a lower-case letter"),
    ("project", "-dash", "begin with a lower-case letter"),
    ("project", "Upper", "begin with a lower-case letter"),
    ("project", "../escape", "begin with a lower-case letter"),
    ("project", "camelCase", "hold only"),
    ("project", "sub/folder", "hold only"),
    ("project", "two words", "hold only"),
    ("project", "éclair", "begin with a lower-case letter"),
    ("project", "caché", "hold only"),
    ("project", "abc\n", "hold only"),
    ("project", "ends-", "end with a letter or a digit"),
    ("project", "ends_", "end with a letter or a digit"),
    ("description", "", "1 to 200 characters"),
    ("description", "x" * 201, "1 to 200 characters"),
    ("description", 'say "hi"', "without double quotes"),
    ("description", "C:\\temp", "backslashes"),
    ("description", "two\nlines", "one line"),
    ("description", "a\ttab", "one line"),
    ("description", "a\x00null", "one line"),
    ("description", " space before", "space"),
    ("description", "space after ", "space"),
    ("description", "<< cookiecutter.owner >>", "delimiters"),
    ("description", "<< 7 * 7 >>", "delimiters"),
    ("description", "1 << 3", "delimiters"),
    ("description", "<% if %>", "delimiters"),
    ("description", "a #> b", "delimiters"),
    ("owner", "", "1 to 200 characters"),
    ("owner", 'The "A" team', "without double quotes"),
]


# --- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("question", "answer"), ACCEPTED)
def test_accepted(question: str, answer: str, generate: Bake, tmp_path: Path) -> None:
    repo = generate(tmp_path, **{"example": "blank", question: answer})
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = json.loads((repo / ".template.json").read_text(encoding="utf-8"))["answers"]
    written = {
        "project": project["name"],
        "description": project["description"],
        "owner": project["authors"][0]["name"],
    }
    assert known[question] == written[question] == answer


@pytest.mark.parametrize(("question", "answer", "rule"), REJECTED)
def test_rejected(question: str, answer: str, rule: str, generate: Bake, tmp_path: Path) -> None:
    with pytest.raises(FailedHookException, match="is refused: it must .*" + rule):
        generate(tmp_path / "here", **{question: answer})
    assert list(tmp_path.iterdir()) == []


def test_a_typed_answer_is_refused_at_once(run: Run, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "cookiecutter", str(ROOT))
    typed = tmp_path / "typed"
    typed.write_text("good-name\nbad << tag\n", encoding="utf-8")
    told = run(tmp_path, "sh", "-c", 'exec "$@" < typed', "sh", *command)
    assert told.returncode == 1
    assert "description: 'bad << tag' is refused" in told.stdout
    assert "Traceback" not in told.stdout + told.stderr
    assert "owns" not in told.stdout, "asked on after a bad answer"
    assert list(tmp_path.iterdir()) == [typed]


@pytest.mark.parametrize("question", ["example", "ci", "python_version", "licence"])
def test_an_unknown_choice(question: str, generate: Bake, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(str(QUESTIONS[question]))):
        generate(tmp_path / "here", **{question: "other"})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(generate: Bake, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputDirExistsException, match="taken"):
        generate(tmp_path, project="taken")
    assert list((tmp_path / "taken").iterdir()) == []


def test_each_question_has_words_for_people() -> None:
    prompts = QUESTIONS["__prompts__"]
    for question, answers in QUESTIONS.items():
        if question.startswith("_"):
            continue
        if isinstance(answers, list) and question != "python_version":
            assert set(prompts[question]) == {"__prompt__", *answers}
        else:
            assert prompts[question]


# --- what stands in a baked repo ---------------------------------------------------------------


def texts(folder: Path) -> dict[str, str]:
    """The text files under a folder by their relative path."""
    found = {}
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and relative.parts[0] != ".git":
            data = path.read_bytes()
            if b"\0" not in data:
                found[relative.as_posix()] = data.decode("utf-8")
    return found


@pytest.mark.parametrize("answers", CHOICES, ids=lambda answers: "-".join(answers.values()))
def test_no_answer_leaves_anything_over(answers: dict[str, str], baked: Bake) -> None:
    files = texts(baked(**answers))
    # llmops/template.py calls cookiecutter itself.
    tag = re.compile(r"<[<%#] |<<|[%#]>|cookiecutter\.(?!(config|main|repository|yaml)\b)\w")
    assert {name for name, text in files.items() if tag.search(text)} == set()
    others = set(EXAMPLES) - {answers.get("example", EXAMPLES[0]), "blank"}
    assert {name for name, text in files.items() if any(o in text for o in others)} == set()
    assert not [name for name in files if name.startswith("examples/") or "_cache/" in name]
    assert {"experiment.yaml", "sample-request.json", "llmops/__init__.py"} <= set(files)


@pytest.mark.parametrize("version", QUESTIONS["python_version"])
def test_the_python_version_is_written_down(version: str, baked: Bake) -> None:
    repo = baked(python_version=version) if version != "3.11" else baked()
    assert (repo / ".python-version").read_text() == f"{version}\n"


@pytest.mark.parametrize(
    ("licence", "words"), [("MIT", "MIT License"), ("Apache-2.0", "Apache License")]
)
def test_licence(licence: str, words: str, generate: Bake, tmp_path: Path) -> None:
    text = (generate(tmp_path, licence=licence, owner="Ada & Co") / "LICENSE").read_text()
    assert text.lstrip().startswith(words)
    assert text.endswith("\n")
    assert ("Copyright (c) Ada & Co\n" in text) == (licence == "MIT")


def test_no_file_names_a_registry_or_this_machine(baked: Bake) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        **{"cwd": ROOT, "capture_output": True, "text": True, "check": True},
    ).stdout.split("\0")
    own = {name: (ROOT / name).read_bytes() for name in tracked if name}
    foreign = re.compile(
        rf"py[p]i[.]org|python[h]osted|npmj[s][.]|find-link[s] |{re.escape(str(ROOT))}/"
        rf"|{re.escape(str(Path.home()))}/".encode()
    )
    assert {name for name, data in own.items() if foreign.search(data)} == set()
    files = {name: text.encode() for name, text in texts(baked()).items()}
    assert {name for name, data in files.items() if foreign.search(data)} == set()


def test_no_python_file_of_the_repo_holds_a_tag() -> None:
    for path in [*HOUSE.rglob("*.py"), *(ROOT / "hooks").glob("*.py")]:
        assert not re.search(r"<<|<%|<#", path.read_text(encoding="utf-8")), path


# --- the hook after baking ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with the folders that later issues bring, and the litter of a working tree."""
    template = tmp_path_factory.mktemp("template")
    shutil.copytree(ROOT / "hooks", template / "hooks")
    shutil.copyfile(ROOT / "cookiecutter.json", template / "cookiecutter.json")
    house = template / HOUSE.name
    names = (".template.json", "LICENSE", "examples/*/experiment.yaml")
    for path in (path for name in names for path in HOUSE.glob(name)):
        copy = house / path.relative_to(HOUSE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    for name in (".github/workflows/ci.yml", ".azure-pipelines/ci.yml", ".ruff_cache/x", "a.txt"):
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(f"{name}\n")
    return template


@pytest.mark.parametrize(
    ("answers", "missing"),
    [
        ({"ci": "github"}, {".azure-pipelines"}),
        ({"ci": "azure_devops"}, {".github"}),
        ({"ci": "both"}, set()),
        ({"ci": "both", "licence": "none"}, {"LICENSE"}),
        ({"ci": "both", "licence": "Apache-2.0"}, set()),
        *(({"ci": "both", "example": example}, set()) for example in EXAMPLES),
    ],
)
def test_what_an_answer_removes(
    answers: dict[str, str], missing: set[str], template: Path, generate: Bake, tmp_path: Path
) -> None:
    repo = generate(tmp_path, template=template, **answers)
    everything = {".azure-pipelines", ".github", "LICENSE", "a.txt", ".git"}
    everything |= {".template.json", "experiment.yaml"}
    assert {path.name for path in repo.iterdir()} == everything - missing
    example = answers.get("example", EXAMPLES[0])
    chosen = (HOUSE / "examples" / example / "experiment.yaml").read_bytes()
    assert (repo / "experiment.yaml").read_bytes() == chosen


def test_the_hook_makes_a_git_repo_and_names_three_commands(
    generate: Bake,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PWD", str(tmp_path))
    repo = generate(tmp_path, project="my-case")
    told = capfd.readouterr().out
    assert (repo / ".git" / "HEAD").read_text() == "ref: refs/heads/main\n"
    commands = re.findall(r"^  (\S.*)$", told.split("Next:")[1], re.MULTILINE)
    assert commands == [
        "cd my-case",
        "make experiment",
        "python3 -m webbrowser reports/index.html",
    ]


def test_the_hook_names_the_whole_path_where_no_shell_says_where_it_is(
    generate: Bake,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PWD", raising=False)
    folder = tmp_path / "use cases"
    folder.mkdir()
    repo = generate(folder)
    assert f"\n  cd '{repo}'\n" in capfd.readouterr().out


def test_inside_a_git_repo(
    generate: Bake, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    first, second = (generate(tmp_path, project=name) for name in ("one", "two"))
    assert capfd.readouterr().out.count("inside an existing git repo, so none was made") == 2
    assert not (first / ".git").exists()
    assert not (second / ".git").exists()


def test_without_git(
    generate: Bake,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    repo = generate(tmp_path)
    assert "git was not found" in capfd.readouterr().out
    assert not (repo / ".git").exists()
    assert (repo / "experiment.yaml").exists()


# --- tasks -------------------------------------------------------------------------------------


def sessions(noxfile: Path) -> dict[str, str]:
    """The tasks of a noxfile and their lines of help, as Python reads them."""
    found = {}
    for node in ast.parse(noxfile.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            name = node.name.rstrip("_").replace("_", "-")
            found[name] = ast.get_docstring(node) or ""
    return found


@pytest.mark.parametrize("folder", [ROOT, HOUSE], ids=["template", "repo"])
def test_help_lists_every_task(folder: Path, run: Run) -> None:
    told = run(folder, "make")
    assert told.returncode == 0
    listed = dict(re.findall(r"^  make (\S+) +(.+)$", told.stdout, re.MULTILINE))
    assert listed == sessions(folder / "noxfile.py")
    assert all(len(line) <= 100 for line in told.stdout.splitlines())


def test_the_vocabulary() -> None:
    local = "help validate index try serve experiment compare parity evaluate report gate comment"
    azure = "record doctor azure-setup image register approve deploy check-endpoint rollback"
    names = f"{local} {azure} cutover monitor notebook onboard eject update-template test lint lock"
    assert list(sessions(HOUSE / "noxfile.py")) == names.split()


def test_an_unknown_task(run: Run) -> None:
    told = run(HOUSE, "make", "nonsense")
    assert told.returncode == 2
    assert "There is no task 'nonsense'. The tasks: help validate" in told.stderr


def test_an_old_python_is_named(bake: Bake, run: Run, tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    swap = "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[2])"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{swap}' \"$@\"\n")
    old.chmod(0o755)
    repo = bake()
    told = run(repo, "make", "validate", f"PYTHON={old}")
    assert f"{old} is Python 3.9; 3.11, 3.12 or 3.13 is needed" in told.stderr
    assert "make PYTHON=python3.12 validate" in told.stderr
    assert not (repo / ".venv").exists()


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_exit_code_is_the_scripts(code: int, ready: Bake, run: Run) -> None:
    repo = ready()
    (repo / "scripts" / "gate.py").write_text(f"print('last line')\nraise SystemExit({code})\n")
    told = run(repo, ".venv/bin/nox", "-s", "gate")
    assert (told.returncode, told.stdout, told.stderr) == (code, "last line\n", "")
    assert run(repo, "make", "gate").returncode == (2 if code else 0)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_a_signal_lets_the_script_stop_cleanly(
    number: signal.Signals, code: int, ready: Bake
) -> None:
    repo = ready()
    (repo / "scripts" / "gate.py").write_text(
        "import signal, sys, time\n"
        "def stop(number, frame):\n"
        "    time.sleep(1)\n"
        "    print('stopped cleanly')\n"
        "    sys.exit(128 + number)\n"
        "signal.signal(signal.SIGINT, stop)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    task = subprocess.Popen(
        [repo / ".venv/bin/nox", "-s", "gate"], cwd=repo, start_new_session=True, **options
    )
    assert task.stdout.readline() == "begun\n"
    # A terminal sends Ctrl-C to everyone; whoever ends a task sends SIGTERM to the task alone.
    (os.killpg if number is signal.SIGINT else os.kill)(task.pid, number)
    told, errors = task.communicate(timeout=30)
    assert (task.returncode, told, errors) == (code, "stopped cleanly\n", "")


def test_a_changed_lock_is_installed_once(ready: Bake, run: Run) -> None:
    repo = ready()
    (repo / "scripts" / "gate.py").write_text("print('done')\n")
    lock = repo / "requirements" / "local.txt"
    lock.write_text(lock.read_text() + "# changed\n")
    told = [run(repo, ".venv/bin/nox", "-s", "gate").stderr for _ in range(2)]
    assert told == ["Installing requirements/local.txt into .venv ...\n", ""]


# --- locks -------------------------------------------------------------------------------------


def pins(lock: Path) -> dict[str, set[str]]:
    """Package to the versions that a lock pins it to, one a platform."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^(\S+)==(\S+)", lock.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def locks() -> list[Path]:
    return sorted([*(HOUSE / "requirements").iterdir(), *(ROOT / "requirements").iterdir()])


def test_a_lock_for_each_group() -> None:
    for folder in (HOUSE, ROOT):
        groups = tomllib.loads((folder / "pyproject.toml").read_text())["dependency-groups"]
        assert {lock.stem for lock in (folder / "requirements").iterdir()} == set(groups)
        for group, wanted in groups.items():
            names = {re.split(r"[<>=]", line)[0].replace(".", "-") for line in wanted}
            assert names <= set(pins(folder / "requirements" / f"{group}.txt"))


def test_all_locks_fit_together() -> None:
    together: dict[str, set[frozenset[str]]] = {}
    for lock in locks():
        for name, versions in pins(lock).items():
            together.setdefault(name, set()).add(frozenset(versions))
    assert {name: found for name, found in together.items() if len(found) > 1} == {}


@pytest.mark.parametrize("lock", locks(), ids=lambda lock: lock.stem)
def test_every_pin_has_a_hash_and_no_address(lock: Path) -> None:
    for pin in re.split(r"\n(?=\S)", lock.read_text()):
        assert pin.startswith("#") or re.match(r"[a-z0-9-]+==\S+.*--hash=sha256:", pin, re.DOTALL)
        assert not re.search(r"://|--index|--find|file:", pin)


def test_who_stays_local_never_downloads_azure_ml() -> None:
    local = pins(HOUSE / "requirements" / "local.txt")
    assert {"azure-ai-ml", "promptflow-azure"} & set(local) == set()


# --- the whole way -----------------------------------------------------------------------------


def test_a_repo_prepares_itself(bake: Bake, run: Run) -> None:
    repo = bake(example="blank")
    told = run(repo, "make", "test")
    assert told.returncode == 0, told.stdout + told.stderr
    assert re.search(r"\d+ passed", told.stdout)


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_repo_passes_its_own_checks(example: str, ready: Bake, run: Run) -> None:
    repo = ready(example=example)
    told = run(repo, "make", "validate", "test", "lint")
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_repo_reports_offline(example: str, ready: Bake, run: Run, tmp_path: Path) -> None:
    repo = ready(example=example)
    home = tmp_path / "home"
    home.mkdir()
    started = time.time()
    told = run(repo, "make", "experiment", HOME=str(home))
    assert told.returncode == 0, told.stdout + told.stderr
    summary = json.loads((repo / "reports" / "summary.json").read_text())
    assert summary["llm"]["mode"] == "replay"
    assert summary["runs"]
    assert all(run["failed"] == 0 and run["rows"] >= 1 for run in summary["runs"])
    assert len({run["variant"] for run in summary["runs"]}) >= 2
    assert (repo / "reports" / "index.html").stat().st_mtime >= started
    assert "reports/index.html" in told.stdout.splitlines()[-1]
    assert list(home.rglob("*")) == [], "something was written to the home folder"
