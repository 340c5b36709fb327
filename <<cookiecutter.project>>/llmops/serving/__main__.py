"""`python -m llmops.serving BUNDLE [--port N | --uds PATH] [--host H] [--name N] [--root DIR]`.

The environment says the rest: LLM=live|replay, WORKERS, LOG_CONTENT=1, FEEDBACK_LOG=folder,
MAX_BODY_BYTES, OTEL_EXPORTER_OTLP_ENDPOINT. Requests are logged on stderr, a line of JSON each.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmops.errors import USER_ERROR, UserError
from llmops.serving import server
from llmops.serving.server import Place


def main() -> int:
    """Serve until a signal; 1 with a message where that is not possible."""
    parser = argparse.ArgumentParser(prog="llmops.serving", description="Serve a flow's bundle.")
    parser.add_argument("bundle", type=Path, help="folder with serving.json and flow/")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0: any that is free")
    parser.add_argument("--uds", type=Path, help="a unix socket instead")
    parser.add_argument("--name", default="local", help="of the deployment, for logs and headers")
    parser.add_argument("--root", type=Path, default=Path(), help="folder that holds .env")
    given = parser.parse_args()
    place = Place(given.host, given.port, given.uds)
    try:
        return server.run(given.bundle, place, given.name, given.root)
    except UserError as error:
        print(error, file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
