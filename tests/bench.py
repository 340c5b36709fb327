"""The figures of docs/benchmarks.md, measured on this machine: `make bench`.

Each is a whole process, from its start to its end, against a stand-in model on loopback that takes
a fixed time for an answer. The work is the named-entity example with as many rows as the figure
says: one model call a row, one evaluation a row, the report.

    python tests/bench.py             all but 100,000 rows, in less than five minutes
    python tests/bench.py --all       with 100,000 rows
    python tests/bench.py --repo DIR  a generated repo with its .venv, for `make experiment`
    python tests/bench.py --only index     documents, and questions to 100,000 passages
    python tests/bench.py --only serving   requests a second, beside `pf flow serve`
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import bench_azure
import bench_index
import bench_serving
from loopback_azure import LoopbackAzure
from standin import StandIn
from tabulate import tabulate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
(HOUSE,) = ROOT.glob("*cookiecutter.project*")
EXAMPLE = HOUSE / "examples" / "named_entity_recognition"
CONNECTION = {"name": "aoai", "connection_type": "AzureOpenAIConnection"}
MAPPINGS = {"text": "${data.text}", "entity_type": "${data.entity_type}"}
SCORED = {"ground_truth": "${data.results}", "entities": "${run.outputs.entities}"}
DELAY_S = 0.2
LARGE = 100_000
SAMPLE_S = 0.1


@dataclass(frozen=True)
class Measured:
    """A run of a command: seconds, CPU seconds with its children, MB at most, model calls."""

    seconds: float
    cpu: float
    memory: float
    calls: int


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    wanted: str
    runs: Sequence[Measured]

    def line(self) -> list[Any]:
        """Medians."""
        of = {key: statistics.median(getattr(run, key) for run in self.runs) for key in ALL}
        memory = f"{of['memory']:.0f}" if of["memory"] else ""
        shown = [f"{of['seconds']:.2f}", f"{of['cpu']:.2f}", memory, f"{of['calls']:.0f}"]
        return [self.name, self.wanted, *shown, len(self.runs)]


ALL = ("seconds", "cpu", "memory", "calls")
HEADERS = ("figure", "wanted", "seconds", "CPU s", "peak MB", "calls", "runs")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_plain)
    parser.add_argument("--all", action="store_true", help="with 100,000 rows")
    parser.add_argument("--runs", type=int, default=3, help="median of so many")
    parser.add_argument("--repo", type=Path, default=ROOT / "demo", help="a generated repo")
    parser.add_argument("--only", default="", help="figures whose name has this in it")
    options = parser.parse_args()
    sys.path.insert(0, str(HOUSE))  # bench_index looks into the library
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # who has it compiles all modules at each start
    figures = {
        "1,000 rows at 32": lambda: thousand(options.runs),
        "1,000 rows at 32, ejected": lambda: ejected(options.runs),
        "1,000 rows at 32, pf run create twice": prompt_flow,
        "15 rows at 4": lambda: fifteen(options.runs),
        "nothing changed": lambda: unchanged(options.runs),
        "nothing changed, make experiment": lambda: unchanged_task(options.repo, options.runs),
        "pull request": lambda: pull_request(options.repo, options.runs),
        "register, deploy, check-endpoint": lambda: azure(options.runs),
        "intervals": lambda: intervals(options.runs),
        "gate on a stored run": lambda: gate(options.runs),
        "import and validate a flow": lambda: onboarding(options.runs),
        "100,000 rows, memory": large,
    }
    if not options.all:
        figures.pop("100,000 rows, memory")
    lines = []
    for name, measure in figures.items():
        if options.only in name and (figure := measure()):
            lines.append(figure.line())
            print(tabulate(lines[-1:], headers=HEADERS), flush=True)
    print(f"\n{machine()}\n\n{tabulate(lines, headers=HEADERS, tablefmt='github')}")
    if options.only in "serving":
        print(f"\n{bench_serving.table()}")
    if options.only in "index":
        print(f"\n{bench_index.table()}")


def _plain(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog)


# ---- The figures


def thousand(runs: int) -> Figure:
    """Run, evaluate and report 1,000 rows; the limit is 1000 / 32 times the delay."""
    wanted = f"{1.25 * 1000 / 32 * DELAY_S + 3:.1f} s"
    with StandIn(DELAY_S) as model:
        return Figure("1,000 rows at 32", wanted, [fresh(model, 1000, 32) for _ in range(runs)])


def ejected(runs: int) -> Figure:
    """The work of `thousand` by what `make eject` writes of both flows, without promptflow."""
    wanted = f"{1.1 * 1000 / 32 * DELAY_S + 1.5:.1f} s"
    done = []
    with StandIn(DELAY_S) as model:
        for _ in range(runs):
            with prepared(1000, 32) as folder:
                eject(folder)
                done.append(ours(model, folder))
    return Figure("1,000 rows at 32, ejected", wanted, done)


def eject(folder: Path) -> None:
    """Put plain Python in the place of both flows."""
    document = json.loads((folder / "experiment.yaml").read_text(encoding="utf-8"))
    for name in ("standard", "evaluation"):
        environment = {**os.environ, "PYTHONPATH": str(HOUSE), "FLOW": f"flows/{name}"}
        measure([sys.executable, "-m", "scripts.eject"], folder, environment)
        shutil.rmtree(folder / "flows" / name)
    document["flow"] = "flows/standard_python"
    document["evaluators"][0]["flow"] = "flows/evaluation_python"
    (folder / "experiment.yaml").write_text(json.dumps(document), encoding="utf-8")


def fifteen(runs: int) -> Figure:
    """Run, evaluate and report 15 rows."""
    with StandIn(DELAY_S) as model:
        return Figure("15 rows at 4", "5 s", [fresh(model, 15, 4) for _ in range(runs)])


def unchanged(runs: int) -> Figure:
    """The same 1,000 rows again."""
    with StandIn() as model, prepared(1000, 32) as folder:
        ours(model, folder)
        again = [ours(model, folder) for _ in range(runs)]
    return Figure("nothing changed", "2 s, 0 calls", again)


def unchanged_task(repo: Path, runs: int) -> Figure | None:
    """The generated repo's own task, a second time, with recorded answers."""
    if not (repo / ".venv" / "bin" / "nox").exists():
        print(f"{repo}: no .venv, so no `make experiment` (see --repo)")
        return None
    command = ["make", "--no-print-directory", "experiment"]
    environment = {**os.environ, "LLM": "replay"}
    measure(command, repo, environment)
    again = [measure(command, repo, environment) for _ in range(runs)]
    return Figure("nothing changed, make experiment", "2 s", again)


