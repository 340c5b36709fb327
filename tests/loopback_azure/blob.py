"""Blob storage: block blobs with metadata, as the REST API of the Blob service has them."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .errors import AzureError
from .state import State, state_of

VERSION = "2024-11-04"
XML = "application/xml"


@dataclass
class Blob:
    """A blob: where its content is, and what is known of it."""

    path: Path
    type: str
    md5: str
    etag: str
    metadata: dict[str, str] = field(default_factory=dict)
    modified: str = field(default_factory=lambda: formatdate(usegmt=True))

    @property
    def headers(self) -> dict[str, str]:
        """What the service says of it in every answer."""
        known = {
            "ETag": self.etag,
            "Last-Modified": self.modified,
            "Content-Type": self.type,
            "Content-MD5": self.md5,
            "Accept-Ranges": "bytes",
            "x-ms-blob-type": "BlockBlob",
            "x-ms-creation-time": self.modified,
        }
        return known | {f"x-ms-meta-{key}": value for key, value in self.metadata.items()}


class Blobs:
    """All accounts' blobs by account/container/name."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._number = itertools.count(1)
        self._blobs: dict[str, Blob] = {}
        self._blocks: dict[tuple[str, str], bytes] = {}

    def __getitem__(self, name: str) -> Blob:
        if name not in self._blobs:
            raise AzureError(404, "BlobNotFound", "The specified blob does not exist.")
        return self._blobs[name]

    def names(self, prefix: str) -> Iterator[str]:
        """The names that begin with a prefix, in their order."""
        yield from (name for name in sorted(self._blobs) if name.startswith(prefix))

    def write(self, name: str, content: bytes, kind: str, metadata: dict[str, str]) -> Blob:
        """Put a blob, or put another in its place."""
        number = next(self._number)
        path = self._folder / str(number)
        path.write_bytes(content)
        md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        self._blobs[name] = Blob(path, kind, md5, f'"0x{number:015X}"', metadata)
        return self._blobs[name]

    def remove(self, name: str) -> None:
        """Forget a blob."""
        self[name].path.unlink()
        del self._blobs[name]

    def stage(self, name: str, block: str, content: bytes) -> None:
        """Keep a block until the list of blocks says what to do with it."""
        self._blocks[name, block] = content

    def join(self, name: str, blocks: list[str]) -> bytes:
        """The content that a list of staged blocks makes up."""
        try:
            return b"".join(self._blocks.pop((name, block)) for block in blocks)
        except KeyError as error:
            raise AzureError(400, "InvalidBlockList", "The block list is invalid.") from error

    def export(self, prefix: str, folder: Path) -> None:
        """Write the blobs below `prefix`, or the one of this name, into a folder."""
        for name in self.names(prefix):
            relative = name[len(prefix) :].lstrip("/") or name.rpartition("/")[2]
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._blobs[name].path.read_bytes())


def _authorized(request: Request) -> State:
    """A signature or a token is needed; what they allow is not looked at."""
    if "sig" not in request.query_params and "authorization" not in request.headers:
        message = "Server failed to authenticate the request."
        raise AzureError(403, "AuthenticationFailed", message)
    return state_of(request)


def _name(request: Request) -> str:
    account = request.headers["host"].split(".")[0]
    return f"{account}{request.scope['path']}"


def _answer(
    status: int, headers: dict[str, str], content: bytes = b"", kind: str | None = None
) -> Response:
    return Response(content, status, {"x-ms-version": VERSION, **headers}, kind)


