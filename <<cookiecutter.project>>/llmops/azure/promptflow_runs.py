"""Prompt flow's cloud runs, by its own client."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from llmops import arguments
from llmops.azure import workspace
from llmops.azure.service import Submission, Unavailable
from llmops.config import Azure, Limits
from llmops.errors import UserError
from llmops.running.promptflow_runner import keep_quiet
from llmops.runs import Row

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

STATUS = re.compile(r"(?:Code|Status code): (\d{3})")
ROWS_AT_MOST = 10_000_000


class PromptFlowRuns:
    """See `service.Service`; the client's own waiting, ten seconds at a time, is not used.

    `runtime` is a compute session of the workspace; without one a session is started for the run,
    on the machine that `azure` names.
    """

    def __init__(self, client: MLClient, runtime: str | None, azure: Azure, limits: Limits) -> None:
        keep_quiet()
        from promptflow.azure import PFClient

        with _explained():
            self._runs = PFClient(ml_client=client).runs
        self._runtime = {"runtime": runtime} if runtime else {}
        resources = {"instance_type": azure.instance_type, "compute": azure.compute}
        self._resources = {key: value for key, value in resources.items() if value}
        self._variables = {
            "PF_WORKER_COUNT": str(limits.concurrency),
            "PF_LINE_TIMEOUT_SEC": f"{limits.timeout_s:g}",
        }

    def find(self, name: str) -> str | None:
        """See Service."""
        run = self._find(name)
        return run and str(run.status)

    def submit(self, name: str, submission: Submission) -> None:
        """See Service."""
        from promptflow.entities import Run

        flow = submission.flow
        arguments.require_portable(flow)
        run = Run(
            flow=str(flow.path if flow.kind == "prompty" else flow.folder),
            name=name,
            data=submission.data,
            run=submission.scored or None,
            column_mapping=dict(submission.mappings),
            display_name=submission.display_name,
            tags=dict(submission.tags),
            environment_variables=self._variables,
            init=flow.init or None,
            resources=self._resources or None,
        )
        with suppress(_ExistsError), workspace.quiet(), _explained():
            self._runs.create_or_update(run, **self._runtime)

    def rows(self, name: str) -> Iterator[Row]:
        """See Service; the public `get_details` leaves out errors and times."""
        with _explained():
            children = self._runs._get_flow_runs_pagination(name, max_results=ROWS_AT_MOST)
        yield from map(_row, children)

    def metrics(self, name: str) -> dict[str, Any]:
        """See Service."""
        with _explained():
            found: dict[str, Any] = self._runs.get_metrics(name)
        return found

    def error(self, name: str) -> str:
        """See Service."""
        error = (self._find(name)._error or {}).get("error") or {}
        return str(error.get("message") or "Azure gives no reason; see the run's page")

    def cancel(self, name: str) -> None:
        """See Service."""
        with _explained():
            self._runs.cancel(name)

    def url(self, name: str) -> str:
        """See Service."""
        return str(self._find(name)._portal_url or "")

    def _find(self, name: str) -> Any:
        from promptflow._sdk._errors import RunNotFoundError

        try:
            with _explained():
                return self._runs.get(name)
        except RunNotFoundError:
            return None


def _row(child: Mapping[str, Any]) -> Row:
    """A line of a run as the service tells it; it does not say which model the tokens were of."""
    measured = child.get("system_metrics") or {}
    tokens = [int(measured.get(f"{kind}_tokens") or 0) for kind in ("prompt", "completion")]
    error = child.get("error")
    if error is None and child.get("status") != "Completed":
        error = {"code": str(child.get("status")), "message": "the row did not complete"}
    outputs = {k: v for k, v in (child.get("output") or {}).items() if k != "line_number"}
    return Row(
        int(child["index"]),
        {k: v for k, v in (child.get("inputs") or {}).items() if k != "line_number"},
        None if error else outputs,
        error and {"type": _kind(error), "message": str(error.get("message", ""))},
        float(measured.get("duration") or 0),
        usage={"": [0, *tokens]} if any(tokens) else {},
    )


def _kind(error: Mapping[str, Any]) -> str:
    """The innermost code of an error."""
    while isinstance(inner := error.get("innerError"), Mapping) and inner:
        error = inner
    return str(error.get("code", "Error"))


class _ExistsError(Exception):
    """A run of this name is there."""


@contextmanager
def _explained() -> Iterator[None]:
    """What the client raises: the SDKs' own errors, `Unavailable`, _ExistsError, else UserError."""
    import requests
    from promptflow._sdk._errors import RunNotFoundError
    from promptflow.azure.operations._run_operations import RunRequestException
    from promptflow.exceptions import PromptflowException

    try:
        yield
    except RunNotFoundError:
        raise
    except (requests.ConnectionError, requests.Timeout) as error:
        raise Unavailable(str(error)) from error
    except (PromptflowException, RunRequestException) as error:
        raise _meaning(error) from error


def _meaning(error: Exception) -> Exception:
    """What an error of the client's own means."""
    from azure.core.exceptions import AzureError

    found = STATUS.search(str(error))
    status = int(found[1]) if found else 0
    if status == 409 or "already exists" in str(error):
        return _ExistsError(str(error))
    if status == 429 or status >= 500:
        return Unavailable(str(error))
    inner = getattr(error, "inner_exception", None)
    if isinstance(inner, AzureError):
        return inner
    if status in (401, 403):
        return UserError(
            f"prompt flow's service in Azure refused ({status}). The identity needs the role "
            "'AzureML Data Scientist' on the workspace; `make azure-setup` assigns it."
        )
    return UserError(f"prompt flow's service in Azure: {' '.join(str(error).split())[:500]}")
