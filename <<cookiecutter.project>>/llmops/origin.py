"""Where something comes from: the commit, the build and the experiment, as tags."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

BUILD = ("GITHUB_RUN_ID", "BUILD_BUILDID")
LONGEST = 256
"""Characters that Azure ML keeps of a tag."""


def tags(experiment: str, at: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The tags that say where an asset or a run comes from; `at` is a commit."""
    build = next(filter(None, (environment.get(name, "") for name in BUILD)), "")
    return short({"commit": at, "build": build, "experiment": experiment})


def short(every: Mapping[str, str]) -> dict[str, str]:
    """Tags without those that are empty, each no longer than Azure ML keeps it."""
    return {name: value[:LONGEST] for name, value in every.items() if value}


def commit() -> str:
    """The commit of the repo, `-dirty` behind it where files differ; empty where there is none."""
    head = git("rev-parse", "HEAD")
    return f"{head}-dirty" if head and git("status", "--porcelain") else head


def git(*command: str) -> str:
    """What git prints; empty where it fails or is not there."""
    try:
        done = subprocess.run(("git", *command), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