def pull_request(repo: Path, runs: int) -> Figure | None:
    """What a pull request's workflow runs, in a repo whose .venv is there; answers replayed."""
    if not (repo / ".venv" / "bin" / "nox").exists():
        print(f"{repo}: no .venv, so no pull request (see --repo)")
        return None
    own = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for command in (("add", "--all"), (*own, "commit", "--quiet", "--allow-empty", "-m", "bench")):
        subprocess.run(("git", *command), cwd=repo, check=True)
    tasks = ("validate", "lint", "test", "compare")
    steps = " && ".join(f".venv/bin/python -m nox --session {task}" for task in tasks)
    command, environment = ["sh", "-c", steps], {**os.environ, "LLM": "replay", "BASE": "HEAD"}
    measure(command, repo, environment)
    again = [measure(command, repo, environment) for _ in range(runs)]
    return Figure("pull request: validate, lint, test, compare", "60 s", again)


def intervals(runs: int) -> Figure:
    """Intervals and comparison of 4 variants with 1,000 rows and 5 metrics; all rows are stored."""
    with judged() as folder:
        again = []
        for _ in range(runs):
            for path in folder.glob("runs/*/draws.json"):
                path.unlink()
            again.append(task(folder, "experiment"))
    return Figure("intervals, 4 × 1,000 rows × 5 metrics", "5 s", again)  # noqa: RUF001


def gate(runs: int) -> Figure:
    """Judge and compare the same again, and write the report."""
    with judged() as folder:
        again = [task(folder, "gate") for _ in range(runs)]
    return Figure("gate on a stored run, 4 × 1,000 rows", "1.5 s", again)  # noqa: RUF001


