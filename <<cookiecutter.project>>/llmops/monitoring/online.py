"""What the router of a local endpoint wrote down, by deployment: for `make monitor KIND=local`.

`requests.jsonl` has a line a request, and of DATA_COLLECTION percent of them what went in and out;
`feedback.jsonl` what people said of answers. Both are only read, also while the router runs.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any

from llmops.config import Experiment
from llmops.data import Table
from llmops.deploying import deployment
from llmops.errors import UserError
from llmops.files import slug, unreadable, write_atomically
from llmops.lines import PROBE
from llmops.monitoring.streams import ID, Seen, Stream
from llmops.runs import STORE
from llmops.settings import Period, Settings

KIND = "local"
ENDPOINTS = STORE / "endpoints"
REQUESTS, FEEDBACK, STATE = "requests.jsonl", "feedback.jsonl", "state.json"
COLLECTED = STORE / "online"
KINDS: Mapping[str, type | tuple[type, ...]] = {
    "time": str,
    "request_id": str,
    "deployment": str,
    "status": int,
    "seconds": (int, float, type(None)),
}


def read(settings: Settings) -> Seen:
    """The requests of an endpoint, of the days of SINCE: of the only one, or the one LOG names.

    Raises:
        UserError: there is no such endpoint, or none of its requests is written down.
    """
    place = _place(settings.log)
    scores, unread = _scores(place / FEEDBACK)
    seen = Seen(place.name, unread=unread)
    with ExitStack() as stack:
        unmatched = _read_requests(place, _days(settings.since), scores, seen, stack)
    seen.unmatched = 0 if settings.since else unmatched
    if not seen.streams:
        when = f" of {settings.since}" if settings.since else ""
        raise UserError(f"{place / REQUESTS}: no request{when}. Send some to the endpoint first.")
    seen.prior, seen.current = _roles(seen)
    seen.replayed = _replayed(place)
    _find_tables(seen)
    return seen


def after(place: Path, since: str, prior: str, current: str) -> Seen:
    """What an endpoint answered from a moment on, `since` as the log has it; may be nothing."""
    scores, unread = _scores(place / FEEDBACK)
    seen = Seen(place.name, unread=unread, prior=prior, current=current)
    with ExitStack() as stack:
        _read_requests(place, lambda time: time >= since, scores, seen, stack)
    seen.replayed = _replayed(place)
    _find_tables(seen)
    return seen


def over(experiment: Experiment, seen: Seen) -> Experiment:
    """The experiment with the endpoint's rows in place of its log, a dataset a table.

    The gate judges what people got, so not the mirrored requests, unless there are no others.

    Raises:
        UserError: an evaluator scores several logs, and which one this is cannot be known.
    """
    evaluators = []
    for evaluator in experiment.evaluators:
        first, *more = evaluator.datasets
        if more:
            raise UserError(
                f"{experiment.file('evaluators')}: evaluators[{evaluator.name}].datasets: "
                f"{1 + len(more)} logs; KIND=local replaces one. Leave one there."
            )
        datasets = tuple(
            first.model_copy(update={"name": name, "source": str(path)})
            for name, path in seen.tables.items()
        )
        evaluators.append(evaluator.model_copy(update={"datasets": datasets}))
    gate = experiment.gate
    if gate is not None:
        judged: list[str | None] = [s.name for s in seen.live() if s.name in seen.tables]
        checks = [
            c.model_copy(update={"dataset": n}) for c in gate.checks for n in judged or [None]
        ]
        gate = gate.model_copy(update={"checks": tuple(checks)})
    return experiment.model_copy(update={"evaluators": tuple(evaluators), "gate": gate})


def _place(log: str) -> Path:
    """The folder of the endpoint."""
    if log:
        place = Path(log).parent if Path(log).name == REQUESTS else Path(log)
        if not (place / REQUESTS).is_file():
            raise UserError(f"LOG: '{log}' (expected the folder of an endpoint, {ENDPOINTS}/…).")
        return place
    found = sorted(path.parent for path in ENDPOINTS.glob(f"*/{REQUESTS}"))
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"LOG: unset, and there are {len(found)} endpoints (expected one of "
            f"{', '.join(map(str, found))})."
        )
    raise UserError(
        f"{ENDPOINTS}: no endpoint has written down a request. Run `make deploy KIND=local`, and "
        "send it some."
    )


def _parts(path: Path, stack: ExitStack) -> list[IO[bytes]]:
    """The file and its earlier parts, the oldest first.

    They are opened from the newest on, so that one which is renamed meanwhile is met twice at most.
    """
    found: dict[int, IO[bytes]] = {}
    for number in count():
        suffix = f".{number}{path.suffix}" if number else path.suffix
        try:
            file = stack.enter_context(path.with_name(path.stem + suffix).open("rb"))
        except FileNotFoundError:
            if number:
                break
        except OSError as error:
            raise unreadable(path, error) from error
        else:
            found.setdefault(os.fstat(file.fileno()).st_ino, file)
    return list(reversed(found.values()))


def _records(path: Path, stack: ExitStack) -> Iterator[dict[str, Any] | None]:
    """The object of each line; null where it is none."""
    for file in _parts(path, stack):
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            yield record if isinstance(record, dict) else None


def _scores(path: Path) -> tuple[dict[str, float], int]:
    """The score of each request that has one, the last one said; and how many lines are none."""
    found, unread = dict[str, float](), 0
    with ExitStack() as stack:
        for record in _records(path, stack):
            score = record.get("score") if record else None
            if record and isinstance(score, int | float) and math.isfinite(score):
                found[str(record.get("request_id"))] = score
            else:
                unread += 1
    return found, unread


def _days(since: Period | None) -> Callable[[str], bool]:
    """Whether a line's time is of these days."""
    return lambda time: since is None or since.touches(time[:10].replace("-", "/"))


