"""What `make bench` needs for its figure of the Azure stages: a use case, and what to subtract.

The stages run as a person starts them, against the emulated Azure. Their own overhead is the time
of the three processes, less that of importing the SDK's modules and less the time in which the
emulator answers a request or carries out a long operation.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from loopback_azure import LoopbackAzure

HERE = Path(__file__).resolve().parent
(HOUSE,) = HERE.parent.glob("*cookiecutter.project*")
EXAMPLE = HOUSE / "examples" / "named_entity_recognition"
os.environ["PYTHONPATH"] = str(HOUSE)  # what the emulator serves with
STAGES = ("register", "deploy", "check_endpoint")
MODULE = re.compile(r"^import time:.*\| +((?:azure|msal|msrest)(?:\.[\w.]+)?)$", re.MULTILINE)
# The SDK is imported first and alone, in the very process, because two processes differ by seconds
# on a busy machine; then the script runs as `python -m` runs it.
RUN = """
import contextlib, importlib, json, os, runpy, sys, time
stage, *names = sys.argv[1:]
began, used = time.perf_counter(), time.process_time()
for name in names:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
with open(os.environ["BENCH_IMPORT"], "w") as file:
    json.dump([time.perf_counter() - began, time.process_time() - used], file)
sys.argv[1:] = []
runpy.run_module("scripts." + stage, run_name="__main__", alter_sys=True)
"""


@contextmanager
def example() -> Iterator[Path]:
    """The named-entity example after its experiment, with a managed endpoint for dev."""
    with TemporaryDirectory(prefix="bench-azure-") as name:
        folder = Path(name) / "example"
        shutil.copytree(EXAMPLE, folder)
        for part in ("environment", "requirements"):
            shutil.copytree(HOUSE / part, folder / part)
        document = json.loads((HOUSE / "configs" / "deployment_config.json").read_text())
        document["azure_managed_endpoint"][0]["ENDPOINT_NAME"] = "ner-bench"
        (folder / "configs").mkdir()
        (folder / "configs" / "deployment_config.json").write_text(json.dumps(document))
        environment = {**os.environ, "PYTHONPATH": str(HOUSE), "LLM": "replay"}
        run = [sys.executable, "-m", "scripts.experiment"]
        subprocess.run(run, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        yield folder


@contextmanager
def copy(folder: Path) -> Iterator[Path]:
    """A copy, because a stage leaves files behind."""
    with TemporaryDirectory(prefix="bench-azure-") as name:
        yield Path(shutil.copytree(folder, Path(name) / "example"))


def variables(azure: LoopbackAzure, model: str) -> dict[str, str]:
    """What the stages are given; `model` is the address of the model that the endpoint asks."""
    settings = azure.settings
    return {
        **os.environ,
        **azure.environment,
        "PYTHONPATH": str(HOUSE),
        "SUBSCRIPTION_ID": settings.subscription,
        "RESOURCE_GROUP_NAME": settings.group,
        "WORKSPACE_NAME": settings.workspace,
        "AOAI_API_KEY": "a-key",
        "AOAI_API_BASE": model,
    }


def modules(folder: Path, environment: dict[str, str]) -> dict[str, list[str]]:
    """The modules of the SDK that each stage imports, in their order."""
    found = {}
    for stage in STAGES:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", f"scripts.{stage}"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{stage}: {done.stdout}{done.stderr[-3000:]}")
        found[stage] = MODULE.findall(done.stderr)
    return found


def command(stage: str, names: Sequence[str]) -> list[str]:
    """What runs a stage after the import of these modules; BENCH_IMPORT names a file for its times.

    The file gets seconds and CPU seconds.
    """
    return [sys.executable, "-c", RUN, stage, *names]
