"""What `cloud` asks of a service that runs flows in Azure, in words that are no SDK's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from llmops.flows import Flow
from llmops.runs import Row

State = Literal["NotStarted", "Preparing", "Queued", "Running", "Completed", "Failed", "Canceled"]
ENDED = ("Completed", "Failed", "Canceled")


class Unavailable(Exception):  # noqa: N818  # a state of the world, not a mistake
    """A fault that may pass: too many requests, a server's error, a cut connection."""


@dataclass(frozen=True)
class Submission:
    """A flow to run over data.

    `flow` holds one variant and needs nothing beside its folder. `data` is an asset,
    `azureml:<name>:<version>`; `mappings` lead its columns to the flow's inputs. `scored` is the
    name of the run whose outputs are the flow's input too, or empty.
    """

    flow: Flow
    data: str
    mappings: Mapping[str, Any]
    display_name: str
    tags: Mapping[str, str]
    scored: str = ""


class Service(Protocol):
    """Runs, each under a name that the caller chooses and that is taken once.

    Every method may raise what the SDKs raise, `Unavailable`, and UserError.
    """

    def find(self, name: str) -> str | None:
        """A run's state, one of ENDED at its end; null where there is no such run."""

    def submit(self, name: str, submission: Submission) -> None:
        """Start a run; one that is there already is left as it is."""

    def rows(self, name: str) -> Iterator[Row]:
        """The rows of a completed run; those that the service never ran are left out."""

    def metrics(self, name: str) -> dict[str, Any]:
        """The metrics of a completed run by the flow's own aggregation."""

    def error(self, name: str) -> str:
        """Why a run failed."""

    def cancel(self, name: str) -> None:
        """Stop a run."""

    def url(self, name: str) -> str:
        """Its page in the studio."""