def onboarding(runs: int) -> Figure:
    """Bring the example's standard flow, with its data, into an empty repo, and validate it."""
    done = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as name:
            repo, flow = Path(name, "repo"), Path(name, "entities")
            shutil.copytree(EXAMPLE / "flows" / "standard", flow)
            shutil.copy(EXAMPLE / "data" / "data.jsonl", flow)
            repo.mkdir()
            shutil.copytree(HOUSE / "requirements", repo / "requirements")
            shutil.copy(HOUSE / "pyproject.toml", repo)
            environment = {**os.environ, "PYTHONPATH": str(HOUSE), "FROM": str(flow)}
            both = "import sys; from subprocess import run\n"
            both += "for t in ('onboard', 'validate'):\n"
            both += "    run([sys.executable, '-m', 'scripts.' + t], check=True)"
            done.append(measure([sys.executable, "-c", both], repo, environment))
    return Figure("import and validate a flow", "5 s", done)


def large() -> Figure:
    """100,000 rows of a model that answers at once."""
    with StandIn() as model:
        return Figure("100,000 rows, memory", "500 MB", [fresh(model, LARGE, 32)])


def azure(runs: int) -> Figure:
    """Our own part of three stages against the emulated Azure; see bench_azure.py."""
    with bench_azure.example() as folder, StandIn() as model:
        with bench_azure.copy(folder) as first, LoopbackAzure() as place:
            names = bench_azure.modules(first, bench_azure.variables(place, model.url))
        found = [rollout(folder, model.url, names) for _ in range(runs)]
    return Figure("register, deploy, check-endpoint: own overhead", "3 s", found)


def rollout(folder: Path, model: str, names: dict[str, list[str]]) -> Measured:
    """The stages once, in a workspace that has nothing yet; seconds and CPU without the import."""
    own = Measured(0, 0, 0, 0)
    with bench_azure.copy(folder) as copy, LoopbackAzure() as place:
        environment = bench_azure.variables(place, model)
        for stage, used in names.items():
            place.forget()
            times = copy / "import.json"
            environment["BENCH_IMPORT"] = str(times)
            whole = measure(bench_azure.command(stage, used), copy, environment)
            seconds, cpu = json.loads(times.read_text())
            rest = whole.seconds - seconds - (busy := place.busy)
            print(
                f"{stage}: {whole.seconds:.2f} s, less {seconds:.2f} s of SDK import and "
                f"{busy:.2f} s in the emulator: {rest:.2f} s; CPU {whole.cpu - cpu:.2f} s"
            )
            memory = max(own.memory, whole.memory)
            own = Measured(own.seconds + rest, own.cpu + whole.cpu - cpu, memory, 0)
    return own


