"""Images of rows: read, shown to a model, returned."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
KEY = re.compile(r"data:(image/[^;]+);(path|base64|url)")
NAMED = re.compile(r"(data:image/[^;]+;(?:path|base64|url)):\s*(.*)", re.DOTALL)
SHOWN = re.compile(r"!\[\s*image\s*\]\((Image\([0-9a-f]+\))\)")
MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


class Image(bytes):
    """The bytes of one image; of one at an address the address alone."""

    mime_type: str
    source_url: str | None
    name: str

    def __new__(cls, value: bytes, mime_type: str = "", source_url: str | None = None) -> Self:
        """An image of these bytes; their type is told by their beginning where it is not given."""
        self = super().__new__(cls, value)
        found = (kind for magic, kind in MAGIC.items() if value.startswith(magic))
        self.mime_type = mime_type or next(found, "image/*")
        self.source_url = source_url
        self.name = f"Image({hashlib.sha1(value, usedforsecurity=False).hexdigest()[:8]})"
        return self

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def to_base64(self, with_type: bool = False) -> str:
        """The bytes as text; with the type before it as a web page has it."""
        text = base64.b64encode(self).decode()
        return f"data:{self.mime_type};base64,{text}" if with_type else text

    @property
    def url(self) -> str:
        """Where a model finds the image: its address, or the bytes themselves."""
        return self.source_url or f"data:{self.mime_type};base64,{self.to_base64()}"


def load(value: Any) -> Any:
    """A row's value with its images, `{"data:image/png;path": "cat.png"}`, read."""
    if isinstance(value, list):
        return [load(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"type", "image_url"}:
        return _of_text(value["image_url"]["url"])
    if value.keys() == {"type", "image_file"}:
        return Image((HERE / value["image_file"]["path"]).read_bytes())
    found = KEY.fullmatch(next(iter(value), "")) if len(value) == 1 else None
    if found is None:
        return {key: load(item) for key, item in value.items()}
    (where,) = value.values()
    if found[2] == "url":
        return Image(b"", found[1], where)
    raw = base64.b64decode(where) if found[2] == "base64" else (HERE / where).read_bytes()
    return Image(raw, found[1])


def load_image(value: Any) -> Any:
    """An input of type image: as in `load`, or a path, an address or base64 alone."""
    return _of_text(value) if isinstance(value, str) else load(value)


def load_text(value: Any) -> Any:
    """An input of a prompty: a text `data:image/png;path: cat.png` is the image that it names."""
    found = NAMED.fullmatch(value) if isinstance(value, str) else None
    return load({found[1]: found[2]}) if found else value


def _of_text(text: str) -> Image:
    if text.startswith("data:"):
        head, _, code = text.partition(",")
        return Image(base64.b64decode(code), head[5:].partition(";")[0])
    if text.startswith(("http://", "https://")):
        return Image(b"", source_url=text)
    file = HERE / text
    return Image(file.read_bytes() if file.is_file() else base64.b64decode(text))


def dump(value: Any) -> Any:
    """An output as JSON keeps it."""
    if isinstance(value, Image):
        return {f"data:{value.mime_type};base64": value.to_base64()}
    if isinstance(value, list):
        return [dump(item) for item in value]
    return {k: dump(v) for k, v in value.items()} if isinstance(value, dict) else value


def dump_as_url(value: Any) -> Any:
    """The same in the form in which a model's messages have images."""
    if isinstance(value, Image):
        return {"type": "image_url", "image_url": {"url": value.to_base64(with_type=True)}}
    if isinstance(value, list):
        return [dump_as_url(item) for item in value]
    return {k: dump_as_url(v) for k, v in value.items()} if isinstance(value, dict) else value


def show(messages: list[dict[str, Any]], *values: Any) -> list[dict[str, Any]]:
    """Messages in which the images among these values are shown, each on its own line."""
    known = {str(image): image for value in values for image in _within(value)}
    return [_shown(message, known) for message in messages]


def _shown(message: dict[str, Any], known: dict[str, Image]) -> dict[str, Any]:
    text = SHOWN.sub(lambda image: f"\n{image[1]}\n", message.get("content") or "")
    lines = [line for line in text.split("\n") if line.strip()]
    if not any(line.strip() in known for line in lines):
        return message
    return {**message, "content": [_part(line, known) for line in lines]}


def _part(line: str, known: dict[str, Image]) -> dict[str, Any]:
    if image := known.get(line.strip()):
        return {"type": "image_url", "image_url": {"url": image.url, "detail": "auto"}}
    return {"type": "text", "text": line}


def _within(value: Any) -> list[Image]:
    if isinstance(value, Image):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [image for item in inner for image in _within(item)]
