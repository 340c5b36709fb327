"""The passages of the documents that fit a question."""

import threading
from typing import Any, Union

from asking import azure_client as init_azure_openai_client
from asking import openai_client as init_openai_client
from connections import AzureOpenAIConnection, OpenAIConnection
from search import manifest, search

# Prompt flow looks at the annotation itself to see a connection in it, and knows only this form.
Connection = Union[AzureOpenAIConnection, OpenAIConnection]  # noqa: UP007

_clients: dict[tuple[str | None, str | None], Any] = {}
_making = threading.Lock()


def retrieve(question: str, connection: Connection, mode: str, top_k: int) -> list[dict[str, Any]]:
    """The `top_k` best passages, best first: id, source, page, label and text.

    `mode` is vector, keyword or hybrid. The label is what an answer cites: the source, and the page
    where there are pages. The text is one line, so that a document cannot begin a message of its
    own in the prompt.
    """
    vector = None if mode == "keyword" else embedded(question, connection)
    return [
        {
            "id": found["id"],
            "source": found["source"],
            "page": found["page"],
            "label": label(found["source"], found["page"]),
            "text": " ".join(f"{found['heading']}. {found['text']}".split()).removeprefix(". "),
        }
        for found in search(question, vector, mode=mode, top_k=top_k)
    ]


def label(source: str, page: int | None) -> str:
    """How a passage is cited."""
    return source if page is None else f"{source} p. {page}"


def embedded(question: str, connection: Connection) -> list[float]:
    """The question's embedding, by the model and in the dimensions of the index."""
    embedding = manifest()["embedding"]
    size = {"dimensions": embedding["dimensions"]} if embedding["chosen"] else {}
    answer = _client(connection).embeddings.create(model=embedding["model"], input=question, **size)
    vector: list[float] = answer.data[0].embedding
    return vector


def _client(connection: Connection) -> Any:
    """One client for each endpoint: it keeps its connections open."""
    azure = isinstance(connection, AzureOpenAIConnection)
    key = (connection.api_base if azure else connection.base_url, connection.api_key)
    with _making:
        if key not in _clients:
            make = init_azure_openai_client if azure else init_openai_client
            _clients[key] = make(connection)
        return _clients[key]
