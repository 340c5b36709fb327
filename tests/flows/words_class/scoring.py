"""A flex flow of one class that also aggregates."""

from __future__ import annotations

from typing import Any


class Scoring:
    def __init__(self, bonus: float = 0.25) -> None:
        self.bonus = bonus

    def __call__(self, text: str, level: int) -> dict[str, Any]:
        if text.startswith("Broken"):
            raise RuntimeError("this one is broken")
        return {"output": level + self.bonus, "text": text}

    def __aggregate__(self, lines: list[Any]) -> dict[str, float]:
        levels = [line.output for line in lines]
        return {"level": sum(levels) / len(levels), "lines": len(lines)}
