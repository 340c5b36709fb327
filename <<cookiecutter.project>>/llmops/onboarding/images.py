"""Images in rows: a path is written so that it resolves from the flow's folder in the repo."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.onboarding.proposal import Left

KEY = re.compile(r"data:image/[^;]+;path$")
SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".svg"}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)
BLANK = {"data:image/png;base64": PIXEL}
"""A picture of one white pixel, for a row that has none."""

Change = Callable[[str], str]


@dataclass
class Moved:
    """Images that rows name by a path: those of the flow's folder keep it, others come along.

    `beside` are the folders that a path may start from, the data file's first; `folder` is the
    flow's. `extra` holds the images from elsewhere by the path that they get below the flow's
    folder, `left` those that are not taken.
    """

    folder: Path
    beside: tuple[Path, ...]
    extra: dict[str, Path] = field(default_factory=dict)
    left: dict[Path, Left] = field(default_factory=dict)

    def row(self, row: Mapping[str, Any], images: frozenset[str]) -> dict[str, Any]:
        """The row with the paths of its images as they resolve from the flow's folder.

        `images` are the columns that feed an input of the type image.
        """
        return {name: self._value(value, name in images) for name, value in row.items()}

    def _value(self, value: Any, image: bool) -> Any:
        if isinstance(value, str) and image:
            return self._path(value)
        if isinstance(value, list):
            return [self._value(item, image) for item in value]
        if not isinstance(value, Mapping):
            return value
        if isinstance(file := value.get("image_file"), Mapping) and "path" in file:
            return {**value, "image_file": {**file, "path": self._path(str(file["path"]))}}
        return {
            key: self._path(item)
            if KEY.match(key) and isinstance(item, str)
            else self._value(item, image)
            for key, item in value.items()
        }

    def _path(self, text: str) -> str:
        """The path from the flow's folder; a text that names no file there stays as it is."""
        if "://" in text or len(text) > 1024:
            return text
        for base in self.beside:
            path = base / text
            if path.is_file() and path.suffix.lower() in SUFFIXES:
                return self._take(base, path.resolve())
        return text

    def _take(self, base: Path, path: Path) -> str:
        folder = self.folder.resolve()
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
        if not path.is_relative_to(base.resolve()):
            self.left[path] = Left(path, "an image of the data that lies outside of its folder")
            return path.name
        target = f"images/{path.relative_to(base.resolve()).as_posix()}"
        self.extra[target] = path
        return target
