"""What the emulated Azure holds: its settings, its resources by id, and what is needed at start."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from .errors import not_found

if TYPE_CHECKING:
    from .arm import Operations
    from .blob import Blobs
    from .flow_runs import FlowRun
    from .jobs import JobRun
    from .serving import Container

Json = dict[str, Any]
PROVIDER = "Microsoft.MachineLearningServices"


@dataclass
class Settings:
    """What a test may choose, at the start or later.

    `operation_s` is the time a long operation takes, `retry_after_ms` what clients are told to wait
    between polls. `cores` is the quota, `endpoints` the endpoints a subscription may have.
    `federated` lists the outside identities that may sign in: {"issuer", "subject"}.
    `replication_s` is how long a new principal is not found, `denied` what the caller may not do:
    patterns of actions such as `*/roleAssignments/write`.
    `roles_first` lets a managed deployment fail where the endpoint's user-assigned identity lacks
    the roles to start it; `propagation_s` is how long an assigned role does not act yet.
    `run_s` is how many seconds a flow run or a job is NotStarted, Preparing, and at least Running.
    `run_fails` is the message with which runs fail instead of starting; `run_hangs` lets them stay
    in Running. `connections` are the workspace's, each with its type, address and key in clear.
    `search_lag_s` is how long a search service does not find what was uploaded.
    `seed` decides which deployment a request goes to where traffic is split.
    """

    tenant: str = "11111111-1111-1111-1111-111111111111"
    client_id: str = "22222222-2222-2222-2222-222222222222"
    client_secret: str = "a-secret-of-the-loopback-azure"
    object_id: str = "33333333-3333-3333-3333-333333333333"
    federated: list[Json] = field(default_factory=list)
    subscription: str = "44444444-4444-4444-4444-444444444444"
    group: str = "rg-llmops"
    workspace: str = "mlw-llmops"
    region: str = "westeurope"
    operation_s: float = 0.1
    retry_after_ms: int = 50
    cores: int = 100
    endpoints: int = 100
    replication_s: float = 2.0
    denied: list[str] = field(default_factory=list)
    roles_first: bool = True
    propagation_s: float = 0.0
    run_s: list[float] = field(default_factory=lambda: [0.05, 0.05, 0.05])
    run_fails: str = ""
    run_hangs: bool = False
    connections: list[Json] = field(default_factory=list)
    search_lag_s: float = 0.0
    seed: int = 0

    @property
    def group_id(self) -> str:
        """The resource group's id."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"

    @property
    def workspace_id(self) -> str:
        """The workspace's id."""
        return f"{self.group_id}/providers/{PROVIDER}/workspaces/{self.workspace}"


class Resources:
    """Resources as their JSON by id, in the order of creation; letter case makes no difference."""

    def __init__(self) -> None:
        self._all: dict[str, Json] = {}

    def __getitem__(self, identity: str) -> Json:
        self.require(identity)
        return self._all[identity.lower()]

    def __setitem__(self, identity: str, resource: Json) -> None:
        self._all[identity.lower()] = resource

    def require(self, identity: str) -> None:
        """AzureError 404 if the resource is not there."""
        if self.get(identity) is None:
            raise not_found(identity)

    def get(self, identity: str) -> Json | None:
        """The resource, or null."""
        return self._all.get(identity.lower())

    def remove(self, identity: str) -> None:
        """Forget a resource and all below it."""
        gone = identity.lower()
        below = [i for i in self._all if i == gone or i.startswith(f"{gone}/")]
        for name in below:
            del self._all[name]

    def children(self, collection: str) -> list[Json]:
        """The resources directly below a collection such as `…/onlineEndpoints`."""
        prefix = f"{collection.lower()}/"
        return [r for i, r in self._all.items() if i.rpartition("/")[0] + "/" == prefix]

    def of_type(self, kind: str) -> Iterator[tuple[str, Json]]:
        """Every resource whose last collection is `kind`, such as `onlineEndpoints`."""
        tail = kind.lower()
        yield from ((i, r) for i, r in self._all.items() if i.split("/")[-2] == tail)

    def as_json(self) -> Json:
        """All of them by id, as the resources themselves spell it."""
        return {resource["id"]: resource for resource in self._all.values()}


@dataclass
class State:
    """Everything a request may read or change.

    `own_identities` are the principals of a container by its secret and their client ids, `way_out`
    its variables that lead to this Azure.
    """

    settings: Settings
    folder: Path
    resources: Resources
    operations: Operations
    blobs: Blobs
    containers: dict[str, Container] = field(default_factory=dict)
    flow_runs: dict[str, FlowRun] = field(default_factory=dict)
    jobs: dict[str, JobRun] = field(default_factory=dict)
    keys: dict[str, dict[str, str]] = field(default_factory=dict)
    own_identities: dict[str, dict[str, str]] = field(default_factory=dict)
    way_out: dict[str, str] = field(default_factory=dict)
    signing_key: str = field(default_factory=lambda: uuid.uuid4().hex)
    random: random.Random = field(default_factory=random.Random)


def state_of(request: Request) -> State:
    """The state of the emulator that serves a request."""
    state: State = request.app.state.azure
    return state
