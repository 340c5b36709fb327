"""A flex flow of a class that aggregates: prompt flow gives it lines with attributes."""

from typing import Any


class Scoring:
    def __init__(self, bonus: float) -> None:
        self.bonus = bonus

    def __call__(self, text: str, level: int):  # type: ignore[no-untyped-def]
        if text.startswith("Broken"):
            raise RuntimeError("this one is broken")
        return {"output": level + self.bonus, "text": text}

    def __aggregate__(self, lines: list[Any]) -> dict[str, float]:
        levels = [line.output + len(line["text"]) for line in lines]
        mean = sum(levels) / len(levels)
        return {"level": mean, "lines": len(lines), "extra": len(lines[-1]) - 2}
