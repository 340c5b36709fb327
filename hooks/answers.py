"""The rules for typed answers, as the Jinja filter `checked`.

`cookiecutter.json` sends each answer through it right after its question, so that a bad one is
refused before cookiecutter makes even the folder. A pre_gen_project hook would come later: then
the folder is there already, cookiecutter buries the message under a traceback, and the hook would
need a template tag in a Python file to see the answers.
"""

from __future__ import annotations

import re
from pathlib import Path

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension

# The template's delimiters.
MARK = re.compile(r"<[%#<]|[%#>]>")
OWN_TAG = re.compile(r"<{2}cookiecutter\.[^<>]*>{2}")

ONE_LINE = (
    (r"(?s:.{1,200})", "have 1 to 200 characters"),
    (
        r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\"\\]*",
        "be one line without double quotes and backslashes (it is written into TOML and JSON)",
    ),
    (r"\S(.*\S)?", "neither begin nor end with a space"),
    (rf"(?!.*({MARK.pattern})).*", "not hold the delimiters of the template's tags"),
)
RULES = {
    "project": (
        (r"(?s:.{3,32})", "have 3 to 32 characters (Azure ML names things after it)"),
        (r"(?s:[a-z].*)", "begin with a lower-case letter a-z"),
        (r"[a-z0-9_-]*", "hold only lower-case letters a-z, digits, - and _"),
        (r".*[a-z0-9]", "end with a letter or a digit"),
    ),
    "description": ONE_LINE,
    "owner": ONE_LINE,
}


class Rules(Extension):
    """Makes the filter known to cookiecutter, and keeps tags in answers from being rendered."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.filters["checked"] = checked
        environment.filters["found"] = found

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Refuse a tag in an answer of the command line, which cookiecutter would render.

        Files have a name; what has none is an answer, a path, or one of the template's own tags.
        """
        if name is None and MARK.search(OWN_TAG.sub("", source)):
            raise refusal("an answer", source, ONE_LINE[-1][1])
        return source


def checked(answer: str, question: str) -> str:
    """The answer itself; raises FailedHookException (exit code 1) with the first broken rule."""
    for pattern, rule in RULES[question]:
        if not re.fullmatch(pattern, answer):
            raise refusal(question, answer, rule)
    return answer


def found(answer: str) -> str:
    """The path of a flow as the hook, which runs in another folder, finds it; "" for none.

    Behind a Python file may stand the name of a function, as in `flow.py:run`. Raises
    FailedHookException where nothing is there.
    """
    path, colon, function = answer.strip().partition(".py:")
    place = Path(f"{path}.py" if colon else path).expanduser()
    if path and not place.exists():
        raise refusal("flow", answer, "be the path of a flow, a use case or a repo that is there")
    return f"{place.resolve()}{':' if colon else ''}{function}" if path else ""


def refusal(what: str, answer: str, rule: str) -> FailedHookException:
    return FailedHookException(f"{what}: {answer!r} is refused: it must {rule}.")