def prompt_flow() -> Figure:
    """The work of `thousand` by prompt flow's command line: a run and a run that evaluates it."""
    with StandIn(DELAY_S) as model, prepared(1000, 32) as folder:
        environment = promptflow_environment(folder)
        store(folder, model.url)
        pf = str(Path(sys.executable).with_name("pf"))
        link = [pf, "connection", "create", "--file", "connection.yaml"]
        subprocess.run(link, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        runs = [
            measure([pf, "run", "create", "--file", f"{name}.yaml"], folder, environment, model)
            for name in ("run", "evaluate")
        ]
    both = Measured(*(sum(getattr(run, key) for run in runs) for key in ALL))
    return Figure("1,000 rows at 32, pf run create twice", "", [both])


def promptflow_environment(folder: Path) -> dict[str, str]:
    """For `pf` with a home of its own, and no way out of this machine."""
    return {
        **os.environ,
        "HOME": str(folder),
        "PF_HOME_DIRECTORY": str(folder / "promptflow"),
        "PF_WORKER_COUNT": "32",
        "PYTHONPATH": str(HERE / "flows"),
        "PYTHON_KEYRING_BACKEND": "one_key.OneKey",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }


def store(folder: Path, url: str) -> None:
    """What `pf` reads."""
    home = folder / "promptflow"
    home.mkdir()
    schema = (
        "https://azuremlschemas.azureedge.net/promptflow/latest/AzureOpenAIConnection.schema.json"
    )
    documents: dict[str, dict[str, Any]] = {
        "promptflow/pf.yaml": {"telemetry": {"enabled": False}, "trace": {"destination": "none"}},
        "connection.yaml": {
            "$schema": schema,
            "name": "aoai",
            "type": "azure_open_ai",
            "api_key": "a-key",
            "api_base": url,
            "api_version": "2024-02-01",
        },
        "run.yaml": {
            "name": "standard",
            "flow": "flows/standard",
            "data": "data.jsonl",
            "column_mapping": MAPPINGS,
        },
        "evaluate.yaml": {
            "name": "evaluated",
            "flow": "flows/evaluation",
            "data": "truth.jsonl",
            "run": "standard",
            "column_mapping": SCORED,
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document), encoding="utf-8")


# ---- One run


def fresh(model: StandIn, rows: int, concurrency: int) -> Measured:
    """A first run in a new folder."""
    with prepared(rows, concurrency) as folder:
        return ours(model, folder)


def ours(model: StandIn, folder: Path) -> Measured:
    """scripts/experiment.py, as `make experiment` starts it."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(HOUSE),
        "LLM": "live",
        "AOAI_API_KEY": "a-key",
        "AOAI_API_BASE": model.url,
    }
    return measure([sys.executable, "-m", "scripts.experiment"], folder, environment, model)


@contextmanager
def prepared(rows: int, concurrency: int) -> Iterator[Path]:
    """The example in a temporary folder, with so many rows and without its gate."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        shutil.copytree(EXAMPLE / "flows", folder / "flows")
        for source, target in (("data", "data"), ("eval_data", "truth")):
            lines = (EXAMPLE / f"data/{source}.jsonl").read_text(encoding="utf-8").splitlines()
            many = itertools.islice(itertools.cycle(lines), rows)
            with (folder / f"{target}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in many)
        document = {
            "name": "bench",
            "flow": "flows/standard",
            "connections": [CONNECTION],
            "variants": "default",
            "datasets": [{"name": "rows", "source": "data.jsonl", "mappings": MAPPINGS}],
            "evaluators": [{"name": "evaluation", "datasets": [scored()]}],
            "limits": {"concurrency": concurrency},
        }
        (folder / "experiment.yaml").write_text(json.dumps(document), encoding="utf-8")
        yield folder


@contextmanager
def judged() -> Iterator[Path]:
    """A folder in which 4 variants have answered 1,000 rows and an evaluator gave 5 metrics each.

    Flow and evaluator are plain Python, so nothing but the intervals takes long.
    """
    with prepared(1000, 4) as folder:
        path = folder / "experiment.yaml"
        document = json.loads(path.read_text(encoding="utf-8"))
        document |= {"flow": "plain/flow.py:run", "parameters": {"seed": [1, 2, 3, 4]}}
        document["evaluators"] = [
            {"name": "evaluation", "flow": "score/flow.py:run", "datasets": [scored()]}
        ]
        document["gate"] = {"checks": [{"evaluator": "evaluation", "metric": "f1", "min": 0.5}]}
        path.write_text(json.dumps(document), encoding="utf-8")
        for name in ("plain", "score"):
            (folder / name).mkdir()
            shutil.copy(HERE / f"flows/bench_{name}.py", folder / name / "flow.py")
        task(folder, "experiment")
        yield folder


def task(folder: Path, name: str) -> Measured:
    """A task without a model."""
    environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
    return measure([sys.executable, "-m", f"scripts.{name}"], folder, environment)


def scored() -> dict[str, Any]:
    """The evaluator's dataset."""
    return {"name": "truth", "reference": "rows", "source": "truth.jsonl", "mappings": SCORED}


def measure(
    command: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    model: StandIn | None = None,
) -> Measured:
    """Run a command to its end; exit code 2 is a gate that failed."""
    before, calls = resource.getrusage(resource.RUSAGE_CHILDREN), model.requests if model else 0
    start = time.perf_counter()
    with (folder / "bench.log").open("a") as log:
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        with Peak(child.pid) as peak:
            code = child.wait()
    seconds = time.perf_counter() - start
    if code not in (0, 2):
        sys.exit((folder / "bench.log").read_text()[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Measured(seconds, cpu, peak.most, model.requests - calls if model else 0)


class Peak:
    """The most memory that a process and all its descendants held at one time, in MB.

    Their proportional set sizes are added up: a page that two of them share counts once.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.most = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self.most = max(self.most, sum(map(megabytes, tree(self._pid))))


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:
                continue
            parent = int(status.rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def megabytes(pid: int) -> float:
    """The proportional set size of one process; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def machine() -> str:
    """What it was measured on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if "model name" in line), "?")
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores {model}, Python {platform.python_version()}, load {load:.1f}"


if __name__ == "__main__":
    main()
