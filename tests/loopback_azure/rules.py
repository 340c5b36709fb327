"""What Azure ML asks of online endpoints and deployments; each rule with the article that says so.

The articles are those of Microsoft's documentation of Azure Machine Learning:
- quotas: how-to-manage-quotas
- sizes: reference-managed-online-endpoints-vm-sku-list
- endpoint: reference-yaml-endpoint-online
- rollout: how-to-safely-rollout-online-endpoints
- trouble: how-to-troubleshoot-online-endpoints
- identities: how-to-access-resources-from-endpoints-managed-identities
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import AzureError, Json, invalid

GUIDE = "See https://aka.ms/oe-tsg"
MOST_DEPLOYMENTS = 20
MOST_INSTANCES = 50
MOST_SECONDS = 300
MOST_MIRRORED = 50
# Cores of the sizes for processors, and of the T4 family (sizes).
_FAMILIES: dict[str, tuple[int, ...]] = {
    "STANDARD_D{}AS_V4": (2, 4, 8, 16, 32, 48, 64, 96),
    "STANDARD_D{}A_V4": (2, 4, 8, 16, 32, 48, 64, 96),
    "STANDARD_E{}S_V3": (2, 4, 8, 16, 32, 48, 64),
    "STANDARD_F{}S_V2": (2, 4, 8, 16, 32, 48, 64, 72),
    "STANDARD_NC{}AS_T4_V3": (4, 8, 16, 64),
}
SIZES = {name.format(n): n for name, sizes in _FAMILIES.items() for n in sizes}
SIZES |= {f"STANDARD_DS{n}_V2": 2 ** (n - 1) for n in range(1, 6)}


def check_name(kind: str, name: str) -> None:
    """3 to 32 letters, digits and single hyphens, a letter first (quotas, deployments too)."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*", name) or not 3 <= len(name) <= 32:
        message = f"{kind} name '{name}' must begin with a letter and be 3-32 letters and digits."
        raise invalid("Name", message)


def check_names_together(endpoint: str, deployment: str) -> None:
    """On Kubernetes, both names together have 6 to 62 characters (quotas)."""
    if not 6 <= len(endpoint) + len(deployment) <= 62:
        raise invalid("Name", "Endpoint and deployment name together must be 6-62 characters.")


def check_traffic(traffic: Mapping[str, int], deployments: Iterable[str]) -> None:
    """Percentages sum to 0 or 100 and name deployments that exist (endpoint)."""
    if missing := sorted(set(traffic) - set(deployments)):
        raise invalid("Traffic", f"Deployment '{missing[0]}' in the traffic rules does not exist.")
    if any(share < 0 for share in traffic.values()) or sum(traffic.values()) not in (0, 100):
        raise invalid("Traffic", "The sum of the traffic percentages must be either 0 or 100.")


def check_mirror(
    mirror: Mapping[str, int], traffic: Mapping[str, int], deployments: Iterable[str], kind: str
) -> None:
    """To one deployment without live traffic, at most half, not on Kubernetes (rollout)."""
    live = {name for name, share in mirror.items() if share}
    if not live:
        return
    if kind != "Managed":
        raise invalid("MirrorTraffic", "Mirroring is not supported for Kubernetes endpoints.")
    if len(live) > 1:
        raise invalid("MirrorTraffic", "Traffic can be mirrored to one deployment only.")
    if missing := sorted(live - set(deployments)):
        raise invalid("MirrorTraffic", f"Deployment '{missing[0]}' does not exist.")
    if any(traffic.get(name) for name in live):
        raise invalid("MirrorTraffic", "A deployment takes either live or mirrored traffic.")
    if max(mirror.values()) > MOST_MIRRORED:
        raise invalid("MirrorTraffic", f"At most {MOST_MIRRORED}% of traffic can be mirrored.")


