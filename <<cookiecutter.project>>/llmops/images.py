"""Files of images that the rows of a dataset name, as prompt flow writes them.

`{"data:image/png;path": "cat.png"}`, or with `message_format: openai-vision`
`{"type": "image_file", "image_file": {"path": "cat.png"}}`, anywhere within a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_BASIC = re.compile(r"data:image/.*;path")
_VISION = "image_file"


def may_have(line: bytes) -> bool:
    """Whether a line of JSON is worth a closer look."""
    return b";path" in line or _VISION.encode() in line


def files(value: Any) -> Iterator[str]:
    """The paths of the images in a value, as they stand there."""
    found: list[str] = []

    def keep(path: str) -> str:
        found.append(path)
        return path

    _changed(value, keep)
    yield from found


def located(value: Any, places: Sequence[str]) -> Any:
    """The value with each image's path made absolute that is a file in one of these folders.

    The first folder that has the file counts; a path that none of them has stays as it is.
    """

    def find(path: str) -> str:
        candidates = (Path(place, path) for place in places)
        return next((str(file) for file in candidates if file.is_file()), path)

    return _changed(value, find)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    if not isinstance(value, dict):
        return value
    inner = value.get(_VISION)
    if value.get("type") == _VISION and isinstance(inner, dict) and "path" in inner:
        return {**value, _VISION: {**inner, "path": change(str(inner["path"]))}}
    return {
        key: change(item)
        if isinstance(item, str) and _BASIC.fullmatch(str(key))
        else _changed(item, change)
        for key, item in value.items()
    }
