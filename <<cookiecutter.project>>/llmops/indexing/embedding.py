"""Texts to vectors, in batches, by the model that a connection leads to."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llmops.config import Index, Limits
from llmops.connections import Connection
from llmops.errors import UserError
from llmops.indexing.chunks import Vectors
from llmops.recordings import MISSING
from llmops.running.engine import pause_s

if TYPE_CHECKING:
    import httpx

MOST_TEXTS = 64
MOST_WORDS = 16_000
"""A request holds at most so many: the services take 300,000 tokens at once, local servers less."""
ENTRA_ID = "https://cognitiveservices.azure.com/.default"

Keep = Callable[[Sequence[str], Vectors], None]


class NoRecordingError(UserError):
    """The recorded answers lack an embedding."""


async def embed(
    link: Connection, block: Index, limits: Limits, texts: Sequence[str], keep: Keep
) -> None:
    """Embed texts, `limits.concurrency` batches at once; each is handed to `keep` when it is done.

    `keep` gets the texts of a batch and their vectors, (texts, dimensions), rounded to 16 bits.
    A passing fault (429, 5xx, timeout, lost connection) is asked again `limits.retries` times.

    Raises:
        UserError: the endpoint refuses, or answers no vectors of the configured dimensions.
        NoRecordingError: answers are replayed, and a text has none.
    """
    free = asyncio.Semaphore(limits.concurrency)
    try:
        async with _endpoint(link, block, limits) as endpoint, asyncio.TaskGroup() as group:

            async def one(batch: Sequence[str]) -> None:
                async with free:
                    keep(batch, checked(await endpoint.ask(batch), batch, block, endpoint.where))

            for batch in batches(texts):
                group.create_task(one(batch))
    except* UserError as errors:
        raise _first(errors) from None


def batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in order, as many a batch as a request may hold."""
    batch: list[str] = []
    words = 0
    for text in texts:
        count = len(text.split())
        if batch and (len(batch) == MOST_TEXTS or words + count > MOST_WORDS):
            yield batch
            batch, words = [], 0
        batch.append(text)
        words += count
    if batch:
        yield batch


def _first(errors: BaseExceptionGroup[UserError]) -> UserError:
    """The first of several, which mostly say the same."""
    found: Any = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, UserError)
    return found


@asynccontextmanager
async def _endpoint(link: Connection, block: Index, limits: Limits) -> AsyncIterator[_Endpoint]:
    import httpx

    target = link.upstream()
    azure = target.kind == "azure"
    path = f"/openai/deployments/{quote(block.model, safe='')}" if azure else ""
    headers = target.headers | (_signed_in() if link.keyless else {})
    async with httpx.AsyncClient(headers=headers, timeout=limits.timeout_s) as client:
        url = f"{target.base}{path}/embeddings"
        yield _Endpoint(client, url, target.query, link, block, limits)


def _signed_in() -> dict[str, str]:
    """A header for an endpoint that takes no key; raises UserError where nobody is signed in."""
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import DefaultAzureCredential

    try:
        return {"Authorization": f"Bearer {DefaultAzureCredential().get_token(ENTRA_ID).token}"}
    except ClientAuthenticationError:
        raise UserError("Nobody is signed in to Microsoft Entra ID. Run `az login`.") from None


