"""Where the models' answers come from: live endpoints, or recordings behind a loopback server."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from llmops import connections as links
from llmops import recordings
from llmops.config import Experiment
from llmops.connections import Connection
from llmops.errors import UserError

FOLDER = Path("recordings")

HINTS = {
    "live": "Answers come from the endpoints of experiment.yaml's connections.",
    "record": "Answers come from the endpoints and are kept in recordings/.",
}
NO_RECORDING = (
    "{rows} no recording (recorded answers are for other prompts, parameters or data). Let a model "
    "answer: put {variables} into .env, or for a local one such as Ollama "
    '{name}={{"type": "open_ai", "base_url": "http://localhost:11434/v1", "model": "llama3.2"}}, '
    "then `make record`."
)
NO_CONNECTION = "experiment.yaml names no connection, so the flows ask no model, or by themselves."


class Answers:
    """The connections as flows see them in this task.

    In replay and record mode each connection points at a loopback server that is started by `open`
    and ended by `close`; the key of the real endpoint stays with that server.
    """

    def __init__(
        self,
        experiment: Experiment,
        llm: str | None,
        root: Path = Path(),
        recorded: Path | None = None,
    ) -> None:
        self._real = links.load(experiment.connections, links.environment(root))
        self.mode = links.choose_mode(self._real, llm)
        self._folder = recorded or root / FOLDER
        self._server: recordings.Server | None = None

    @property
    def note(self) -> str:
        """One sentence for people: where the answers of this task come from."""
        if not self._real:
            return NO_CONNECTION
        return recordings.describe(self._folder) if self.mode == "replay" else HINTS[self.mode]

    @property
    def target(self) -> str:
        """What decides the answers, for a run's content address; holds no secret."""
        if self.mode == "replay":  # type and model are part of the request, the address is not
            asked = [f"{c.name}={c.type} {c.model or ''}" for c in self._real.values()]
            return " ".join(("replay", recordings.digest(self._folder), *sorted(asked)))
        addresses = [f"{c.name}={c.type} {c.address} {c.model or ''}" for c in self._real.values()]
        return " ".join((self.mode, *sorted(addresses)))

    def open(self) -> None:
        """Check the endpoints without spending money, and start the loopback server if needed.

        Raises:
            UserError: an endpoint refuses, does not answer, or refuses the key.
        """
        if self.mode != "replay":
            self._check()
        if self.mode != "live" and self._server is None:
            self._serve(self.mode)

    def _check(self) -> None:
        from llmops import endpoints  # its HTTP client is not needed for a replay

        asked = {link.name: endpoints.check(link) for link in self._served()}
        problems = [f"connection '{n}': {a.sentence}" for n, a in asked.items() if not a.ok]
        if problems:
            raise UserError("\n".join(problems))

    def _serve(self, mode: recordings.Mode, unmarked: Path | None = None) -> None:
        source = f"recorded {datetime.date.today().isoformat()}"
        self._server = recordings.Server(mode, self._folder, self._targets(), source, unmarked)
        self._server.start()

    def no_recording(self, rows: int) -> str:
        """What to do about rows without a recording."""
        served = self._served()
        link = next((one for one in served if one.missing), served[0])
        return NO_RECORDING.format(
            rows="1 row has" if rows == 1 else f"{rows} rows have",
            variables=" and ".join(link.missing) or "its variables",
            name=link.name,
        )

    def _targets(self) -> dict[str, recordings.Target]:
        """The real endpoints behind the loopback server; none for replay, which needs no key."""
        if self.mode == "replay":
            return {}
        return {link.name: link.upstream() for link in self._served()}

    def _served(self) -> list[Connection]:
        return [link for link in self._real.values() if link.served]

    @property
    def by_repeat(self) -> bool:
        """Whether each repeat needs connections of its own, because its answers are kept apart."""
        return self._server is not None

    def connections(self, repeat: int = 0) -> dict[str, Connection]:
        """The connections for a worker: the real ones, or pointed at the loopback server.

        The server gives, or keeps, the answers of this repeat.
        """
        if self._server is None:
            return self._real
        server = self._server
        return {name: link.through(server.url(name, repeat)) for name, link in self._real.items()}

    def unreachable(self) -> dict[str, Connection]:
        """The connections with an address that nothing answers, for flows that are only loaded."""
        return {name: link.through("http://127.0.0.1:9") for name, link in self._real.items()}

    def close(self) -> None:
        """End the loopback server."""
        if self._server is not None:
            self._server.stop()
            self._server = None


def environment(connections: dict[str, Connection], root: Path = Path()) -> dict[str, str]:
    """Variables for flows that read their endpoint from the environment, and those of `.env`."""
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))
    given = links.environment(root)
    # What puts connections together holds real keys, also where a replay needs none.
    whole = {links.variable(name) for name in (*connections, links.LISTED)}
    variables = {key: text for key, text in given.items() if links.variable(key) not in whole}
    variables |= {"NO_PROXY": direct, "no_proxy": direct}  # the loopback server is behind no proxy
    for link in connections.values():
        variables |= link.as_environment()
    return variables
