"""What a query finds in an index of Azure AI Search; sources as in `search.py`.

Words are those that \\w+ finds: the analyzers of the real service know languages.
"""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Iterable

from .errors import AzureError, Json

Fields = dict[str, Json]
Ranked = list[tuple[float, Json]]
PARAMETERS = {
    "search", "queryType", "searchMode", "searchFields", "select", "top", "skip", "count",
    "filter", "orderby", "vectorQueries",
}  # fmt: skip
PAGE = 1000
VECTOR = "Collection(Edm.Single)"
_FILTER = re.compile(r"(\w+) eq '([^']*)'|search\.in\((\w+), '([^']*)'\)")


def bad(message: str, code: str = "InvalidRequestParameter") -> AzureError:
    """A request that the service does not take."""
    return AzureError(400, code, message)


def check_length(name: str, expected: int, given: int) -> None:
    """AzureError 400 unless a vector has the length of its field."""
    if expected != given:
        raise bad(
            f"There's a mismatch in vector dimensions. The vector field '{name}', with dimension "
            f"of '{expected}', expects a length of '{expected}'. However, the provided vector has "
            f"a length of '{given}'."
        )


def answer(fields: Fields, documents: list[Json], body: Json) -> Json:
    """The documents that fit words, vectors or both, the best first."""
    if unknown := sorted(set(body) - PARAMETERS):
        raise bad(f"The parameter '{unknown[0]}' is not known.")
    documents = _filtered(fields, body, documents)
    lists = [_by_vector(fields, one, documents) for one in body.get("vectorQueries") or ()]
    words = body.get("search")
    if words not in (None, "", "*"):
        names = _names(body, "searchFields") or [n for n, f in fields.items() if f["searchable"]]
        lists.append(_by_words(fields, str(words), names, documents))
    ranked = _fused(lists) if lists else [(1.0, document) for document in documents]
    if order := body.get("orderby"):
        ranked.sort(key=lambda pair: str(pair[1][_sortable(fields, order)]))
    top, skip = int(body.get("top", 50)), int(body.get("skip", 0))
    shown = _names(body, "select") or [n for n, f in fields.items() if f.get("retrievable", True)]
    found = [
        {"@search.score": score, **{name: document[name] for name in shown}}
        for score, document in ranked[skip : skip + min(top, PAGE)]
    ]
    return {"value": found} | ({"@odata.count": len(ranked)} if body.get("count") else {})


def _names(body: Json, key: str) -> list[str]:
    return [name for name in str(body.get(key) or "").split(",") if name]


def _filtered(fields: Fields, body: Json, documents: list[Json]) -> list[Json]:
    if not (wanted := body.get("filter")):
        return documents
    found = _FILTER.fullmatch(wanted)
    name = (found[1] or found[3]) if found else ""
    if not found or not fields.get(name, {}).get("filterable"):
        raise bad(f"Invalid expression: '{wanted}'.", "InvalidFilter")
    allowed = {found[2]} if found[1] else set(found[4].split(","))
    return [d for d in documents if d[name] in allowed]


def _sortable(fields: Fields, order: str) -> str:
    if not fields.get(order, {}).get("sortable"):
        raise bad(f"'{order}' cannot be used in orderby.")
    return order


def _best(pairs: Iterable[tuple[float, Json]]) -> Ranked:
    return sorted(pairs, key=lambda pair: -pair[0])


def _by_vector(fields: Fields, wanted: Json, documents: list[Json]) -> Ranked:
    name, vector = str(wanted["fields"]), [float(x) for x in wanted["vector"]]
    if wanted.get("kind") != "vector" or fields.get(name, {}).get("type") != VECTOR:
        raise bad(f"'{name}' is not a vector field.", "InvalidVectorQuery")
    check_length(name, fields[name]["dimensions"], len(vector))
    scored = ((1 / (2 - _cosine(vector, d[name])), d) for d in documents if d[name])
    return _best(scored)[: int(wanted.get("k", 50))]


def _cosine(one: list[float], other: list[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(map(operator.mul, one, other)) / lengths if lengths else 0.0


def _by_words(fields: Fields, text: str, names: list[str], documents: list[Json]) -> Ranked:
    """BM25 with the usual constants, over the fields together."""
    for name in names:
        if not fields.get(name, {}).get("searchable"):
            raise bad(f"The field '{name}' is not searchable.")
    strings = [n for n in names if fields[n]["type"] == "Edm.String"]
    counts = [Counter(_words(" ".join(str(d[n] or "") for n in strings))) for d in documents]
    usual = sum(c.total() for c in counts) / max(1, len(counts)) or 1.0
    scores = [0.0] * len(documents)
    for word in set(_words(text)):
        having = sum(word in c for c in counts)
        rarity = math.log(1 + (len(counts) - having + 0.5) / (having + 0.5))
        for at, c in enumerate(counts):
            weight = c[word] + 1.2 * (0.25 + 0.75 * c.total() / usual)
            scores[at] += rarity * c[word] * 2.2 / weight if c[word] else 0.0
    pairs = zip(scores, documents, strict=True)
    return _best((score, document) for score, document in pairs if score)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _fused(lists: list[Ranked]) -> Ranked:
    if len(lists) == 1:
        return lists[0]
    scores: dict[int, float] = {}
    documents: dict[int, Json] = {}
    for ranked in lists:
        for rank, (_, document) in enumerate(ranked, 1):
            documents[id(document)] = document
            scores[id(document)] = scores.get(id(document), 0.0) + 1 / (60 + rank)
    return _best((score, documents[key]) for key, score in scores.items())