def _read_requests(
    place: Path,
    wanted: Callable[[str], bool],
    scores: Mapping[str, float],
    seen: Seen,
    stack: ExitStack,
) -> int:
    """Fill `seen` with the requests of the wanted times; how much feedback is to none of them.

    The tests that tasks send are passed over: they are not what people asked.
    """
    answered: dict[str, Stream] = {}
    for record in _records(place / REQUESTS, stack):
        if record is None or not all(isinstance(record.get(k), t) for k, t in KINDS.items()):
            seen.unread += 1
            continue
        if not wanted(record["time"]) or record["request_id"].startswith(PROBE):
            continue
        seen.first, seen.last = seen.first or record["time"], record["time"]
        if not record["deployment"]:
            seen.unrouted[record["status"]] += 1
            continue
        stream = _stream(seen, record, stack)
        score = None if stream.mirrored else scores.get(record["request_id"])
        stream.add(record, score)
        if score is not None:
            answered[record["request_id"]] = stream
    for request, stream in answered.items():
        stream.said.append(scores[request])
    return len(scores) - len(answered)


def _stream(seen: Seen, record: Mapping[str, Any], stack: ExitStack) -> Stream:
    key = record["deployment"], bool(record.get("mirrored"))
    if key not in seen.streams:
        # Names of deployments have no dots, so no two files are the same.
        name = ".".join((seen.endpoint, key[0], *(["mirrored"] if key[1] else [])))
        path = COLLECTED / f"{slug(name)}.jsonl"
        seen.streams[key] = Stream(*key, path, stack.enter_context(write_atomically(path)))
    return seen.streams[key]


def _roles(seen: Seen) -> tuple[str, str]:
    """The prior and the current deployment: as configured, else the last two that began."""
    there = list(dict.fromkeys(name for name, _ in seen.streams))
    with suppress(UserError):
        known = deployment.read(deployment.CONFIG)
        for entry in (*known.azure_managed_endpoint, *known.kubernetes_endpoint):
            pair = entry.PRIOR_DEPLOYMENT_NAME, entry.CURRENT_DEPLOYMENT_NAME
            if entry.ENDPOINT_NAME in (seen.endpoint, "") and all(n in there for n in pair):
                return pair
    return (there[-2] if len(there) > 1 else "", there[-1])


def _replayed(place: Path) -> tuple[str, ...]:
    """The deployments whose answers come from recordings; none where the state does not tell."""
    try:
        state = json.loads((place / STATE).read_bytes())
        return tuple(n for n, one in state["deployments"].items() if one["llm"] == "replay")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def _find_tables(seen: Seen) -> None:
    """The rows of each stream; of what was mirrored to the current one, the pairs if there are."""
    seen.tables = {s.name: s.path for s in seen.live() if s.collected}
    for stream in (s for s in seen.streams.values() if s.mirrored and s.collected):
        prior = seen.streams.get((seen.prior, False))
        if stream.deployment == seen.current and prior and prior.collected:
            paths = _paired(prior, stream)
            if paths:
                seen.pairs = f"{seen.prior} on the same requests", stream.name
                seen.tables |= dict(zip(seen.pairs, paths, strict=True))
                continue
        seen.tables[stream.name] = stream.path


def _paired(prior: Stream, current: Stream) -> tuple[Path, Path] | None:
    """Both streams' rows of the requests that each has once, in the prior's order."""
    tables = Table(prior.path), Table(current.path)
    rows = [_once([row[ID] for row in table]) for table in tables]
    both = [request for request in rows[0] if request in rows[1]]
    paths = tuple(s.path.with_name(f"{s.path.stem}.paired.jsonl") for s in (prior, current))
    for table, numbers, path in zip(tables, rows, paths, strict=True):
        with write_atomically(path) as file:
            file.writelines(json.dumps(table[numbers[request]]) + "\n" for request in both)
    return (paths[0], paths[1]) if both else None


def _once(requests: list[str]) -> dict[str, int]:
    """The place of each request that is there once; a caller may have sent the same id twice."""
    times = Counter(requests)
    return {request: at for at, request in enumerate(requests) if times[request] == 1}
