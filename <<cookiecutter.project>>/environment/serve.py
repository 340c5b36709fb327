"""Serve the flow that Azure ML puts beside this container: /score, and /health for its probes.

It is prompt flow's own server. Connections stand in the deployment's variables; where those lack
some, they are the workspace's, and variables such as AOAI_API_BASE come before what is in them.
Nothing here keeps requests: Azure ML does, in front of the container (DATA_COLLECTION).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

PORT = 8080
KNOWN = ("flow.dag.yaml", "flow.flex.yaml")


def prepare(model: Path) -> Path:
    """The flow's folder; a plain Python function gets the file that prompt flow wants."""
    named = "LLMOPS_FLOW" in os.environ  # a Python function may lie beside prompties that it asks
    if any((model / name).is_file() for name in KNOWN) or (
        list(model.glob("*.prompty")) and not named
    ):
        return model
    folder = Path(tempfile.mkdtemp()) / model.name
    shutil.copytree(model, folder)
    entry = os.environ.get("LLMOPS_FLOW", "flow:run")
    document: dict[str, object] = {"entry": entry}
    if (init := folder / "init.json").is_file():  # what the entry's class is made with
        document["sample"] = {"init": json.loads(init.read_text(encoding="utf-8"))}
    # JSON is YAML.
    (folder / "flow.flex.yaml").write_text(json.dumps(document), encoding="utf-8")
    return folder


if __name__ == "__main__":
    import uvicorn
    from promptflow.core._serving.app import create_app

    (found,) = Path(os.environ["AZUREML_MODEL_DIR"]).iterdir()
    os.environ["PROMPTFLOW_PROJECT_PATH"] = str(prepare(found))
    os.chdir(os.environ["PROMPTFLOW_PROJECT_PATH"])
    app = create_app(engine="fastapi", extension_type="azureml")
    uvicorn.run(app, host="0.0.0.0", port=PORT)
