"""What a deployment's data collector puts into blob storage: requests and their answers.

Article "Collect production data from models deployed for real-time inferencing": collections
`request` and `response` take what goes over the wire, into a folder of the workspace's store unless
their data asset has another path. A record here is a file; Azure gathers those of some time.
"""

from __future__ import annotations

import datetime
import json
import uuid

from .errors import Json
from .state import State

ROOT = "azureml://datastores/workspaceblobstore/paths/modelDataCollector"


def collect(
    state: State, root: str, deployment: Json, inputs: Json, answer: Json, request_id: str | None
) -> None:
    """Keep a request and its answer below `root`, as often as the sampling rate says.

    `request_id` is the caller's own, if it gave one.
    """
    collections = (deployment["properties"].get("dataCollector") or {}).get("collections") or {}
    rate = max((float(c.get("samplingRate") or 1) for c in collections.values()), default=0)
    if state.random.random() >= rate:
        return
    correlation = request_id or str(uuid.uuid4())
    for name, data in (("request", inputs), ("response", answer)):
        if str(collections.get(name, {}).get("dataCollectionMode")).lower() == "enabled":
            _write(state, root, deployment, name, correlation, data)


def _write(
    state: State, root: str, deployment: Json, name: str, correlation: str, data: Json
) -> None:
    now, identity = datetime.datetime.now(datetime.UTC), str(uuid.uuid4())
    record = {
        "specversion": "1.0",
        "id": identity,
        "source": deployment["id"],
        "type": f"azureml.inference.{name}",
        "datacontenttype": "application/json",
        "time": now.isoformat(timespec="seconds"),
        "data": data,
        "correlationid": correlation,
        "xrequestid": correlation,
    }
    endpoint = deployment["id"].split("/")[-3]
    folder = f"{root}/{endpoint}/{deployment['name']}/{name}"
    path = f"{folder}/{now:%Y/%m/%d/%H}/{identity}.jsonl"
    content = json.dumps(record).encode() + b"\n"
    state.blobs.write(path, content, "application/json", {})
