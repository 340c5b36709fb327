"""An Azure that runs on this machine, for tests: the real SDKs work against it unchanged.

    with LoopbackAzure() as azure:
        subprocess.run([...], env=os.environ | azure.environment)
        assert azure.log[-1]["status"] == 200 and not azure.refused

It is a process of its own. A CONNECT proxy on loopback leads the allowed Azure hosts to a TLS
server with a throw-away authority; what is for another host is refused and noted. Each service is
a module; what it enforces, and where Azure's documentation says so, stands there (`rules.py` for
endpoints). It proves how requests are built, answers read and failures met, not what Azure does.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

Json = dict[str, Any]
CONTROL = "https://control.loopback-azure"
PACKAGE = Path(__file__).resolve().parent


class LoopbackAzure:
    """The emulator as a test sees it; `settings` as in `state.Settings`."""

    def __init__(self, **settings: Any) -> None:
        from .state import Settings

        self.settings = Settings(**settings)
        self._given = settings
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start the process and wait until it listens."""
        self._child = subprocess.Popen(
            [sys.executable, "-m", PACKAGE.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PACKAGE.parent,
            start_new_session=True,
        )
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(json.dumps(self._given) + "\n")
        self._child.stdin.flush()
        started = json.loads(self._child.stdout.readline())
        self._proxy, self._ca = f"http://127.0.0.1:{started['port']}", str(started["ca"])
        trust = HTTPSHandler(context=ssl.create_default_context(cafile=self._ca))
        self._opener = build_opener(ProxyHandler({"https": self._proxy}), trust)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process and wait for it."""
        assert self._child and self._child.stdin
        self._child.stdin.close()
        self._child.wait(timeout=15)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a child process finds this Azure, and signs in with a secret."""
        proxies = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY"), self._proxy)
        proxies |= {"NO_PROXY": "127.0.0.1,localhost"}
        return {
            **proxies,
            **{name.lower(): value for name, value in proxies.items()},
            "REQUESTS_CA_BUNDLE": self._ca,
            "SSL_CERT_FILE": self._ca,
            "AZURE_TENANT_ID": self.settings.tenant,
            "AZURE_CLIENT_ID": self.settings.client_id,
            "AZURE_CLIENT_SECRET": self.settings.client_secret,
        }

    @property
    def log(self) -> list[Json]:
        """Every request in order: method, host, path, comp, api_version, status."""
        found: list[Json] = self._ask("log")
        return found

    @property
    def busy(self) -> float:
        """Seconds in which a request was answered or a long operation was under way."""
        found: float = self._ask("busy")
        return found

    @property
    def refused(self) -> list[str]:
        """The hosts beyond the list of allowed ones that a child wanted to reach."""
        found: list[str] = self._ask("refused")
        return found

    @property
    def state(self) -> Json:
        """Every resource by its id."""
        found: Json = self._ask("state")
        return found

    @property
    def flow_runs(self) -> list[Json]:
        """Prompt flow's cloud runs in the order of their submission: name, status, request."""
        found: list[Json] = self._ask("flow-runs")
        return found

    def id(self, path: str) -> str:
        """The id of a resource of the workspace, such as `onlineEndpoints/ner`."""
        return f"{self.settings.workspace_id}/{path}"

    def get(self, path: str) -> Json | None:
        """A resource of the workspace, or null."""
        wanted = self.id(path).lower()
        return next((r for i, r in self.state.items() if i.lower() == wanted), None)

    def place(self, identity: str, properties: Json | None) -> None:
        """Put a resource there, change properties of it, or remove it (null)."""
        self._ask("resources", {"id": identity, "properties": properties})

    def fail(self, status: int = 500, **fault: Any) -> None:
        """Let the next requests that match fail; `fault` as in `faults.Fault`."""
        self._ask("faults", {"status": status, **fault})

    def drop(self, **fault: Any) -> None:
        """Cut the connection of the next requests that match."""
        self.fail(0, **fault)

    def fail_operation(self, kind: str, **failure: Any) -> None:
        """Let long operations on a type of resource fail; as in `faults.FailedOperation`."""
        self._ask("operations", {"kind": kind, **failure})

    def change(self, **settings: Any) -> None:
        """Change settings while it runs."""
        self._ask("settings", settings)

    def forget(self) -> None:
        """Clear the log and the faults that did not strike; resources stay."""
        self._ask("forget", {})

    def open(self, request: Request) -> Any:
        """Send a request as urllib does, through the proxy and without sign-in."""
        return self._opener.open(request, timeout=60)

    def _ask(self, what: str, body: Json | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with self.open(Request(f"{CONTROL}/{what}", data)) as answer:
            text = answer.read()
        return json.loads(text) if text else None
