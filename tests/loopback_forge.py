"""GitHub's and Azure DevOps' comments on pull requests, on loopback: what `make comment` asks for.

    with Forge() as forge:
        forge.url, forge.comments[7], forge.fail({"status": 429, "retry_after": 0, "times": 2})

The rules are those of the public documentation: whose token may write, who may edit, pages of at
most 100, the longest body, the version that a request must name. Tokens are in TOKENS. Comments
have ids in the order in which they came; a pull request that is not in `comments` does not exist.

Faults apply to the next requests, in order, optionally only to a `method` and to a `path` that ends
so; each once, or as many `times`:

    {"status": 500}   {"status": 403, "retry_after": 0}   {"drop": "before"}   {"drop": "after"}

"after" does what was asked for and then gives no answer.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

Json = dict[str, Any]

PROJECT, REPOSITORY = "The Project", "11111111-2222-3333-4444-555555555555"
GITHUB_BODY, AZURE_BODY, PAGE, MOST = 65_536, 150_000, 30, 100


@dataclass(frozen=True)
class Owner:
    """Whose token it is, and what it may do."""

    id: int
    login: str
    writes: bool = True
    reads: bool = True

    @property
    def guid(self) -> str:
        """The owner's id in Azure DevOps."""
        return f"00000000-0000-0000-0000-{self.id:012}"


BOT, PERSON, STRANGER = Owner(7, "github-actions[bot]"), Owner(8, "ada"), Owner(9, "eve")
TOKENS = {
    "secret-of-the-bot": BOT,
    "secret-of-ada": PERSON,
    "secret-of-a-fork": Owner(7, "github-actions[bot]", writes=False),
    "secret-of-nobody": Owner(7, "github-actions[bot]", writes=False, reads=False),
}


@dataclass
class Written:
    """One comment."""

    id: int
    owner: Owner
    body: str


