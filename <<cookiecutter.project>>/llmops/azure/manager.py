"""Azure by plain requests, where an SDK of its own would be a package more.

The way there is the SDKs' own: sign-in, another try after a passing fault, errors by their code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from llmops.azure.workspace import credential
from llmops.errors import UserError

if TYPE_CHECKING:
    from azure.core.rest import HttpRequest, HttpResponse
    from azure.mgmt.core import ARMPipelineClient

Json = dict[str, Any]
MANAGER = "https://management.azure.com"


class Call(Protocol):
    """Sends a request for a resource and returns the JSON of the answer."""

    def __call__(
        self, method: str, path: str, version: str, body: Json | None = None, /, **query: str
    ) -> Json:
        """`path` is an ARM id, `version` that of the API; raises azure.core's HttpResponseError."""
        ...


@contextmanager
def manager(host: str = MANAGER, audience: str = MANAGER) -> Iterator[Call]:
    """Sign in when the first request needs it, and yield what sends requests to Resource Manager.

    Another service that takes tokens for `audience` is asked in the same way.
    """
    from azure.core.rest import HttpRequest

    with _client(audience) as client:

        def call(
            method: str, path: str, version: str, body: Json | None = None, /, **query: str
        ) -> Json:
            parameters = {"api-version": version, **query}
            request = HttpRequest(method, f"{host}{path}", params=parameters, json=body)
            answer = client.send_request(request)
            _check(answer)
            found: Json = answer.json()
            return found

        yield call


def send(
    method: str, url: str, headers: Mapping[str, str] | None = None, **content: Any
) -> HttpResponse:
    """The answer to a request without sign-in, whatever its status; `content` as in HttpRequest.

    Raises:
        UserError: nothing answers. An address may hold a signature: only its host is shown.
    """
    from azure.core import PipelineClient
    from azure.core.exceptions import ServiceRequestError, ServiceResponseError
    from azure.core.pipeline.policies import RetryPolicy, UserAgentPolicy
    from azure.core.rest import HttpRequest

    policies = [UserAgentPolicy("llmops"), RetryPolicy()]
    request = HttpRequest(method, url, headers=dict(headers or {}), **content)
    client: PipelineClient[HttpRequest, HttpResponse] = PipelineClient(url, policies=policies)
    with client:
        try:
            return client.send_request(request)
        except (ServiceRequestError, ServiceResponseError) as error:
            raise UserError(f"{urlsplit(url).hostname} does not answer. Try again.") from error


def optional(call: Call, path: str, version: str) -> Json | None:
    """A resource, or null where it or what it lies in is not there."""
    from azure.core.exceptions import HttpResponseError

    try:
        return call("GET", path, version)
    except HttpResponseError as error:
        if error.status_code != 404:
            raise
        return None


def code_of(error: Exception) -> str:
    """Azure's own word for what went wrong, such as RoleAssignmentExists, or nothing."""
    return str(getattr(getattr(error, "error", None), "code", ""))


@contextmanager
def _client(audience: str) -> Iterator[ARMPipelineClient[HttpRequest, HttpResponse]]:
    from azure.core.pipeline.policies import RetryPolicy, UserAgentPolicy
    from azure.mgmt.core import ARMPipelineClient
    from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy

    sign_in = ARMChallengeAuthenticationPolicy(credential(), f"{audience}/.default")
    client: ARMPipelineClient[HttpRequest, HttpResponse] = ARMPipelineClient(
        MANAGER, policies=[UserAgentPolicy("llmops"), RetryPolicy(), sign_in]
    )
    with client:
        yield client


def _check(answer: HttpResponse) -> None:
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
    from azure.mgmt.core.exceptions import ARMErrorFormat

    if answer.status_code == 401:
        raise ClientAuthenticationError(response=answer, error_format=ARMErrorFormat)
    if answer.status_code >= 400:
        raise HttpResponseError(response=answer, error_format=ARMErrorFormat)
