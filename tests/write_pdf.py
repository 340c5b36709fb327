"""Make the PDF documents of the example question_answering from their texts in tests/documents/.

    python tests/write_pdf.py

Plain pages of A4 in two standard fonts, compressed, without a date: the same text gives the same
bytes. `# ` begins a title, `## ` a heading, `=== page` a new page.
"""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TEXTS = TESTS / "documents"
EXAMPLE = TESTS.parent / "<<cookiecutter.project>>" / "examples" / "question_answering"

FONTS = {"F1": "Times-Roman", "F2": "Times-Bold"}
BODY, HEADING, TITLE = ("F1", 11, 15, 88), ("F2", 13, 26, 70), ("F2", 17, 30, 60)
"""Font, size and leading in points, and how many characters fit into a line."""


def main() -> None:
    """Write each text as a PDF of the same name."""
    for text in sorted(TEXTS.glob("*.txt")):
        target = EXAMPLE / "data" / "documents" / f"{text.stem}.pdf"
        target.write_bytes(pdf(text.read_text(encoding="utf-8")))
        print(target.name)


def pdf(text: str) -> bytes:
    """The text as a PDF file; a page whose text is too long runs over its foot."""
    pages = [page(part) for part in text.split("=== page\n")]
    first = 3 + len(FONTS)
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(pages)))
    fonts = " ".join(f"/{name} {3 + number} 0 R" for number, name in enumerate(FONTS))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>".encode(),
        *(
            f"<</Type/Font/Subtype/Type1/BaseFont/{font}/Encoding/WinAnsiEncoding>>".encode()
            for font in FONTS.values()
        ),
    ]
    for number, content in enumerate(pages):
        objects += [
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents {first + 2 * number + 1} 0 R"
            f"/Resources<</Font<<{fonts}>>>>>>".encode(),
            content,
        ]
    return assembled(objects)


def page(text: str) -> bytes:
    """The content of a page: one line of text after the other, from the top."""
    drawn = ["BT 62 790 Td"]
    for (font, size, leading, _), line in lines(text):
        escaped = line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        drawn.append(f"/{font} {size} Tf 0 {-leading} Td ({escaped}) Tj")
    content = zlib.compress("\n".join([*drawn, "ET"]).encode("cp1252"), 9)
    return (
        f"<</Filter/FlateDecode/Length {len(content)}>>\nstream\n".encode()
        + content
        + b"\nendstream"
    )


def lines(text: str) -> Iterator[tuple[tuple[str, int, int, int], str]]:
    """Each printed line and its style."""
    for paragraph in filter(None, map(str.strip, text.splitlines())):
        style = TITLE if paragraph.startswith("# ") else HEADING
        style = style if paragraph.startswith("#") else BODY
        words = paragraph.lstrip("# ")
        yield from (
            (style, line) for line in textwrap.wrap(words, style[3], break_on_hyphens=False)
        )
        if style is BODY:
            yield BODY, ""


def assembled(objects: list[bytes]) -> bytes:
    """A PDF file of these objects, numbered from 1, the catalogue first."""
    file = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(file))
        file += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    head = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n"
    return file + f"{head}<</Size {size}/Root 1 0 R>>\nstartxref\n{len(file)}\n%%EOF\n".encode()


if __name__ == "__main__":
    main()