@dataclass
class Forge:
    """The services and what they hold, for a `with` block; `asked` are the requests so far."""

    comments: dict[int, list[Written]] = field(default_factory=lambda: {7: []})
    asked: list[str] = field(default_factory=list)
    faults: list[Json] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ids = itertools.count(1)
        config = uvicorn.Config(
            self._application(), lifespan="off", ws="none", log_config=None, port=0
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            threading.Event().wait(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)

    def say(self, owner: Owner, body: str, number: int = 7) -> Written:
        """Somebody comments."""
        written = Written(next(self._ids), owner, body)
        self.comments[number].append(written)
        return written

    def fail(self, *faults: Json) -> None:
        """The next requests go wrong so."""
        self.faults = [dict(fault) for fault in faults]

    def of(self, owner: Owner, number: int = 7) -> list[str]:
        """What somebody's comments say."""
        return [one.body for one in self.comments[number] if one.owner.id == owner.id]

    # --- what both have in common ----------------------------------------------------------------

    def _application(self) -> Callable[..., Awaitable[None]]:
        issues = "/api/v3/repos/ada/cases/issues"
        pull = f"/org/{{project}}/_apis/git/repositories/{REPOSITORY}/pullRequests/{{number:int}}"
        routes = {
            ("/api/v3/user", "GET"): self._user,
            ("/api/graphql", "POST"): self._graphql,
            (f"{issues}/{{number:int}}/comments", "GET"): self._github_list,
            (f"{issues}/{{number:int}}/comments", "POST"): self._github_create,
            (f"{issues}/comments/{{id:int}}", "PATCH"): self._github_change,
            (f"{issues}/comments/{{id:int}}", "DELETE"): self._github_change,
            ("/org/_apis/connectionData", "GET"): self._azure_me,
            (f"{pull}/threads", "GET"): self._azure_list,
            (f"{pull}/threads", "POST"): self._azure_create,
            (f"{pull}/threads/{{id:int}}/comments/1", "PATCH"): self._azure_change,
            (f"{pull}/threads/{{id:int}}/comments/1", "DELETE"): self._azure_change,
        }
        return Starlette(
            routes=[
                Route(path, self._guarded(answer), methods=[method])
                for (path, method), answer in routes.items()
            ]
        )

    def _guarded(self, answer: Callable[[Request, Owner, Json], Response]) -> Any:
        async def guarded(request: Request) -> Response:
            self.asked.append(f"{request.method} {request.url.path}")
            fault = self._due(request)
            if "status" in fault:
                after = fault.get("retry_after")
                headers = {} if after is None else {"retry-after": str(after)}
                message = {"message": fault.get("message", "told to")}
                return JSONResponse(message, fault["status"], headers)
            if fault.get("drop") == "before":
                return _Dropped()
            azure = request.url.path.startswith("/org/")
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            owner = TOKENS.get(token) if scheme == "Bearer" else None
            if owner is None and azure:
                return HTMLResponse("<html>Sign in</html>", 203)
            if owner is None:
                return JSONResponse({"message": f"Bad credentials: {token}"}, 401)
            said = await request.body()
            found = answer(request, owner, await request.json() if said else {})
            return _Dropped() if fault.get("drop") == "after" else found

        return guarded

    def _due(self, request: Request) -> Json:
        for fault in self.faults:
            right = fault.get("method", request.method) == request.method
            right = right and request.url.path.endswith(fault.get("path", ""))
            if right and fault.setdefault("times", 1) > 0:
                fault["times"] -= 1
                return fault
        return {}

    def _one(self, key: int) -> tuple[list[Written], Written] | None:
        every = ((listed, one) for listed in self.comments.values() for one in listed)
        return next(((listed, one) for listed, one in every if one.id == key), None)

    # --- GitHub ----------------------------------------------------------------------------------

    def _user(self, request: Request, owner: Owner, body: Json) -> Response:
        return JSONResponse({"message": "Resource not accessible by integration"}, 403)

    def _graphql(self, request: Request, owner: Owner, body: Json) -> Response:
        assert "viewer" in body["query"]
        return JSONResponse({"data": {"viewer": {"databaseId": owner.id}}})

    def _github_list(self, request: Request, owner: Owner, body: Json) -> Response:
        listed = self.comments.get(request.path_params["number"])
        if listed is None or not owner.reads:
            return JSONResponse({"message": "Not Found"}, 404)
        size = min(int(request.query_params.get("per_page", PAGE)), MOST)
        page = int(request.query_params.get("page", 1))
        after = request.url.include_query_params(page=page + 1)
        headers = {"link": f'<{after}>; rel="next"'} if page * size < len(listed) else {}
        shown = listed[(page - 1) * size : page * size]
        return JSONResponse([_github(one) for one in shown], headers=headers)

    def _github_create(self, request: Request, owner: Owner, body: Json) -> Response:
        if refusal := _github_refusal(owner, body):
            return refusal
        written = self.say(owner, body["body"], request.path_params["number"])
        return JSONResponse(_github(written), 201)

    def _github_change(self, request: Request, owner: Owner, body: Json) -> Response:
        """Who may write may change everybody's comments."""
        found = self._one(request.path_params["id"])
        if not found:
            return JSONResponse({"message": "Not Found"}, 404)
        if refusal := _github_refusal(owner, body):
            return refusal
        listed, one = found
        if request.method == "DELETE":
            listed.remove(one)
            return Response(status_code=204)
        one.body = body["body"]
        return JSONResponse(_github(one))

    # --- Azure DevOps ----------------------------------------------------------------------------

    def _azure_me(self, request: Request, owner: Owner, body: Json) -> Response:
        if "preview" not in request.query_params.get("api-version", ""):
            return JSONResponse({"message": "The version must be a preview."}, 400)
        return JSONResponse({"authenticatedUser": {"id": owner.guid}})

    def _azure_list(self, request: Request, owner: Owner, body: Json) -> Response:
        number = request.path_params["number"]
        if refusal := self._azure_refusal(request, owner.reads):
            return refusal
        return JSONResponse({"value": [_azure(one) for one in self.comments[number]]})

    def _azure_create(self, request: Request, owner: Owner, body: Json) -> Response:
        if refusal := self._azure_refusal(request, owner.writes):
            return refusal
        (comment,) = body["comments"]
        if len(comment["content"]) > AZURE_BODY:
            return JSONResponse({"message": "A discussion comment cannot be longer."}, 400)
        return JSONResponse(
            _azure(self.say(owner, comment["content"], request.path_params["number"]))
        )

    def _azure_change(self, request: Request, owner: Owner, body: Json) -> Response:
        """Only the author may change a comment."""
        found = self._one(request.path_params["id"])
        mine = found is not None and found[1].owner.id == owner.id
        if refusal := self._azure_refusal(request, owner.writes and mine):
            return refusal
        assert found
        if request.method == "DELETE":
            found[0].remove(found[1])
        else:
            found[1].body = body["content"]
        return Response(status_code=200)

    def _azure_refusal(self, request: Request, allowed: bool) -> Response | None:
        if not request.query_params.get("api-version"):
            return JSONResponse({"message": "No api-version was supplied."}, 400)
        known = request.path_params["project"] == PROJECT
        if not known or request.path_params["number"] not in self.comments:
            return JSONResponse({"message": "TF401180: not found"}, 404)
        message = "TF401027: You need the Git 'PullRequestContribute' permission"
        return None if allowed else JSONResponse({"message": message}, 403)


class _Dropped(Response):
    """No answer: the connection ends before the body that was promised."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"1000")]
        with suppress(asyncio.CancelledError):
            await send({"type": "http.response.start", "status": 200, "headers": headers})


def _github(one: Written) -> Json:
    return {
        "id": one.id,
        "user": {"id": one.owner.id, "login": one.owner.login},
        "body": one.body.replace("\n", "\r\n"),  # GitHub may hand lines back so
    }


def _github_refusal(owner: Owner, body: Json) -> Response | None:
    if not owner.writes:
        return JSONResponse({"message": "Resource not accessible by integration"}, 403)
    if len(body.get("body", "")) > GITHUB_BODY:
        return JSONResponse({"message": "Validation Failed: body is too long"}, 422)
    return None


def _azure(one: Written) -> Json:
    comment = {"id": 1, "content": one.body, "author": {"id": one.owner.guid}, "isDeleted": False}
    return {"id": one.id, "isDeleted": False, "comments": [comment]}
