"""Whether the server answers, for the image's health check: `python -m llmops.serving.health`.

It runs every half minute, so it imports nothing that takes long.
"""

from __future__ import annotations

import http.client
import os
import sys

PORT = "8080"
ANSWER_S = 4.0


def healthy(port: str) -> bool:
    """Whether the server on this port says that it is healthy; asks past every proxy."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=ANSWER_S)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(0 if healthy(os.environ.get("PORT", PORT)) else 1)
