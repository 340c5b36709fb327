"""Comments on a pull request, in GitHub and in Azure Repos, by their REST APIs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import httpx

from llmops.errors import UserError

TRIES, LONGEST_WAIT_S, TIMEOUT_S = 5, 60.0, 30.0
MESSAGE = 200
_IMPOSSIBLE = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, ValueError)


class Refused(Exception):  # noqa: N818  # not a mistake: the token of a fork may only read
    """The token may not do this; the message says why."""


class _Passing(Exception):  # noqa: N818  # a state of the world, not a mistake
    """A fault that may pass, after so many seconds where the service says how many."""

    def __init__(self, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True)
class Comment:
    """A comment; `key` is what its forge finds it by."""

    key: str
    body: str


class Forge(Protocol):
    """The comments of one pull request; `limit` is how many bytes one may have at least."""

    limit: int

    def own(self) -> Iterator[Comment]:
        """Those that the token's owner wrote, oldest first."""

    def create(self, body: str) -> None:
        """Write a new one."""

    def update(self, key: str, body: str) -> None:
        """Replace what one says."""

    def delete(self, key: str) -> None:
        """Remove one."""


def keep_one(forge: Forge, marker: str, body: str) -> str:
    """Leave one comment that has this marker as its first line; returns "created" or "updated".

    After a passing fault it looks again first: a request that got no answer may have acted.

    Raises:
        Refused: the token may not read or write comments here.
        UserError: the service does not answer, or not as it should.
    """
    for attempt in range(TRIES):
        try:
            return _keep_one(forge, marker, f"{marker}\n{body}")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"the service's answer has another form ({error!r}).") from error
        except _Passing as fault:
            problem, pause = fault, 2.0**attempt if fault.seconds is None else fault.seconds
        if attempt == TRIES - 1 or pause > LONGEST_WAIT_S:
            break
        time.sleep(pause)
    raise UserError(f"{problem}. Run the job again, in {pause:.0f} s or later.")


def _keep_one(forge: Forge, marker: str, body: str) -> str:
    found = [one for one in forge.own() if one.body.splitlines()[:1] == [marker]]
    if not found:
        forge.create(body)
        return "created"
    forge.update(found[0].key, body)
    for one in found[1:]:  # two jobs at the same time may have made two
        forge.delete(one.key)
    return "updated"


class GitHub:
    """`api` is an address such as https://api.github.com; `graphql` that of the other API."""

    limit = 65_536

    def __init__(self, api: str, graphql: str, repository: str, number: int, token: str) -> None:
        self._http = _Http(token, {"X-GitHub-Api-Version": "2022-11-28"})
        self._graphql, self._issues = graphql, f"{api}/repos/{repository}/issues"
        self._comments = f"{self._issues}/{number}/comments"

    def own(self) -> Iterator[Comment]:
        """Asks whose token it is first: with a job's own token only GraphQL tells."""
        me = self._me()
        for page in count(1):
            answer = self._http("GET", self._comments, params={"per_page": 100, "page": page})
            for one in answer.json():
                if (one["user"] or {}).get("id") == me:
                    yield Comment(str(one["id"]), one["body"] or "")
            if "next" not in answer.links:
                return

    def _me(self) -> int:
        query = {"query": "query { viewer { databaseId } }"}
        answer = self._http("POST", self._graphql, json=query).json()
        if not (viewer := (answer.get("data") or {}).get("viewer")):
            raise Refused("GitHub does not say whose token this is")
        return int(viewer["databaseId"])

    def create(self, body: str) -> None:
        """Write a new one."""
        self._http("POST", self._comments, json={"body": body})

    def update(self, key: str, body: str) -> None:
        """Replace what one says."""
        self._http("PATCH", f"{self._issues}/comments/{key}", json={"body": body})

    def delete(self, key: str) -> None:
        """Remove one."""
        self._http("DELETE", f"{self._issues}/comments/{key}")


