"""The side door for tests: read the log and the resources, set faults, settings and resources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .faults import FailedOperation, Fault, Recorder
from .machine_learning import describe
from .proxy import Proxy
from .state import State, state_of


def routes(recorder: Recorder, proxy: Proxy) -> list[Route]:
    """The door to what stands before the services, and to their state."""

    def show(read: Callable[[State], Any]) -> Callable[[Request], Any]:
        async def handler(request: Request) -> Response:
            return JSONResponse(read(state_of(request)))

        return handler

    async def add_fault(request: Request) -> Response:
        recorder.faults.append(Fault(**await request.json()))
        return Response(status_code=204)

    async def forget(request: Request) -> Response:
        recorder.faults.clear()
        state_of(request).operations.failures.clear()
        recorder.log.clear()
        recorder.spans.clear()
        state_of(request).operations.spans.clear()
        return Response(status_code=204)

    return [
        Route("/log", show(lambda _: recorder.log)),
        Route("/refused", show(lambda _: proxy.refused)),
        Route("/busy", show(lambda state: busy(recorder.spans + state.operations.spans))),
        Route("/state", show(lambda state: state.resources.as_json())),
        Route("/flow-runs", show(_flow_runs)),
        Route("/faults", add_fault, methods=["POST"]),
        Route("/operations", fail_operation, methods=["POST"]),
        Route("/settings", change, methods=["POST"]),
        Route("/resources", place, methods=["POST"]),
        Route("/forget", forget, methods=["POST"]),
    ]


def _flow_runs(state: State) -> list[Any]:
    return [run.as_json() for run in state.flow_runs.values()]


def busy(spans: list[tuple[float, float]]) -> float:
    """Seconds that the spans cover together."""
    total, end = 0.0, 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


async def fail_operation(request: Request) -> Response:
    """Make long operations fail."""
    state_of(request).operations.failures.append(FailedOperation(**await request.json()))
    return Response(status_code=204)


async def change(request: Request) -> Response:
    """Change settings."""
    for name, value in (await request.json()).items():
        setattr(state_of(request).settings, name, value)
    return Response(status_code=204)


async def place(request: Request) -> Response:
    """Put a resource there, change its properties, or remove it (properties: null)."""
    resources, body = state_of(request).resources, await request.json()
    identity, properties = body["id"], body["properties"]
    if properties is None:
        resources.remove(identity)
    elif (existing := resources.get(identity)) is not None:
        existing["properties"] |= properties
    else:
        resources[identity] = describe(identity, properties)
    return Response(status_code=204)