@dataclass(frozen=True)
class _Endpoint:
    client: httpx.AsyncClient
    url: str
    query: dict[str, str]
    link: Connection
    block: Index
    limits: Limits

    @property
    def where(self) -> str:
        """Who is asked, for messages."""
        return f"connection '{self.link.name}': model '{self.block.model}'"

    async def ask(self, batch: Sequence[str]) -> list[Any]:
        """The vectors of some texts, as lists of numbers; see `embed`."""
        for attempt in range(1, self.limits.retries + 2):
            response = await self._post(batch)
            last = attempt > self.limits.retries or not _passes(response)
            if isinstance(response, Exception) and last:
                raise self._no_answer(response, attempt)
            if not isinstance(response, Exception) and response.status_code < 300:
                return self._vectors(response)
            if not isinstance(response, Exception) and last:
                raise self._refused(response, attempt)
            await asyncio.sleep(pause_s(attempt, _wanted_pause(response)))
        raise AssertionError("the last try returns or raises")

    async def _post(self, batch: Sequence[str]) -> httpx.Response | httpx.HTTPError:
        import httpx

        size = {"dimensions": self.block.dimensions} if self.block.dimensions else {}
        body = {"model": self.block.model, "input": list(batch), "encoding_format": "base64"} | size
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                return await self.client.post(
                    self.url, params=self.query, content=content, headers=headers
                )
        except TimeoutError:
            return httpx.ReadTimeout("too slow")
        except httpx.HTTPError as error:
            return error

    def _vectors(self, response: httpx.Response) -> list[Any]:
        try:
            data = sorted(response.json()["data"], key=lambda item: int(item.get("index", 0)))
            return [_numbers(item["embedding"]) for item in data]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.where}: answers, but not with embeddings. Is it such a model?"
            ) from None

    def _no_answer(self, error: Exception, tries: int) -> UserError:
        return UserError(
            f"{self.where}: cannot embed: no answer in {_times(tries)} ({type(error).__name__}, "
            f"limits.timeout_s: {self.limits.timeout_s:g}). Check the address and the network."
        )

    def _refused(self, response: httpx.Response, tries: int) -> UserError:
        code, said = _said(response)
        if code == MISSING:
            return NoRecordingError(f"{self.where}: {said}")
        for secret in self.link.secrets.values():
            said = said.replace(secret.get_secret_value() or "\0", "…")
        status = f"{response.status_code} in {_times(tries)}"
        return UserError(f"{self.where}: cannot embed: {status}: {said}")


def _passes(response: httpx.Response | Exception) -> bool:
    """Whether another try may go better."""
    if isinstance(response, Exception):
        return True
    return response.status_code in (408, 409, 429) or response.status_code > 499


def _wanted_pause(response: httpx.Response | Exception) -> float | None:
    text = "" if isinstance(response, Exception) else response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() else None


def _times(tries: int) -> str:
    return "1 try" if tries == 1 else f"{tries} tries"


def _said(response: httpx.Response) -> tuple[str, str]:
    """The code and the words of a refusal."""
    try:
        error = response.json()["error"]
        return str(error.get("code") or ""), " ".join(str(error.get("message")).split())[:400]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", " ".join(response.text.split())[:200]


def _numbers(embedding: Any) -> Any:
    """A vector that came as a list, or as bytes in base64."""
    import numpy

    if isinstance(embedding, str):
        return numpy.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    return embedding


def checked(found: Sequence[Any], batch: Sequence[str], block: Index, where: str) -> Vectors:
    """The vectors of a batch, of length 1; raises UserError where they are not what was asked."""
    import numpy

    try:
        vectors = numpy.asarray(found, dtype=numpy.float32)
        whole = bool(vectors.ndim == 2 and len(vectors) == len(batch) and vectors.shape[1] > 0)
    except (TypeError, ValueError):
        whole = False
    if not whole or not numpy.isfinite(vectors).all():
        raise UserError(f"{where}: answers {len(found)} vectors, not {len(batch)} of one length.")
    if block.dimensions and vectors.shape[1] != block.dimensions:
        raise UserError(
            f"{where}: answers vectors of {vectors.shape[1]} dimensions, but experiment.yaml: "
            f"index.dimensions says {block.dimensions}. Write {vectors.shape[1]}, or take a model "
            "whose dimensions can be chosen."
        )
    # Cosine is all that counts, and 16 bits hold a vector of length 1 with 3 digits.
    lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / numpy.where(lengths > 0, lengths, 1)).astype(numpy.float16)