async def put(request: Request) -> Response:
    """Put a blob, a block, a list of blocks, or metadata."""
    blobs, name = _authorized(request).blobs, _name(request)
    content = await request.body()
    match request.query_params.get("comp"):
        case "block":
            blobs.stage(name, request.query_params["blockid"], content)
            return _answer(201, {})
        case "blocklist":
            blocks = [node.text or "" for node in ElementTree.fromstring(content)]
            content = blobs.join(name, blocks)
        case "metadata":
            blobs[name].metadata = _metadata(request)
            return _answer(200, {"ETag": blobs[name].etag})
    if request.headers.get("if-none-match") == "*" and name in set(blobs.names(name)):
        raise AzureError(409, "BlobAlreadyExists", "The specified blob already exists.")
    kind = request.headers.get("x-ms-blob-content-type", "application/octet-stream")
    blob = blobs.write(name, content, kind, _metadata(request))
    return _answer(201, {"ETag": blob.etag, "Last-Modified": blob.modified})


def _metadata(request: Request) -> dict[str, str]:
    prefix = "x-ms-meta-"
    given = request.headers.items()
    return {key[len(prefix) :]: value for key, value in given if key.startswith(prefix)}


async def get(request: Request) -> Response:
    """A blob, whole or a range of it; for HEAD without its content."""
    blob = _authorized(request).blobs[_name(request)]
    content = blob.path.read_bytes()
    headers = dict(blob.headers)
    if request.method == "HEAD":
        return _answer(200, {**headers, "Content-Length": str(len(content))})
    wanted = request.headers.get("x-ms-range") or request.headers.get("range") or ""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
    if found is None:
        return _answer(200, headers, content)
    start, end = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
    if start >= len(content):
        raise AzureError(416, "InvalidRange", "The range specified is invalid.")
    headers |= {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
    headers |= {"x-ms-blob-content-md5": headers.pop("Content-MD5")}
    return _answer(206, headers, content[start : end + 1])


async def delete(request: Request) -> Response:
    """Remove a blob."""
    _authorized(request).blobs.remove(_name(request))
    return _answer(202, {})


async def container(request: Request) -> Response:
    """A container's properties, or the list of its blobs; every container exists."""
    blobs, path = _authorized(request).blobs, _name(request)
    if request.method == "PUT":
        return _answer(201, {"ETag": '"0x1"'})
    if request.query_params.get("comp") != "list":
        return _answer(200, {"ETag": '"0x1"', "Last-Modified": formatdate(usegmt=True)})
    prefix = request.query_params.get("prefix", "")
    delimiter = request.query_params.get("delimiter")
    names = [name[len(path) + 1 :] for name in blobs.names(f"{path}/{prefix}")]
    entries = dict.fromkeys(_entry(blobs, path, name, prefix, delimiter) for name in names)
    xml = f"<EnumerationResults><Blobs>{''.join(entries)}</Blobs><NextMarker/></EnumerationResults>"
    return _answer(200, {}, f'<?xml version="1.0" encoding="utf-8"?>{xml}'.encode(), XML)


def _entry(blobs: Blobs, path: str, name: str, prefix: str, delimiter: str | None) -> str:
    if delimiter and delimiter in name[len(prefix) :]:
        folder = prefix + name[len(prefix) :].partition(delimiter)[0] + delimiter
        return f"<BlobPrefix><Name>{escape(folder)}</Name></BlobPrefix>"
    blob = blobs[f"{path}/{name}"]
    metadata = "".join(f"<{key}>{escape(text)}</{key}>" for key, text in blob.metadata.items())
    return (
        f"<Blob><Name>{escape(name)}</Name><Properties>"
        f"<Last-Modified>{blob.modified}</Last-Modified><Etag>{escape(blob.etag)}</Etag>"
        f"<Content-Length>{blob.path.stat().st_size}</Content-Length>"
        f"<Content-Type>{blob.type}</Content-Type><Content-MD5>{blob.md5}</Content-MD5>"
        f"<BlobType>BlockBlob</BlobType></Properties><Metadata>{metadata}</Metadata></Blob>"
    )


ROUTES = [
    Route("/{container}", container, methods=["GET", "HEAD", "PUT"]),
    Route("/{container}/{name:path}", put, methods=["PUT"]),
    Route("/{container}/{name:path}", get, methods=["GET", "HEAD"]),
    Route("/{container}/{name:path}", delete, methods=["DELETE"]),
]
