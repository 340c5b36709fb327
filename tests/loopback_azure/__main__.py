"""The process: `python -m loopback_azure`, settings as a JSON line on stdin, the port on stdout.

It ends when stdin closes, so that it never outlives the test that started it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Host, Route, Router

from . import (
    arm,
    authorization,
    blob,
    control,
    flow_runs,
    identities,
    jobs,
    login,
    machine_learning,
    online,
    own_identity,
    registry,
    search,
    serving,
    vault,
    vault_secrets,
    web,
)
from .certificates import Authority
from .errors import AzureError, respond
from .faults import Recorder
from .proxy import CONTROL, Proxy
from .state import Resources, Settings, State

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def services() -> list[Host]:
    """Which module answers for which host. A further service is one more line here."""
    modules = (
        *(authorization, online, jobs, machine_learning),
        *(identities, vault, registry, search, web, arm),
    )
    resource_manager = [route for module in modules for route in module.ROUTES]
    hosts: dict[str, list[Route]] = {
        "login.microsoftonline.com": login.ROUTES,
        "management.azure.com": [_authorized(route) for route in resource_manager],
        "{region}.api.azureml.ms": [*jobs.HISTORY_ROUTES, *flow_runs.ROUTES],
        "{account}.blob.core.windows.net": blob.ROUTES,
        "{server}.inference.ml.azure.com": serving.ROUTES,
        "{server}.cloudapp.azure.com": serving.ROUTES,
        "{registry}.azurecr.io": registry.DOOR,
        "{service}.search.windows.net": search.DOOR,
        "{vault}.vault.azure.net": vault_secrets.DOOR,
        "{site}.azurewebsites.net": web.DOOR,
        "{anything}": [],
    }
    unknown = Route("/{path:path}", not_emulated, methods=METHODS)
    return [Host(name, Router([*routes, unknown])) for name, routes in hosts.items()]


async def not_emulated(request: Request) -> Response:
    """The answer to a call that the emulator has not learnt; no test should pass by way of it."""
    call = f"{request.method} {request.headers['host']}{request.url.path}"
    raise AzureError(501, "LoopbackAzure", f"Not emulated: {call}")


def _authorized(route: Route) -> Route:
    """The route, behind Resource Manager's own checks."""

    async def handler(request: Request) -> Response:
        arm.authorize(request)
        response: Response = await route.endpoint(request)
        return response

    return Route(route.path, handler, methods=list(route.methods or ()))


async def refuse(request: Request, error: Exception) -> Response:
    """An error as the service at the host words it."""
    assert isinstance(error, AzureError)
    return respond(request.headers["host"].split(":")[0], error)


def furnished(settings: Settings, folder: Path) -> State:
    """The state at the start."""
    resources = Resources()
    machine_learning.furnish(resources, settings)
    vault.furnish(resources, settings)
    registry.furnish(resources, settings)
    search.furnish(resources, settings)
    state = State(
        settings, folder, resources, arm.Operations(settings), blob.Blobs(folder / "blobs")
    )
    state.random.seed(settings.seed)
    search.admit(state)
    return state


async def serve(settings: Settings, folder: Path) -> None:
    """Serve until stdin closes."""
    authority = Authority(folder)
    state = furnished(settings, folder)
    app = Starlette(routes=services(), exception_handlers={AzureError: refuse})
    app.state.azure = state
    proxy = Proxy(0)
    recorder = Recorder(app, proxy.drop)
    app.routes.insert(
        0, Host(CONTROL, Router([*control.routes(recorder, proxy), *own_identity.ROUTES]))
    )
    server = uvicorn.Server(
        uvicorn.Config(
            recorder,
            port=0,
            ssl_context_factory=lambda *_: authority.server(),
            log_level="error",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    proxy.port = server.servers[0].sockets[0].getsockname()[1]
    gate = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    port = gate.sockets[0].getsockname()[1]
    state.way_out = {
        **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), f"http://127.0.0.1:{port}"),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
        **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), str(authority.bundle)),
    }
    print(json.dumps({"port": port, "ca": str(authority.bundle)}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for container in state.containers.values():
        await container.close()
    server.should_exit = True
    gate.close()
    proxy.close()
    await running


def main() -> None:
    """Read the settings and serve."""
    settings = Settings(**json.loads(sys.stdin.readline()))
    with tempfile.TemporaryDirectory(prefix="loopback-azure-") as folder:
        asyncio.run(serve(settings, Path(folder)))


main()
