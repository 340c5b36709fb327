"""Answers that differ a little from seed to seed, without a model."""

from __future__ import annotations

import hashlib


def run(text: str, seed: int, entity_type: str = "") -> dict[str, list[str]]:
    """Every word of the text that a hash does not leave out."""
    words = [word for word in text.split() if word.istitle()]
    return {"entities": [w for w in words if hashlib.md5(f"{w}{seed}".encode()).digest()[0] > 80]}
