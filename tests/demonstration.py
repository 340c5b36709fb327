"""docs/verdict.md: three pull requests on the named-entity example, and what a reviewer sees.

    python tests/demonstration.py            prints the page
    python tests/demonstration.py --picture  renders the comments as docs/verdict.png

Nothing in it is written by hand but the changes, and the section on judges: each change is
committed to a repository of its own, and `make compare BASE=main` says what it says, from recorded
answers.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from test_compare import commit, git
from usecase import example

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parent / "docs" / "verdict.png"
TERSE, RULES = "flows/standard/ner_terse.jinja2", "flows/standard/ner_rules.jinja2"
CLEANSING = "flows/standard/cleansing.py"
STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 24px; width: 860px; color: #1f2328 }
article { border: 1px solid #d1d9e0; border-radius: 6px; padding: 8px 16px; margin-bottom: 20px }
h2 { font-size: 20px; border-bottom: 1px solid #d1d9e0; padding-bottom: 6px; margin: 8px 0 }
table { border-collapse: collapse; margin: 8px 0 }
td, th { border: 1px solid #d1d9e0; padding: 4px 10px }
code { background: #eff1f3; border-radius: 4px; padding: 1px 4px; font-size: 12px }
h1 { font-size: 15px; margin: 0 0 6px; color: #59636e }
"""


@dataclass(frozen=True)
class Pull:
    """A pull request and its outcome."""

    title: str
    diff: str
    code: int
    comment: str


def pulls(place: Path) -> Iterator[Pull]:
    """The three, each against the main that the ones before have left."""
    use = example(place)
    git(use, "init", "--quiet", "--initial-branch=main")
    use.write(".gitignore", "runs/\nreports/\n")
    commit(use)
    terse, rules = ((use.folder / name).read_text() for name in (TERSE, RULES))
    cleansing = (use.folder / CLEANSING).read_text()
    named = cleansing.replace("distinct", "kept")
    changes: list[tuple[str, Callable[[], object]]] = [
        ("Spell out the rules in the prompt", lambda: use.write(TERSE, rules)),
        ("Shorten the prompt again", lambda: use.write(TERSE, terse)),
        ("Rename a variable", lambda: use.write(CLEANSING, named)),
    ]
    for title, change in changes:
        change()
        diff = git(use, "diff", "--unified=1")
        outcome = use.run("compare", BASE="main", VARIANTS="default")
        comment = (use.folder / "reports" / "summary.md").read_text()
        yield Pull(title, diff, outcome.code, comment)
        if outcome.code == 0:
            commit(use)
        else:
            git(use, "checkout", "--quiet", ".")


def page(found: list[Pull]) -> str:
    """The page, in Markdown."""
    parts = [INTRO]
    for number, pull in enumerate(found, start=1):
        top = pull.comment.partition("<details>")[0].strip()
        quoted = "\n".join(f"> {line}".rstrip() for line in top.splitlines())
        parts.append(
            f"## {number}. {pull.title}: exit code {pull.code}\n\n"
            f"```diff\n{pull.diff}\n```\n\n{quoted}"
        )
    return "\n\n".join([*parts, JUDGES])


INTRO = """# Three pull requests, three verdicts

The named-entity example in a repository of its own, offline, from recorded answers: a pull
request that improves the prompt, one that worsens it, one that changes nothing. Each ran
`make compare BASE=main VARIANTS=default`; below is the comment that `make comment` puts on the pull
request, as far as it is not folded.
`python tests/demonstration.py` writes this page anew.

![The three comments](verdict.png)"""


JUDGES = """## Judges

Where an evaluator's score is a model's opinion, the verdict is as good as that opinion. An
evaluator with a block `judge:` shows it: its flow also runs over rows that people scored, as one
more run of the experiment (stored, replayed, recorded and counted like any other), and the report
says how far both agree.

```yaml
evaluators:
  - name: groundedness
    flow: flows/groundedness
    datasets: [...]
    judge:
      rubric: flows/groundedness/rubric.md        # what it goes by; the report shows it
      labels: data/judge_labels.jsonl             # rows that people scored
      mappings: {answer: "${data.answer}", passages: "${data.passages}"}
      scores: {groundedness: "${data.people}"}    # output of the flow: column of people's score
      min_agreement: 0.6                          # kappa; this is the default
```

- **Agreement** is Cohen's kappa: 1 where all rows are equal, 0 where they are as near as by chance.
  Numbers are weighted by the square of their difference (5 for a 1 counts sixteen times as much as
  5 for a 4); labels and true/false are the same or not. The scores of a column are of one kind.
- **Beside it**: its 95 % interval (rows drawn as for any metric), the share of equal rows, for
  numbers the bias (how much higher the judge scores on average), a table of people's scores by the
  judge's, and the rows on which they differ with the judge's `reason`, where it gives one. A row
  that the judge gave no score does not count for kappa; how many these are is told.
- **Below `min_agreement`** the judge is flagged: in the report, `summary.md`, what is printed, and
  at registration and approval. A gate check on its metrics (`min`, `max`, `max_drop`) is then
  inconclusive, whatever the value: "the judge disagrees with people: kappa 0.31, wanted 0.60, on 18
  labelled rows". A metric named like a score goes by that score, any other by the worst of the
  judge's. `coverage` is judged as ever, and a metric without a value fails.
- **Unsure** is a judge whose interval holds `min_agreement`: it says so and lets the gate decide;
  more labelled rows may tell.
- **No kappa** is there with fewer than two scored rows, and where people and judge gave every row
  the same score: chance alone would agree as much. Such a judge is flagged too: nobody knows.
- `make compare` measures the judge as it is now, not the base's. `make gate` takes the
  `min_agreement` of now. With TARGET=azure and azure-pipeline the labelled rows are judged on the
  machine of the task, by its own connections or recordings (the note on the answers says which).
  Who changes the labels or the judge's flow before `make register` runs `make experiment` again.
"""


def picture(found: list[Pull]) -> None:
    """Draw the comments as a forge would."""
    from markdown_it import MarkdownIt
    from playwright.sync_api import sync_playwright

    render = MarkdownIt("commonmark").enable("table").render
    articles = (f"<h1>{pull.title}</h1><article>{render(pull.comment)}</article>" for pull in found)
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"))
        view = browser.new_page(viewport={"width": 920, "height": 600})
        view.set_content(f"<style>{STYLE}</style>{''.join(articles)}")
        view.screenshot(path=PICTURE, full_page=True)
        browser.close()


def main() -> None:
    """Print the page, or draw it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = list(pulls(Path(place)))
    if options.picture:
        picture(found)
    else:
        print(page(found), end="")


if __name__ == "__main__":
    main()
