"""An endpoint's collected data in blob storage, fetched into a local log for `make monitor`."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.azure import workspace
from llmops.azure.online import ABOVE
from llmops.azure.workspace import Place
from llmops.connections import environment
from llmops.errors import UserError
from llmops.files import check_writable, slug, write_atomically
from llmops.monitoring.collected import Requests, Stored, place
from llmops.runs import ADDRESS, STORE
from llmops.settings import Period

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Datastore
    from azure.core.credentials import TokenCredential
    from azure.storage.blob import ContainerClient

FOLDER = STORE / "collected"
IN_STORE = re.compile(
    r"azureml://(?:subscriptions/([^/]+)/resourcegroups/([^/]+)/(?:providers/[^/]+/)?"
    r"workspaces/([^/]+)/)?datastores/([^/]+)/paths/(.+)",
    re.IGNORECASE,
)
ASSET = re.compile(r"azureml:([\w.-]+):([\w.-]+)")
FORMS = (
    "azureml://datastores/<name>/paths/<path>, the same after subscriptions/…/workspaces/…/, or "
    "azureml:<data asset>:<version>"
)
REMIND = 100
STORES = ("AzureBlobDatastore", "AzureDataLakeGen2Datastore")


class NothingCollectedError(UserError):
    """There is no request at the address, or none of the period."""


@dataclass(frozen=True)
class Source:
    """A path in a data store."""

    where: Place
    store: str
    path: str


def fetch(address: str, period: Period | None) -> Path:
    """The local log of what was collected below an address, or in the part of it for a period.

    It is written anew each time: a row a request, by time.

    Raises:
        UserError: the address has none of the forms, nothing is there, a record is broken, Azure
            refuses, or the log cannot be written.
    """
    name = slug(address.rpartition("/paths/")[2])[-60:]
    digest = hashlib.sha256(f"{address} {period or ''}".encode()).hexdigest()
    path = FOLDER / f"{name}-{digest[:ADDRESS]}.jsonl"
    check_writable(path)
    source = _source(address)
    with workspace.explained(source.where):
        ml = workspace.client(source.where)
        if not source.store:
            source = _behind(ml, source, address)
            ml = workspace.client(source.where)
        with _container(ml, source) as container, _refusals(source):
            _write(path, address, period, source, container)
    return path


def _write(
    path: Path, address: str, period: Period | None, source: Source, container: ContainerClient
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    when = f" of {period}" if period else ""
    with (
        tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder,
        Requests(Path(folder)) as requests,
        write_atomically(path) as file,
    ):
        _read(container, source.path, period, requests)
        count = 0
        for row in requests.rows():
            file.write(json.dumps(row) + "\n")
            count += 1
        if not count:
            raise NothingCollectedError(_nothing(address, when, requests))
    print(f"log: {count} requests{when} from {address}{_left_out(requests)}", flush=True)


def _read(container: ContainerClient, path: str, period: Period | None, requests: Requests) -> None:
    for number, stored in enumerate(_files(container, path, period), start=1):
        for line, text in _lines(container, stored.file):
            requests.add(stored, line, text)
        if number % REMIND == 0:
            print(f"  ... {number} files", flush=True)


def _nothing(address: str, when: str, requests: Requests) -> str:
    if more := _left_out(requests):
        return f"LOG: '{address}': no request{when} that is complete{more}."
    return (
        f"LOG: '{address}': no collected data{when} (expected .jsonl files below it, as in "
        "modelDataCollector/<endpoint>/<deployment>). Does the deployment collect (DATA_COLLECTION "
        "in configs/deployment_config.json), and has it been asked since?"
    )


def _left_out(requests: Requests) -> str:
    reasons = {
        "rows with one side only": requests.incomplete,
        "records whose data is too large for a line": requests.left_out,
    }
    told = [f"{count} {what}" for what, count in reasons.items() if count]
    return f"; left out: {', '.join(told)}" if told else ""


def _source(address: str) -> Source:
    """What an address names; a data asset has its path in Azure."""
    if found := IN_STORE.fullmatch(address):
        subscription, group, name, store, path = found.groups()
        named = Place(subscription, group, name) if subscription else None
        return Source(named or workspace.place(environment()), store, path)
    if ASSET.fullmatch(address):
        return Source(workspace.place(environment()), "", "")
    raise UserError(f"LOG: '{address}' (expected {FORMS}).")


def _behind(ml: MLClient, source: Source, address: str) -> Source:
    """The path that a data asset stands for."""
    found = ASSET.fullmatch(address)
    assert found
    with _absent(f"LOG: '{address}': {source.where.workspace} has no such version of a data asset"):
        path = str(ml.data.get(found[1], found[2]).path)
    if IN_STORE.fullmatch(path) is None:
        raise UserError(f"LOG: '{address}' is '{path}', which is no path in a data store.")
    return _source(path)


def _container(ml: MLClient, source: Source) -> ContainerClient:
    """The container of a data store, with the store's own key, or who signed in where it has none.

    Throttled requests are tried again by the client.
    """
    from azure.storage.blob import ContainerClient, ExponentialRetry

    with _absent(f"LOG: {source.where.workspace} has no data store '{source.store}'"):
        store = ml.datastores.get(source.store, include_secrets=True)
    kind = type(store).__name__
    if kind not in STORES:
        raise UserError(f"LOG: '{source.store}' is a {kind} (expected {' or '.join(STORES)}).")
    name = getattr(store, "container_name", None) or getattr(store, "filesystem", None)
    return ContainerClient(
        f"https://{store.account_name}.blob.{store.endpoint or 'core.windows.net'}",
        str(name),
        credential=_credential(store),
        retry_policy=ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=5),
    )


def _credential(store: Datastore) -> str | TokenCredential:
    given = getattr(store, "credentials", None)
    for secret in ("account_key", "sas_token"):
        if value := getattr(given, secret, None):
            return str(value)
    return workspace.credential()


def _files(container: ContainerClient, path: str, period: Period | None) -> Iterator[Stored]:
    """The files of records below a path, in their order."""
    whole = path.strip("/")
    prefix = whole if whole.endswith(".jsonl") else f"{whole}/"
    for blob in container.list_blob_names(name_starts_with=prefix):
        stored, time = place(blob)
        if blob.endswith(".jsonl") and (period is None or (time and period.touches(time))):
            yield stored


def _lines(container: ContainerClient, blob: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a blob with their numbers (from 1), without those that are empty."""
    number, rest = 0, b""
    for chunk in container.download_blob(blob).chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            if line.strip():
                yield number, line
    if rest.strip():
        yield number + 1, rest


@contextmanager
def _absent(message: str) -> Iterator[None]:
    """Say what is not there; that something above it is not there is left to others."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        yield
    except ResourceNotFoundError as error:
        if error.error is not None and error.error.code in ABOVE:
            raise
        raise UserError(f"{message}.") from error


@contextmanager
def _refusals(source: Source) -> Iterator[None]:
    """Say in words what the storage refuses."""
    from azure.core.exceptions import HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        if error.status_code not in (403, 404):
            raise
        reason = str(getattr(error, "error_code", "") or error.reason)
        hints = {
            403: "A data store without a key needs 'Storage Blob Data Reader' on the storage "
            "account for who runs this task; one with a key may have an old one, and the account's "
            "network rules may refuse this machine.",
            404: "Its container is gone, or a file was removed meanwhile.",
        }
        raise UserError(
            f"LOG: data store '{source.store}' may not be read ({error.status_code} {reason}). "
            f"{hints[error.status_code]}"
        ) from error
