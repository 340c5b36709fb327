"""Versions of data and models in the workspace: a new one only where the content changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from llmops.assets import Asset, Source
from llmops.azure import workspace
from llmops.package import file_hash

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

HASH = "content_hash"
TRIES = 2
"""How often a version is tried for: somebody else may have taken it in the meantime."""


def data(client: MLClient, source: Source, tags: Mapping[str, str]) -> Asset:
    """The version of a data asset that holds a file; its hash becomes one more tag."""
    from azure.ai.ml.entities import Data

    content_hash = file_hash(source.path)

    def create(version: int) -> Data:
        return Data(
            name=source.name,
            version=str(version),
            description=source.description,
            type="uri_file",
            path=str(source.path),
            tags={HASH: content_hash, **tags},
        )

    return ensure(client.data, source.name, content_hash, create)[0]


def ensure(
    assets: Any,
    name: str,
    content_hash: str,
    create: Callable[[int], Any],
    tries: int = TRIES,
) -> tuple[Asset, Any]:
    """The newest version if it has this content, and what is known of it; else a new one (null)."""
    from azure.core.exceptions import AzureError

    newest, found = _newest(assets, name)
    if found is not None and found.tags.get(HASH) == content_hash:
        return _asset(name, newest, content_hash, created=False), found
    try:
        with workspace.quiet():
            assets.create_or_update(create(newest + 1))
    except AzureError as error:
        if tries == 1 or not workspace.taken(error):
            raise
        return ensure(assets, name, content_hash, create, tries - 1)
    return _asset(name, newest + 1, content_hash, created=True), None


def tagged(client: MLClient, model: str, tag: str) -> set[str]:
    """The values of a tag among all versions of a model, archived ones too."""
    from azure.ai.ml.constants import ListViewType

    versions = client.models.list(name=model, list_view_type=ListViewType.ALL)
    return {str(one.tags[tag]) for one in versions if one.tags.get(tag)}


def _asset(name: str, version: int, content_hash: str, *, created: bool) -> Asset:
    return Asset(name=name, version=str(version), created=created, content_hash=content_hash)


def _newest(assets: Any, name: str) -> tuple[int, Any]:
    """The highest number among an asset's versions, archived ones too, and that version."""
    from azure.ai.ml.constants import ListViewType
    from azure.core.exceptions import ResourceNotFoundError

    try:
        versions = list(assets.list(name=name, list_view_type=ListViewType.ALL))
    except ResourceNotFoundError:
        versions = []
    numbered = {int(v.version): v for v in versions if str(v.version).isdecimal()}
    newest = max(numbered, default=0)
    return newest, numbered.get(newest)
