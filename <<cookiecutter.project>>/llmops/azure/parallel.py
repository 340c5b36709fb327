"""A flow as the parallel component of an Azure ML pipeline: its rows spread over many machines."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops import flows, package
from llmops.azure import workspace
from llmops.azure.service import ENDED, Submission
from llmops.config import Experiment
from llmops.data import LINE_NUMBER, Table, apply_mappings, complete_mappings
from llmops.errors import UserError
from llmops.flows import Flow
from llmops.plan import Variant
from llmops.running.promptflow_runner import keep_quiet
from llmops.runs import Row

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import PipelineJob

FLOW_FILE = "flow.dag.yaml"
SCHEMA = "https://azuremlschemas.azureedge.net/promptflow/latest/Flow.schema.json"
"""Without it, azure-ai-ml does not take the file for a flow."""
DATA, OUTPUTS = "data", "flow_outputs"
PORTS = (DATA, OUTPUTS, "connections", "debug_info", "run_outputs")
"""Names of the component's own inputs and outputs."""
STEP, SERVERLESS = "rows", "serverless"
ANY = -1
"""As a limit of failures: none. Which rows failed, their absence among the outputs tells."""


class ParallelJobs:
    """See `service.Service`: pipeline jobs of one step.

    On each machine, `limits.concurrency` mini-batches run at once, the rows of one after each
    other. A row that fails lets all of them run again, `limits.retries` times, and then be lost.
    """

    def __init__(self, client: MLClient, experiment: Experiment) -> None:
        keep_quiet()
        self._client = client
        self._name, self._on, self._limits = experiment.name, experiment.azure, experiment.limits

    def find(self, name: str) -> str | None:
        """See Service; every state before the end is Running."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            status = self._client.jobs.get(name).status
        except ResourceNotFoundError:
            return None
        return status if status in ENDED else "Running"

    def submit(self, name: str, submission: Submission) -> None:
        """See Service; UserError where the flow is no DAG, or an input has a name of its own."""
        _check(submission.flow)
        if self._on.compute:
            self._client.compute.get(self._on.compute)  # else found missing after the upload
        with tempfile.TemporaryDirectory() as temporary, workspace.quiet():
            folder = Path(temporary) / "flow"
            _prepare(submission.flow, folder)
            job = self._job(submission, folder / FLOW_FILE)
            job.name = name
            self._create(job)

    def _create(self, job: PipelineJob) -> None:
        from azure.core.exceptions import HttpResponseError

        try:
            self._client.jobs.create_or_update(job)
        except HttpResponseError as error:
            if not workspace.taken(error):
                raise

    def _job(self, submission: Submission, path: Path) -> PipelineJob:
        from azure.ai.ml import Input, Output, load_component
        from azure.ai.ml.entities import (
            JobResourceConfiguration,
            Parallel,
            PipelineJob,
            PipelineJobSettings,
            RetrySettings,
        )

        on, limits = self._on, self._limits
        component: Any = load_component(str(path))
        # azure-ai-ml names an unnamed component by a hash that leaves out the files of a flow.
        component.tags = {"content_hash": package.flow_hash(submission.flow)}
        mappings = complete_mappings(submission.mappings, submission.flow.inputs)
        texts = {key: _text(value) for key, value in mappings.items() if key != LINE_NUMBER}
        seconds = math.ceil(limits.timeout_s * on.mini_batch_size)
        step = Parallel(
            component=component,
            inputs={DATA: f"${{{{parent.inputs.{DATA}}}}}", **texts},
            outputs={OUTPUTS: f"${{{{parent.outputs.{OUTPUTS}}}}}"},
            resources=JobResourceConfiguration(
                instance_count=on.instance_count, instance_type=on.instance_type
            ),
            mini_batch_size=on.mini_batch_size,
            max_concurrency_per_instance=limits.concurrency,
            retry_settings=RetrySettings(max_retries=limits.retries, timeout=seconds),
            error_threshold=ANY,
            mini_batch_error_threshold=ANY,
        )
        return PipelineJob(
            display_name=submission.display_name,
            experiment_name=self._name,
            tags=dict(submission.tags),
            inputs={DATA: Input(type="uri_file", path=submission.data)},
            outputs={OUTPUTS: Output(type="uri_folder")},
            jobs={STEP: step},
            # Without force_rerun, equal inputs would be given the outputs of the last job.
            settings=PipelineJobSettings(
                default_compute=on.compute or SERVERLESS, force_rerun=True
            ),
        )

    def rows(self, name: str) -> Iterator[Row]:
        """See Service; without latency and usage, because the component writes outputs only."""
        job = self._client.jobs.get(name)
        mappings = _mappings(job)
        with tempfile.TemporaryDirectory() as temporary:
            outputs = self._outputs(name, Path(temporary) / "outputs")
            if outputs is None:
                return
            positions = {int(line[LINE_NUMBER]): at for at, line in enumerate(outputs)}
            for number, record in enumerate(self._data(job, Path(temporary) / "data")):
                # prompt flow takes a row's number from a column of this name, where there is one.
                at = positions.get(int(record.get(LINE_NUMBER, number)))
                if at is not None:
                    inputs = apply_mappings(mappings, {"data": record}) if mappings else record
                    line = outputs[at]
                    del line[LINE_NUMBER]
                    yield Row(number, inputs, line, latency_s=None)

    def _outputs(self, name: str, folder: Path) -> Table | None:
        """The lines that the component wrote; null where there is none."""
        with workspace.quiet():
            self._client.jobs.download(name, download_path=folder, output_name=OUTPUTS)
        found = [path for path in folder.rglob("*.jsonl") if path.stat().st_size]
        return Table(found[0]) if found else None

    def _data(self, job: PipelineJob, folder: Path) -> Table:
        """The rows of the data that a job ran over."""
        from azure.ai.ml._artifacts import _artifact_utilities as artifacts

        asset, _, version = job.inputs[DATA].path.removeprefix("azureml:").rpartition(":")
        uri = self._client.data.get(asset, version).path
        with workspace.quiet():
            artifacts.download_artifact_from_aml_uri(uri, str(folder), self._client.datastores)
        return Table(next(path for path in folder.rglob("*") if path.is_file()))

    def metrics(self, name: str) -> dict[str, Any]:
        """See Service: none; evaluators score the rows where the task runs."""
        return {}

    def error(self, name: str) -> str:
        """See Service: the step's reason, else the job's own."""
        history: Any = self._client.jobs._runs_operations  # of errors only the history knows
        steps = [step.name for step in self._client.jobs.list(parent_job_name=name)]
        for run in (*steps, name):
            found = history.get_run_data(run).run_metadata.error
            if found and found.error and (message := found.error.message):
                return " ".join(message.split())
        return "Azure ML gives no reason"

    def cancel(self, name: str) -> None:
        """See Service."""
        self._client.jobs.begin_cancel(name, polling=False)

    def url(self, name: str) -> str:
        """See Service."""
        return str(self._client.jobs.get(name).studio_url)


def _check(flow: Flow) -> None:
    if flow.kind != "dag":
        raise UserError(
            f"{flow.path}: a {flow.kind} flow, but Azure ML's parallel component runs {FLOW_FILE} "
            "only. Leave out TARGET: the rows run here."
        )
    if taken := sorted(set(flow.inputs) & set(PORTS)):
        raise UserError(
            f"{flow.path}: inputs: '{taken[0]}' is a name of the parallel component's own. "
            "Rename the input."
        )


def _prepare(flow: Flow, folder: Path) -> None:
    """Copy the flow, with what makes it a component: its schema, and the meta data of its tools."""
    from promptflow._sdk._utilities.general_utils import generate_flow_tools_json

    definition = {"$schema": SCHEMA, **flows.overlay(flow, {}, {})}
    package.package(flow, Variant("packaged", {}, {}, definition), folder)
    generate_flow_tools_json(folder, raise_error=False)


def _text(value: Any) -> str:
    """A mapping as a parameter of the component, which are texts; the flow's types read them."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _mappings(job: PipelineJob) -> dict[str, str]:
    """What the job's only step was given besides the data; literals are texts."""
    (step,) = job.jobs.values()
    return {name: entry._data for name, entry in step.inputs.items() if name not in PORTS}
