"""An async flex flow that returns a dataclass."""

import asyncio
from dataclasses import dataclass


@dataclass
class Turned:
    text: str
    level: int


class Backwards:
    def __init__(self) -> None:
        self.delay = 0.001

    async def __call__(self, text: str, level: int = 1) -> Turned:
        await asyncio.sleep(self.delay)
        if text == "x":
            raise KeyError("too short to turn")
        return Turned(text[::-1], level)

    def __aggregate__(self, lines: list[Turned]) -> dict[str, float]:
        return {"longest": max(len(line.text) for line in lines), "level": lines[0].level}