class AzureRepos:
    """`collection` is an address such as https://dev.azure.com/organisation.

    A comment opens a thread without a status, so it holds up no merge: that is the gate's part.
    """

    limit = 150_000

    def __init__(
        self, collection: str, project: str, repository: str, number: int, token: str
    ) -> None:
        self._http = _Http(token, {})
        self._collection, pull = collection, f"{repository}/pullRequests/{number}"
        self._threads = f"{collection}/{quote(project)}/_apis/git/repositories/{pull}/threads"

    def own(self) -> Iterator[Comment]:
        """Each thread's first comment; threads come all at once."""
        data = self._send("GET", f"{self._collection}/_apis/connectionData", "7.0-preview.1").json()
        me = data["authenticatedUser"]["id"]
        for thread in self._send("GET", self._threads).json()["value"]:
            for one in thread["comments"][:1]:
                if one["author"]["id"] == me and not one.get("isDeleted"):
                    yield Comment(f"{thread['id']}/comments/{one['id']}", one.get("content") or "")

    def create(self, body: str) -> None:
        """Write a new one."""
        comment = {"parentCommentId": 0, "commentType": 1, "content": body}
        self._send("POST", self._threads, json={"comments": [comment]})

    def update(self, key: str, body: str) -> None:
        """Replace what one says."""
        self._send("PATCH", f"{self._threads}/{key}", json={"content": body})

    def delete(self, key: str) -> None:
        """Remove one."""
        self._send("DELETE", f"{self._threads}/{key}")

    def _send(self, method: str, url: str, version: str = "7.0", **content: Any) -> httpx.Response:
        return self._http(method, url, params={"api-version": version}, **content)


class _Http:
    """Sends requests with a token, which no message shows."""

    def __init__(self, token: str, headers: Mapping[str, str]) -> None:
        self._token = token
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": "llmops", **headers}

    def __call__(self, method: str, url: str, **content: Any) -> httpx.Response:
        """The answer, JSON or empty.

        Raises:
            _Passing: no answer, too many requests, or a server's error.
            Refused: 403, or 404, which stands for it where the token may not even read.
            UserError: any other answer.
        """
        host = urlsplit(url).netloc
        content = {"headers": self._headers, "timeout": TIMEOUT_S, **content}
        try:
            answer = httpx.request(method, url, **content)
        except _IMPOSSIBLE as error:
            raise UserError(f"{url}: cannot be asked ({type(error).__name__}).") from None
        except httpx.RequestError as error:
            raise _Passing(f"{host} does not answer ({type(error).__name__})") from None
        said, status = self._message(answer), answer.status_code
        seconds = _seconds(answer)
        if status == 429 or status >= 500 or (status == 403 and seconds is not None):
            raise _Passing(f"{host}: status {status}: {said}", seconds)
        if status in (403, 404):
            raise Refused(f"{said} (status {status})")
        if status >= 300 or (answer.content and _json(answer) is None):
            raise UserError(f"{host}: status {status}: {said}. Is the token valid?")
        return answer

    def _message(self, answer: httpx.Response) -> str:
        """The service's own words; no token and no command to a pipeline's agent among them."""
        found = _json(answer)
        words = found.get("message") if isinstance(found, dict) else None
        line = " ".join(str(words or answer.reason_phrase).split()).rstrip(".")
        return line.replace(self._token, "***").replace("##", "#")[:MESSAGE]


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _seconds(answer: httpx.Response) -> float | None:
    """How long the service asks to wait; null where it does not say."""
    asked = answer.headers.get("retry-after")
    if asked is None and answer.headers.get("x-ratelimit-remaining") == "0":
        asked = answer.headers.get("x-ratelimit-reset", "")
        return max(0.0, float(asked) - time.time()) if asked.isdecimal() else None
    if asked is None:
        return None
    try:
        return float(asked) if asked.isdecimal() else _until(asked)
    except ValueError:
        return None


def _until(date: str) -> float:
    return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
