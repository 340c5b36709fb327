"""What prompt flow itself makes of the fixture flows: `python pf_run.py jobs.json results.json`.

A job is {"name", "flow", "data", "column_mapping", "variant", "run"} as `pf run create` takes it, a
result {"outputs": {line: outputs}, "metrics": {…}}. It runs in a process of its own, with the home
folder and PF_HOME_DIRECTORY in a temporary folder: connections go into a store that is thrown away.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Run every job, one after the other: some score the run of another one."""
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    home = Path(os.environ["PF_HOME_DIRECTORY"])
    home.mkdir(parents=True)
    (home / "pf.yaml").write_text("telemetry:\n  enabled: false\ntrace:\n  destination: none\n")
    from promptflow.client import PFClient
    from promptflow.entities import AzureOpenAIConnection

    client = PFClient()
    key, base = os.environ["AOAI_API_KEY"], os.environ["AOAI_API_BASE"]
    link = AzureOpenAIConnection("aoai", api_key=key, api_base=base, api_version="2024-02-01")
    client.connections.create_or_update(link)
    results: dict[str, Any] = {}
    for job in jobs:
        start = time.monotonic()
        results[job["name"]] = run(client, job)
        print(job["name"], f"{time.monotonic() - start:.1f} s", file=sys.stderr)
    Path(sys.argv[2]).write_text(json.dumps(results), encoding="utf-8")


def run(client: Any, job: dict[str, Any]) -> dict[str, Any]:
    """One run, to its end."""
    done = client.run(**job)
    folder = Path(done._output_path)
    lines = (folder / "flow_outputs" / "output.jsonl").read_text(encoding="utf-8").splitlines()
    outputs = [json.loads(line) for line in lines]
    return {
        "status": done.status,
        "outputs": {line.pop("line_number"): line for line in outputs},
        "metrics": client.get_metrics(done),
    }


if __name__ == "__main__":
    main()
