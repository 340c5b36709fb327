"""PDF files for tests: pages of lines, as small as a reader takes them."""

from __future__ import annotations

from collections.abc import Sequence

from write_pdf import assembled


def document(pages: Sequence[str]) -> bytes:
    """A PDF with these pages; a page without text is one like a scan's."""
    font = 3
    kids = [4 + 2 * number for number in range(len(pages))]
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{' '.join(f'{n} 0 R' for n in kids)}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for kid, text in zip(kids, pages, strict=True):
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] "
            f"/Resources << /Font << /F1 {font} 0 R >> >> /Contents {kid + 1} 0 R >>"
        )
        content = _content(text)
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    return assembled([text.encode("cp1252") for text in objects])


def _content(text: str) -> str:
    """The operators that show the lines of a page."""
    if not text:
        return ""
    lines = [
        line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
        for line in text.split("\n")
    ]
    return "BT /F1 12 Tf 14 TL 72 770 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
