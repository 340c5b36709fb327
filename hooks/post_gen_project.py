"""After baking: lay the chosen example over the repo, remove what the answers leave out.

Cookiecutter runs this inside the new repo. The answers come from the repo's `.template.json`, so
that no template tag is needed here. No call leaves the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

# question -> answer -> what is removed; answers that are not named remove nothing.
REMOVED = {
    "ci": {"github": [".azure-pipelines"], "azure_devops": [".github"]},
    "licence": {"none": ["LICENSE"]},
}
# Stays of work in the template's own tree; a clone has none.
CACHES = (".venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis")


def main() -> None:
    answers = json.loads(Path(".template.json").read_text(encoding="utf-8"))
    lay_example(answers["example"])
    for question, removed in REMOVED.items():
        for name in removed.get(answers[question], []):
            remove(Path(name))
    for name in CACHES:
        for path in list(Path().rglob(name)):
            remove(path)
    print(f"\nGenerated {answers['project']} from the example {answers['example']}.")
    print(begin_history())
    print(f"\nNext:\n\n  cd {shown(Path.cwd())}\n  make experiment")
    print("  python3 -m webbrowser reports/index.html\n")


def lay_example(name: str) -> None:
    """An example is a folder of data over the common code; the other examples go."""
    shutil.copytree(Path("examples", name), Path(), dirs_exist_ok=True)
    remove(Path("examples"))


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


def git(*arguments: str) -> int:
    return subprocess.run(["git", *arguments], capture_output=True, check=False).returncode


def shown(folder: Path) -> Path:
    """The folder as the user would type it: relative to where cookiecutter was started."""
    start = Path(os.environ.get("PWD", "/"))
    return folder.relative_to(start) if folder.is_relative_to(start) else folder


if __name__ == "__main__":
    main()
