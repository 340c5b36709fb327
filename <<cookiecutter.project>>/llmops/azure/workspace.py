"""The Azure ML workspace: where it is, how to sign in, and what its refusals mean in words."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmops.errors import UserError

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.core.credentials import TokenCredential

VARIABLES = {
    "subscription": "SUBSCRIPTION_ID",
    "resource_group": "RESOURCE_GROUP_NAME",
    "workspace": "WORKSPACE_NAME",
    "key_vault": "KEY_VAULT_NAME",
}

REFUSED = re.compile(r"Authentication failed: (.*?)(?:\. Trace ID|\s*$)", re.MULTILINE)
NEEDED = "'AzureML Data Scientist' on the workspace; `make azure-setup` assigns it"
TAKEN = re.compile("already (exists|linked)|asset paths? (cannot|can't|can not) be", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """The workspace's names; `key_vault` is empty where the workspace's own vault is meant."""

    subscription: str
    resource_group: str
    workspace: str
    key_vault: str = ""

    @property
    def scope(self) -> str:
        """The workspace's ARM id."""
        return self.id("Microsoft.MachineLearningServices/workspaces", self.workspace)

    def id(self, kind: str, name: str, group: str = "") -> str:
        """The ARM id of another resource; by default it is in the workspace's resource group."""
        within = f"/subscriptions/{self.subscription}/resourceGroups/{group or self.resource_group}"
        return f"{within}/providers/{kind}/{name}"


def place(environment: Mapping[str, str]) -> Place:
    """The workspace that the environment or .env names.

    Raises:
        UserError: a variable is unset; all that are missing are named.
    """
    found = {key: environment.get(name, "").strip() for key, name in VARIABLES.items()}
    missing = [VARIABLES[key] for key in found if not found[key] and key != "key_vault"]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: unset. Name the Azure ML workspace in the environment or .env."
        )
    return Place(**found)


@functools.cache
def credential() -> TokenCredential:
    """Who signs in, once a process: an identity of the environment, else `az login`."""
    from azure.identity import DefaultAzureCredential

    logging.getLogger("azure").setLevel(logging.ERROR)
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        if not os.environ[name].strip():
            del os.environ[name]  # so a workflow hands on a secret that is not set
    return DefaultAzureCredential()


def client(where: Place) -> MLClient:
    """The Azure ML client of the workspace."""
    from azure.ai.ml import MLClient

    # On import it opens itself a handler on stderr, for what is not the user's business.
    logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)
    return MLClient(
        credential(),
        where.subscription,
        where.resource_group,
        where.workspace,
        # Without progress the client waits for ever for a folder of which one file was refused
        # (azure-ai-ml 1.32, upload_directory); `quiet` keeps the bar off the screen.
        show_progress=True,
        enable_telemetry=False,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep off the screen what an upload prints there."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def taken(error: Exception) -> bool:
    """Whether a version could not be made because somebody else made it first."""
    return getattr(error, "status_code", None) == 409 or bool(TAKEN.search(str(error)))


@contextmanager
def explained(where: Place, needed: str = NEEDED) -> Iterator[None]:
    """Turn what the SDKs raise into a UserError that says what to do.

    `needed` is the role that whoever signs in must have.

    Raises:
        UserError: no credentials, a refused sign-in, a missing role, something that is not there,
            a name that is taken, too many requests, a fault of Azure's, or a cut connection.
    """
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        HttpResponseError,
        ServiceRequestError,
        ServiceResponseError,
    )

    try:
        yield
    except ClientAuthenticationError as error:
        raise UserError(_explain_sign_in(error)) from error
    except HttpResponseError as error:
        raise UserError(_explain(error, where, needed)) from error
    except (ServiceRequestError, ServiceResponseError) as error:
        raise UserError(f"Azure did not answer: {_first_line(error)} Try again.") from error
    except AzureError as error:
        raise UserError(_explain(error, where, needed)) from error


def _explain_sign_in(error: Exception) -> str:
    """The reason of the first way to sign in that was refused; the others were not configured."""
    reason = REFUSED.search(str(error))
    what = "AZURE_TENANT_ID, AZURE_CLIENT_ID and a federated token or AZURE_CLIENT_SECRET"
    if reason is None:
        return f"sign-in to Azure: no credentials. Set {what}, or run `az login`."
    return f"sign-in to Azure was refused: {reason[1].rstrip('.')}. Check {what}."


def _explain(error: Exception, where: Place, needed: str) -> str:
    status = getattr(error, "status_code", None)
    text = _first_line(error)
    if status == 403:
        return f"{where.workspace}: access refused: {text} The identity needs the role {needed}."
    if status == 404:
        return f"{where.workspace}: not found: {text} Check {', '.join(VARIABLES.values())}."
    if taken(error):
        return f"{where.workspace}: the name or version is taken: {text} Run the task again."
    if status == 429:
        return f"{where.workspace}: Azure limits requests just now: {text} Try again later."
    if isinstance(status, int) and status >= 500:
        return f"{where.workspace}: Azure failed ({status}): {text} Run the task again."
    return f"{where.workspace}: Azure refused{f' ({status})' if status else ''}: {text}"


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "message", "") or error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".") + "."
