"""Keys of older configuration files that are none of an experiment: where each goes, or why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops import tracking
from llmops.onboarding import repairs, upstream
from llmops.onboarding.upstream import UseCase

_ENV_KEYS = {"ENV_NAME", "RUNTIME_NAME", "STANDARD_FLOW_PATH", "EVALUATION_FLOW_PATH"}
_VARIABLES = {
    "SUBSCRIPTION_ID": "SUBSCRIPTION_ID",
    "RESOURCE_GROUP_NAME": "RESOURCE_GROUP_NAME",
    "WORKSPACE_NAME": "WORKSPACE_NAME",
    "PROJECT_NAME": "WORKSPACE_NAME",
    "KEYVAULT_NAME": "KEY_VAULT_NAME",
}
NOT_NEEDED = {
    "AZURE_RM_SVC_CONNECTION": "the pipelines' variable group names the service connection",
    "EXPERIMENT_BASE_NAME": "runs are grouped under the experiment's name",
    "MODEL_BASE_NAME": "the registered model has the experiment's name",
    "CONNECTION_NAME": "each flow names its connections",
    "DEPLOYMENT_NAME": "each flow names its model; `model` of a connection replaces it",
    "COMPUTE_TARGET": "`azure.compute` of experiment.yaml names a compute",
}
_TRACKING = re.compile(r"mlflow.*uri|tracking.*uri", re.IGNORECASE)
_AZUREML = (
    "azureml://<region>.api.azureml.ms/mlflow/v1.0/subscriptions/{subscription_id}/resourceGroups/"
    "{resource_group_name}/providers/Microsoft.MachineLearningServices/workspaces/{workspace_name}"
)


def tell(case: UseCase, block: Mapping[str, Any], path: Path, env: str) -> None:
    """Say where the keys about Azure go: variables of the environment, or what has their work."""
    where = f"{path.relative_to(case.folder)}: {f'{env}: ' if env else ''}"
    for key, value in block.items():
        word = str(key).upper()
        if word in _ENV_KEYS or value in (None, ""):
            continue
        if variable := _VARIABLES.get(word):
            at = f" of the environment '{env}'" if env else ""
            case.proposal.notes.append(f"{where}{key} '{value}': the variable {variable}{at}.")
        elif word in NOT_NEEDED:
            case.proposal.notes.append(f"{where}{key} '{value}': not needed: {NOT_NEEDED[word]}.")
        else:
            shown = "" if repairs.SECRET.search(word) else f" '{value}'"
            case.proposal.notes.append(
                f"{where}{key}{shown}: no task reads it. If the flow's code does, set it in .env."
            )


def tell_tracking(case: UseCase, every: Mapping[str, Any]) -> None:
    """The MLflow server that runs were logged to, as a line of .env.example."""
    address = next((str(v) for k, v in every.items() if _TRACKING.search(k) and v), "")
    workspace = every.get("workspace_name") or every.get("project_name")
    if not address and not workspace:
        return
    given = {"subscription_id": every.get("subscription_id"), "workspace_name": workspace}
    given["resource_group_name"] = every.get("resource_group_name")
    parts = {key: _literal(value) or f"<{key}>" for key, value in given.items()}
    line = address or _AZUREML.format(**parts)
    upstream.add_lines(case, [f"#{tracking.URI}={line}"])
    case.proposal.notes.append(
        f"MLflow: runs were logged to {'this server' if address else 'the workspace'}: set "
        f"{tracking.URI} (see .env.example; `az ml workspace show --query mlflow_tracking_uri`"
        " prints a workspace's address)."
    )


def _literal(value: Any) -> str:
    text = str(value or "")
    return "" if "$" in text else text
