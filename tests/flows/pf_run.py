"""What prompt flow itself makes of the fixture flows: `python pf_run.py jobs.json results`.

A job is {"name", "flow", "data", "column_mapping", "variant", "run"} as `pf run create` takes it,
and "batch_method": "spawn" where a row itself reads the store of connections. Its result is written
to results/<name>.json: {"status", "outputs": {line: outputs}, "metrics"}. The home folder and
PF_HOME_DIRECTORY must be temporary: connections go into a store that is thrown away.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run every job, one after the other: some score the run of another one."""
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    client = prepared()
    for job in jobs:
        start = time.monotonic()
        forget_flows()
        # A store that a forked process reads fails with filelock's newer releases.
        os.environ["PF_BATCH_METHOD"] = job.pop("batch_method", "fork")
        run(client, job, Path(sys.argv[2]))
        print(job["name"], f"{time.monotonic() - start:.1f} s", flush=True)


def prepared() -> Any:
    """A client whose store has the connection `aoai`, and that sends no telemetry."""
    home = Path(os.environ["PF_HOME_DIRECTORY"])
    home.mkdir(parents=True)
    (home / "pf.yaml").write_text("telemetry:\n  enabled: false\ntrace:\n  destination: none\n")
    from promptflow.client import PFClient
    from promptflow.entities import AzureOpenAIConnection

    client = PFClient()
    link = AzureOpenAIConnection(
        name="aoai",
        api_key=os.environ["AOAI_API_KEY"],
        api_base=os.environ["AOAI_API_BASE"],
        api_version="2024-02-01",
    )
    client.connections.create_or_update(link)
    return client


def forget_flows() -> None:
    """Be the new process that the command line is for each run, or `helper` stays the first one."""
    below = f"{HERE}/"
    for name, module in list(sys.modules.items()):
        file = str(getattr(module, "__file__", ""))
        if file.startswith(below) and Path(file).parent != HERE:
            del sys.modules[name]
    sys.path[:] = [path for path in sys.path if not path.startswith(below)]


def run(client: Any, job: dict[str, Any], results: Path) -> None:
    """One run, to its end."""
    done = client.run(**job)
    output = Path(done._output_path) / "flow_outputs" / "output.jsonl"
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    result = {
        "status": done.status,
        "outputs": {line.pop("line_number"): line for line in lines},
        "metrics": client.get_metrics(done),
    }
    (results / f"{job['name']}.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
