"""After baking: lay the chosen example over the repo, remove what the answers leave out.

Cookiecutter runs this inside the new repo. The answers come from the repo's `.template.json`, so
that no template tag is needed here. No call leaves the machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

# question -> answer -> what is removed; answers that are not named remove nothing.
REMOVED = {
    "ci": {"github": [".azure-pipelines"], "azure_devops": [".github"]},
    "licence": {"none": ["LICENSE"]},
}
# The answer that there is no example, as where a flow is brought in.
NONE = "none"
# Code beside the use cases of one repo: a change of it runs the workflows of all.
SHARED = "shared"
# What starts a pipeline, in .azure-pipelines.
BRANCHES = "\n  branches: {include: [development, main, release/*]}\n"
# Stays of work in the template's own tree; a clone has none.
CACHES = (".venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis")


def main() -> None:
    answers, flow = record_origin(Path(".template.json"))
    lay_example(answers["example"])
    for question, removed in REMOVED.items():
        for name in removed.get(answers[question], []):
            remove(Path(name))
    for name in CACHES:
        for path in list(Path().rglob(name)):
            remove(path)
    origin = flow or f"the example {answers['example']}"
    history = begin_history()
    if flow:  # before anything is written outside of the new folder, which goes where this fails
        bring_in(flow)
    print(f"\nGenerated {answers['project']} from {origin}.")
    print("\n".join([history, *place_workflows()]))
    steps = [f"cd {shlex.quote(str(shown(Path.cwd())))}", *next_steps(answers["example"], flow)]
    print("\n  ".join(["\nNext:\n", *steps]) + "\n")


def next_steps(example: str, flow: str) -> list[str]:
    """The first tasks in the new repo."""
    if flow:
        return ["make validate"]
    if example == NONE:
        return ["make onboard FROM=<path of a flow>"]
    return ["make experiment", "python3 -m webbrowser reports/index.html"]


def record_origin(path: Path) -> tuple[dict[str, str], str]:
    """Write which commit of the template this is, in place of where its files lie.

    Returns the answers, and the path of a flow to bring in: it is not kept, because a later
    version of the template has nothing to do with it.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    flow = record.pop("flow")
    if flow:
        record["answers"]["example"] = NONE
    folder = Path("..") / record["commit"]  # relative to where cookiecutter was started
    record["commit"] = ""
    if (folder / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        record["commit"] = found.stdout.strip()
    if folder.is_dir() and Path("..", record["template"]).is_dir():
        record["template"] = str(Path("..", record["template"]).resolve())
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return record["answers"], flow


def lay_example(name: str) -> None:
    """An example is a folder of data over the common code; the other examples go."""
    if name != NONE:
        shutil.copytree(Path("examples", name), Path(), dirs_exist_ok=True)
    remove(Path("examples"))


def bring_in(flow: str) -> None:
    """Run the new repo's own `make onboard`; where it fails, so does the whole, and nothing stays.

    YES, because what it replaces is this repo's own and new. Raises SystemExit.
    """
    recent = (3, 11) <= sys.version_info[:2] <= (3, 13)
    python = {"PYTHON": sys.executable} if recent else {}
    command = ("make", "--no-print-directory", "onboard")
    done = subprocess.run(
        command, env={**os.environ, **python, "FROM": flow, "YES": "1"}, check=False
    )
    if done.returncode:
        sys.exit(f"{flow} was not brought in, so no repo was made. The reason stands above.")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def begin_history() -> str:
    """Make a git repo, unless this is inside one already; returns what was done."""
    try:
        if git("rev-parse", "--show-toplevel") == 0:
            return "It lies inside an existing git repo, so none was made."
        if git("init", "--quiet", "--initial-branch=main") == 0:
            return "A git repo was made in it; nothing is committed yet."
    except FileNotFoundError:
        return "git was not found, so no git repo was made."
    return "git could not make a repo in it. Try: git init"


def place_workflows() -> list[str]:
    """Inside a git repo, bring the workflows to its root, where GitHub looks; tells what was done.

    The short ones get the use case's name, folder and paths. The `llmops-` ones, which they call,
    and dependabot.yml serve all use cases: those that are there stay as they are.
    """
    workflows, below = Path(".github", "workflows"), enclosing()
    if below is None:
        return []
    if not re.fullmatch(r"[\w./-]+", below.as_posix()):
        return [f"Its workflows work only at the root of the repo; {below} needs plain names."]
    place_pipelines(below)
    if not workflows.is_dir():
        return []
    root = Path(*[".."] * len(below.parts), ".github")
    (root / "workflows").mkdir(parents=True, exist_ok=True)
    name, told = "-".join(below.parts), []
    for path in [*sorted(workflows.iterdir()), Path(".github", "dependabot.yml")]:
        text = path.read_text(encoding="utf-8")
        target = root / path.relative_to(".github")
        if target.parent.name == "workflows" and not path.name.startswith("llmops-"):
            target = target.with_name(f"{name}-{path.name}")
            text = for_use_case(text, name, below)
        elif target.exists():
            if target.read_text(encoding="utf-8") != text:
                told.append(f"{target} differs from the template's; it was left as it is.")
            continue
        target.write_text(text, encoding="utf-8")
    remove(Path(".github"))
    return [f"Its workflows are {root / 'workflows' / name}-*.yml.", *told]


def place_pipelines(below: Path) -> None:
    """Azure Pipelines reads them where they lie: only the folder and its paths are written in."""
    paths = f"{BRANCHES}  paths: {{include: [{below.as_posix()}, {SHARED}]}}\n"
    for path in Path(".azure-pipelines").rglob("*.yml"):
        text = path.read_text(encoding="utf-8").replace(BRANCHES, paths)
        here = f"{{name: folder, value: {below.as_posix()}}}"
        path.write_text(text.replace("{name: folder, value: .}", here), encoding="utf-8")


def for_use_case(text: str, name: str, folder: Path) -> str:
    """A short workflow, for one folder of a repo: its name, what starts it, where it works."""
    paths = f'"{folder.as_posix()}/**", "{SHARED}/**", ".github/workflows/llmops-*.yml"'
    text = text.replace("name: ", f"name: {name} ", 1)
    return text.replace('paths: ["**"]', f"paths: [{paths}]").replace(
        "{folder: .", f"{{folder: {folder.as_posix()}"
    )


def enclosing() -> Path | None:
    """Where this folder lies in the git repo around it; null if it is a repo itself or in none.

    A folder that the repo around it ignores, such as the template's demo/, is in none.
    """
    try:
        if git("check-ignore", "--quiet", ".") == 0:
            return None
        found = subprocess.run(
            ["git", "rev-parse", "--show-prefix"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    prefix = found.stdout.removesuffix("\n")
    return Path(prefix) if found.returncode == 0 and prefix else None


def git(*arguments: str) -> int:
    return subprocess.run(["git", *arguments], capture_output=True, check=False).returncode


def shown(folder: Path) -> Path:
    """The folder as the user would type it: relative to where cookiecutter was started."""
    start = Path(os.environ.get("PWD", ""))
    return folder.relative_to(start) if folder.is_relative_to(start) else folder


if __name__ == "__main__":
    main()