def check_same(existing: Json, wanted: Json) -> None:
    """An endpoint's region, kind, compute and identity stay as they were made (identities)."""
    if existing.get("location") != wanted.get("location"):
        message = f"The resource already exists in location '{existing.get('location')}'."
        raise AzureError(409, "InvalidResourceLocation", message)
    pairs: list[tuple[str, Any, Any]] = [
        ("Kind", existing.get("kind"), wanted.get("kind")),
        ("Compute", *(e["properties"].get("compute") for e in (existing, wanted))),
        ("Identity", _identity(existing), _identity(wanted)),
    ]
    for what, before, now in pairs:
        if before != now:
            raise invalid(what, f"The {what.lower()} of an endpoint cannot be changed.")


def _identity(endpoint: Json) -> tuple[str, list[str]]:
    block = endpoint.get("identity") or {"type": "SystemAssigned"}
    assigned = sorted(map(str.lower, block.get("userAssignedIdentities") or {}))
    return str(block["type"]).lower(), assigned


def instances(deployment: Json) -> int:
    """How many instances a deployment asks for."""
    return int((deployment.get("sku") or {}).get("capacity") or 1)


def cores(deployment: Json) -> int:
    """The cores that count against the quota: a fifth more is kept for upgrades (quotas)."""
    size = str(deployment["properties"].get("instanceType", "")).upper()
    return math.ceil(round(1.2 * instances(deployment), 6)) * SIZES.get(size, 0)


def check_instances(deployment: Json) -> None:
    """A size of the list (sizes), 1 to 50 instances (quotas), an answer within 300 s (quotas)."""
    properties = deployment["properties"]
    size, capacity = str(properties.get("instanceType", "")), (deployment.get("sku") or {})
    if size.upper() not in SIZES:
        raise invalid("VmSize", f"The instance type '{size}' is not supported.")
    if not 1 <= int(capacity.get("capacity", 1)) <= MOST_INSTANCES:
        raise invalid("InstanceCount", f"The instance count must be 1 to {MOST_INSTANCES}.")
    timeout = (properties.get("requestSettings") or {}).get("requestTimeout")
    if timeout and seconds(timeout) > MOST_SECONDS:
        raise invalid("RequestTimeout", f"The request timeout is at most {MOST_SECONDS} seconds.")


def check_quota(size: str, used: int, needed: int, limit: int) -> None:
    """The quota of cores (trouble: OutOfQuota; wording as reported in public issues)."""
    if used + needed > limit:
        message = (
            f"Not enough quota available for {size}. Current usage/limit: {used}/{limit}. "
            f"Additional needed: {needed} {GUIDE}#error-outofquota"
        )
        raise invalid("VmSize", message)


def check_resources(deployment: Json, compute: Json) -> None:
    """An instance type of the cluster; what is requested does not exceed the limits (trouble)."""
    properties = deployment["properties"]
    types = compute["properties"]["properties"].get("instanceTypes") or {}
    name = properties.get("instanceType") or "defaultinstancetype"
    if name not in types:
        message = f"The instance type '{name}' does not exist on the compute."
        raise invalid("InstanceType", message)
    wanted = properties.get("containerResourceRequirements") or {}
    requests = wanted.get("containerResourceRequests") or {}
    limits = wanted.get("containerResourceLimits") or types[name]["resources"]["limits"]
    for what in ("cpu", "memory"):
        if requests.get(what) and quantity(requests[what]) > quantity(limits.get(what) or "inf"):
            message = f"Requested {what} is greater than its limit."
            raise AzureError(400, "BadArgument", f"{message} {GUIDE}#error-badargument")


def seconds(duration: str) -> float:
    """The length of an ISO 8601 duration below a day."""
    found = re.fullmatch(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?", duration)
    hours, minutes, rest = (float(part or 0) for part in (found.groups() if found else (0, 0, 0)))
    return hours * 3600 + minutes * 60 + rest


def quantity(text: str) -> float:
    """A quantity as Kubernetes writes it: 500m, 2, 4Gi, 512Mi."""
    found = re.fullmatch(r"([\d.]+|inf)(m|Ki|Mi|Gi|Ti)?", str(text))
    if found is None:
        raise invalid("Resources", f"The quantity '{text}' is not valid.")
    units = {"m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
    return float(found[1]) * units.get(found[2] or "", 1.0)
