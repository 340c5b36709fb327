"""Answers in the shapes in which Azure's services put their errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

Json = dict[str, Any]

CODES = {
    400: "BadRequest",
    401: "AuthenticationFailed",
    403: "AuthorizationFailed",
    404: "ResourceNotFound",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}


class AzureError(Exception):
    """A refusal: HTTP status, Azure's code, a message, and details where the service nests them."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Iterable[Json] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.details = list(details)
        self.headers = dict(headers or {})

    @property
    def body(self) -> Json:
        """The error itself, as it also stands in a failed operation."""
        more = {"details": self.details, "additionalInfo": []} if self.details else {}
        return {"code": self.code, "message": self.message, **more}


def invalid(field: str, message: str, status: int = 400) -> AzureError:
    """A violated rule as the online endpoints' service reports it, below Azure ML's own error.

    The form is that of reports in public issues (azureml-examples 1931, azure-cli-extensions 7660).
    """
    inner = {"errors": {field: [message]}, "title": "One or more validation errors occurred."}
    detail = {"code": "InferencingClientCallFailed", "message": json.dumps(inner)}
    code = CODES[status] if status != 404 else "NotFound"
    return AzureError(status, code, "The request is invalid.", [detail])


def not_found(what: str) -> AzureError:
    """The answer for a resource that is not there."""
    return AzureError(404, "ResourceNotFound", f"The resource '{what}' was not found.")


def respond(host: str, error: AzureError) -> Response:
    """The error as the service at `host` words it."""
    headers = {"x-ms-error-code": error.code, **error.headers}
    if host.endswith(".blob.core.windows.net"):
        xml = f"<Error><Code>{error.code}</Code><Message>{error.message}</Message></Error>"
        return Response(xml, error.status, headers, "application/xml")
    if host == "login.microsoftonline.com":
        body: Json = {"error": error.code, "error_description": error.message}
        return JSONResponse(body, error.status, error.headers)
    return JSONResponse({"error": error.body}, error.status, headers)
