"""What a roll-out would change: from the entry of deployment_config.json and what Azure has.

Nothing here calls Azure. A new deployment gets no traffic until it has passed its test, so one that
takes traffic is never changed: it is scaled, or a new one takes its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llmops.deploying.deployment import CONFIG, Endpoint, Kind
from llmops.errors import UserError

Action = Literal["keep", "create", "update", "replace"]
What = Literal[
    "endpoint", "roles", "environment", "deployment", "test", "traffic",
    "identity", "image", "secrets", "plan", "web app",
]  # fmt: skip
Shares = dict[str, int]

READY, FAILED = "Succeeded", "Failed"
HARMLESS = {"instances", "description"}
"""What may change of a deployment that takes traffic: it serves the same flow before and after."""


@dataclass(frozen=True)
class Deployment:
    """A deployment as it is or shall be: `model` and `environment` as `name:version`.

    `size` is the VM size, on Kubernetes the instance type; `collects` is the percentage of requests
    that are kept with their answers. No representation shows `variables`, as some of them are
    secrets; `secret` names those.
    """

    name: str
    model: str
    environment: str
    size: str = ""
    instances: int = 1
    cpu: str = ""
    memory: str = ""
    description: str = ""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: frozenset[str] = frozenset()
    state: str = READY
    names: str = ""
    collects: int = 0

    @property
    def digest(self) -> str:
        """A hash over the names of the variables; a tag that tells when one was taken away."""
        return hashlib.sha256(" ".join(sorted(self.variables)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Found:
    """An endpoint as Azure has it; `identity` is empty if it is the system's, then `principal`.

    `since` is the moment from which the traffic is split as it is, empty where nobody noted it.
    """

    name: str
    state: str = READY
    description: str = ""
    identity: str = ""
    principal: str = ""
    compute: str = ""
    url: str = ""
    traffic: Shares = field(default_factory=dict)
    mirror: Shares = field(default_factory=dict)
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    since: str = ""


@dataclass(frozen=True)
class Wanted:
    """What shall be there: the entry, with its deployment put together from all its sources."""

    kind: Kind
    entry: Endpoint
    deployment: Deployment
    identity: str = ""


@dataclass(frozen=True)
class Step:
    """One line of the plan: what is there now, and what comes."""

    what: What
    name: str
    now: str
    then: str
    action: Action = "update"


@dataclass(frozen=True)
class Plan:
    """The steps in their order, and the split of traffic at the end; no steps: nothing to do."""

    steps: tuple[Step, ...]
    traffic: Shares
    mirror: Shares
    instances: str
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        """What a person reads before it happens."""
        from tabulate import tabulate

        if not self.steps:
            return f"Nothing to do: {self.instances}"
        rows = [(step.what, step.name, step.now, step.then) for step in self.steps]
        table = tabulate(rows, headers=("", "name", "now", "then"), disable_numparse=True)
        return "\n".join((table, *self.notes, self.instances))


def roll_out(
    wanted: Wanted,
    found: Found | None,
    environment_exists: bool,
    missing: Sequence[str] | None = (),
) -> Plan:
    """The way from what is there to what is wanted.

    `missing` are the roles that the endpoint's identity lacks; null if there is no identity yet.

    Raises:
        UserError: the entry lacks something, the prior deployment is absent or not healthy, or a
            deployment that takes traffic would serve something else.
    """
    _check_entry(wanted)
    _check_prior(wanted.entry, found)
    endpoint = _endpoint(wanted, found)
    first = [
        endpoint,
        _roles(endpoint, missing),
        _environment(wanted.deployment, environment_exists),
    ]
    notes = [f"Roles to grant: {', '.join(missing)}."] if missing else []
    notes.append(_variables(wanted.deployment))
    return _plan(wanted, found, first, notes)


def roll_out_here(wanted: Wanted, found: Found | None, endpoint: Step) -> Plan:
    """As `roll_out`, on this machine, where `endpoint` is all that is needed before a deployment.

    Raises:
        UserError: as `roll_out`.
    """
    _check_prior(wanted.entry, found)
    notes = [_variables(wanted.deployment)] if wanted.deployment.variables else []
    return _plan(wanted, found, [endpoint], notes)


def _plan(wanted: Wanted, found: Found | None, first: Sequence[Step], notes: Sequence[str]) -> Plan:
    """The plan whose `first` steps are the endpoint and what else a deployment needs."""
    deployment = wanted.deployment
    traffic, mirror = _split(wanted.entry, found)
    steps = [*first, _deployment(deployment, found)]
    now = None if first[0].action == "replace" else found
    split = _traffic(wanted.entry.ENDPOINT_NAME, now, traffic, mirror)
    if all(step.action == "keep" for step in (*steps, split)):
        return Plan((), traffic, mirror, _instances(deployment, found))
    steps += [_test(deployment.name), split]
    return Plan(tuple(steps), traffic, mirror, _instances(deployment, found), tuple(notes))


def roll_back(entry: Endpoint, found: Found | None) -> Plan:
    """The way back: all traffic to the prior deployment.

    Raises:
        UserError: no prior deployment is named, or it is absent or not healthy.
    """
    if found is None:
        raise absent(entry.ENDPOINT_NAME)
    if not entry.PRIOR_DEPLOYMENT_NAME:
        raise UserError(
            f"{CONFIG}: PRIOR_DEPLOYMENT_NAME: empty. Name the deployment to go back to "
            f"(expected one of {_listed(found)})."
        )
    prior = entry.PRIOR_DEPLOYMENT_NAME
    _check_prior(entry, found)
    traffic = {prior: 100}
    split = _traffic(found.name, found, traffic, {})
    steps = () if split.action == "keep" else (_test(prior), split)
    return Plan(steps, traffic, {}, f"Endpoint '{found.name}' has {shares(found.traffic)}.")


def shift(entry: Endpoint, found: Found, share: int) -> Plan:
    """The way from the prior deployment to the current one, as far as this percentage."""
    prior, current = entry.PRIOR_DEPLOYMENT_NAME, entry.CURRENT_DEPLOYMENT_NAME
    traffic = {name: part for name, part in ((prior, 100 - share), (current, share)) if part}
    split = _traffic(found.name, found, traffic, {})
    now = f"Endpoint '{found.name}' has {shares(found.traffic, found.mirror)}."
    return Plan((_test(current), split), traffic, {}, now)


def share(entry: Endpoint, found: Found | None) -> int:
    """The percentage that the current deployment takes now; all the rest is the prior one's.

    Raises:
        UserError: one of the two is absent, the prior one is not healthy, or others take traffic.
    """
    if found is None:
        raise absent(entry.ENDPOINT_NAME)
    prior, current = entry.PRIOR_DEPLOYMENT_NAME, entry.CURRENT_DEPLOYMENT_NAME
    if not prior:
        raise UserError(
            f"{CONFIG}: PRIOR_DEPLOYMENT_NAME: empty. Name the deployment that the traffic leaves "
            f"(expected one of {_listed(found)})."
        )
    if current not in found.deployments:
        raise UserError(
            f"{CONFIG}: CURRENT_DEPLOYMENT_NAME: endpoint '{found.name}' has no deployment "
            f"'{current}' (there are {_listed(found)}). Run `make deploy` first."
        )
    part = found.traffic.get(current, 0)
    if part < 100:  # else there is nothing left to lead back to the prior one
        _check_prior(entry, found)
    if found.traffic.get(prior, 0) + part != 100:
        raise UserError(
            f"endpoint '{found.name}' has {shares(found.traffic)}; a cut-over is between "
            f"'{prior}' and '{current}' alone. Lead all traffic to '{prior}' with `make rollback`."
        )
    return part


def absent(name: str, key: str = "ENDPOINT_NAME") -> UserError:
    """What to say of an endpoint, or of what else `key` names, that must be there."""
    return UserError(f"{key}: '{name}' does not exist. Run `make deploy` first.")


def _check_entry(wanted: Wanted) -> None:
    entry = wanted.entry
    if wanted.kind == "managed" and not entry.DEPLOYMENT_VM_SIZE:
        raise UserError(f"{CONFIG}: DEPLOYMENT_VM_SIZE: empty. Name one, as Standard_DS3_v2.")
    if wanted.kind == "kubernetes" and not entry.COMPUTE_NAME:
        raise UserError(f"{CONFIG}: COMPUTE_NAME: empty. Name the attached Kubernetes compute.")
    if wanted.kind == "kubernetes" and entry.MIRRORED_TRAFFIC_ALLOCATION:
        raise UserError(
            f"{CONFIG}: MIRRORED_TRAFFIC_ALLOCATION: a Kubernetes endpoint cannot mirror traffic. "
            "Remove the key."
        )


def _check_prior(entry: Endpoint, found: Found | None) -> None:
    prior = entry.PRIOR_DEPLOYMENT_NAME
    if not prior:
        return
    if found is None or prior not in found.deployments:
        raise UserError(
            f"{CONFIG}: PRIOR_DEPLOYMENT_NAME: endpoint '{entry.ENDPOINT_NAME}' has no deployment "
            f"'{prior}' (expected one of {_listed(found)}). Leave it empty for the first one."
        )
    if (state := found.deployments[prior].state) != READY:
        raise UserError(
            f"{CONFIG}: PRIOR_DEPLOYMENT_NAME: '{prior}' is not healthy ({state}). Name another "
            f"(there are {_listed(found)})."
        )


def _listed(found: Found | None) -> str:
    deployments = found.deployments.values() if found else ()
    return ", ".join(f"{d.name} ({d.state})" for d in deployments) or "none"


def _split(entry: Endpoint, found: Found | None) -> tuple[Shares, Shares]:
    """Live and mirrored traffic at the end; while requests are mirrored, live traffic stays."""
    share, name = entry.MIRRORED_TRAFFIC_ALLOCATION, entry.CURRENT_DEPLOYMENT_NAME
    if not share:
        return {k: v for k, v in entry.traffic.items() if v}, {}
    live = found.traffic if found else {}
    if not live or name in live:
        reason = f"'{name}' takes live traffic" if live else "no deployment takes live traffic yet"
        raise UserError(f"{CONFIG}: MIRRORED_TRAFFIC_ALLOCATION: {reason}. Remove the key.")
    return live, {name: share}


def _endpoint(wanted: Wanted, found: Found | None) -> Step:
    name, kind = wanted.entry.ENDPOINT_NAME, wanted.kind
    if found is None:
        who = wanted.identity.rpartition("/")[2] or "system-assigned"
        where = f" on {wanted.entry.COMPUTE_NAME}" if kind == "kubernetes" else ""
        return Step("endpoint", name, "absent", f"create{where}, identity: {who}", "create")
    if found.state == FAILED and not found.deployments:
        return Step("endpoint", name, "Failed", "delete, then create", "replace")
    _check_same(wanted, found)
    if found.state != READY or found.description != wanted.entry.ENDPOINT_DESC:
        then = "repair" if found.state != READY else "change its description"
        return Step("endpoint", name, found.state, then)
    return Step("endpoint", name, "exists", "-", "keep")


def _check_same(wanted: Wanted, found: Found) -> None:
    pairs = {
        "USER_MANAGED_ID": (wanted.identity.lower(), found.identity.lower()),
        "COMPUTE_NAME": (wanted.entry.COMPUTE_NAME.lower(), found.compute.lower()),
    }
    if wanted.kind == "managed":
        pairs["COMPUTE_NAME"] = ("", found.compute)
    for key, (then, now) in pairs.items():
        if then != now:
            raise UserError(
                f"{CONFIG}: {key}: endpoint '{found.name}' was made with '{now or 'none'}', not "
                f"'{then or 'none'}', which cannot be changed. Take another ENDPOINT_NAME, or "
                "delete the endpoint."
            )


def _roles(endpoint: Step, missing: Sequence[str] | None) -> Step:
    if missing is None or endpoint.action == "replace":
        return Step("roles", endpoint.name, "absent", "grant what its identity needs")
    if missing:
        return Step("roles", endpoint.name, "incomplete", f"grant {len(missing)}")
    return Step("roles", endpoint.name, "exist", "-", "keep")


def _environment(deployment: Deployment, exists: bool) -> Step:
    then: Action = "keep" if exists else "create"
    now = "exists" if exists else "absent"
    return Step("environment", deployment.environment, now, "-" if exists else "create", then)


def _deployment(wanted: Deployment, found: Found | None) -> Step:
    now = found.deployments.get(wanted.name) if found else None
    if now is None:
        then = f"create: {wanted.model}, {_size(wanted)}, no traffic yet"
        return Step("deployment", wanted.name, "absent", then, "create")
    changes = dict(_changes(now, wanted))
    live = found.traffic.get(wanted.name, 0) if found else 0
    if live and (set(changes) - HARMLESS or now.state != READY):
        what = "; ".join(changes.values()) or f"it is {now.state}"
        raise UserError(
            f"{CONFIG}: CURRENT_DEPLOYMENT_NAME: '{wanted.name}' takes {live}% of the traffic and "
            f"would change untested ({what}). Give the new deployment a name of its own, and "
            f"'{wanted.name}' as PRIOR_DEPLOYMENT_NAME."
        )
    if now.state != READY:
        return Step("deployment", wanted.name, now.state, "delete, then create", "replace")
    if not changes:
        return Step("deployment", wanted.name, f"{now.model}, {_size(now)}", "-", "keep")
    return Step("deployment", wanted.name, "exists", "; ".join(changes.values()), "update")


def _changes(now: Deployment, wanted: Deployment) -> Iterator[tuple[str, str]]:
    for key in ("model", "environment", "size", "instances", "cpu", "memory", "description"):
        before, after = getattr(now, key), getattr(wanted, key)
        if str(before).lower() != str(after).lower() and (after or key == "description"):
            yield key, f"{key}: {before or 'none'} to {after or 'none'}"
    if now.collects != wanted.collects:
        yield "collects", f"data collection: {now.collects}% to {wanted.collects}%"
    other = [k for k, text in wanted.variables.items() if now.variables.get(k) != text]
    if other or now.names != wanted.digest:
        yield "variables", f"variables: {', '.join(sorted(other)) or 'some are gone'}"


def _size(deployment: Deployment) -> str:
    size = deployment.size or "default instance type"
    more = [text for text in (deployment.cpu, deployment.memory) if text]
    return f"{deployment.instances} x {size}{f' ({chr(44).join(more)})' if more else ''}"


def _variables(deployment: Deployment) -> str:
    names = sorted(deployment.variables)
    shown = [f"{name} (secret)" if name in deployment.secret else name for name in names]
    return f"Variables of '{deployment.name}': {', '.join(shown)}."


def _test(name: str) -> Step:
    return Step("test", name, "-", "send the sample request to it alone")


def _traffic(name: str, found: Found | None, traffic: Shares, mirror: Shares) -> Step:
    now = shares(found.traffic, found.mirror) if found else "none"
    if found and (found.traffic, found.mirror) == (traffic, mirror):
        return Step("traffic", name, now, "-", "keep")
    return Step("traffic", name, now, f"{shares(traffic, mirror)}, if the test passes")


def shares(traffic: Mapping[str, int], mirror: Mapping[str, int] | None = None) -> str:
    """The split of traffic in words."""
    live = [f"{name} {share}%" for name, share in traffic.items() if share]
    live += [f"{name} {share}% mirrored" for name, share in (mirror or {}).items() if share]
    return ", ".join(live) or "no traffic"


def _instances(wanted: Deployment, found: Found | None) -> str:
    before = {d.name: d for d in (found.deployments.values() if found else ())}
    after = {**before, wanted.name: wanted}
    counts = [sum(d.instances for d in each.values()) for each in (before, after)]
    each = ", ".join(f"{d.name} {_size(d)}" for d in after.values())
    return f"Instances: {counts[0]} now, {counts[1]} then ({each})."
