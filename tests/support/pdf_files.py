"""Small PDFs written by hand, so that a test knows every mark on the page."""

from __future__ import annotations

# Red squares as appearance streams: what a field looks like is stored with it.
_STREAM = "<</Type/XObject/Subtype/Form/BBox[0 0 20 20]/Length 24>>\nstream\n{} rg 0 0 20 20 re f \nendstream\n"
_RED, _WHITE = _STREAM.format("1 0 0"), _STREAM.format("1 1 1")


def pdf(*objects: str, catalog: str = "") -> bytes:
    """A PDF of one page of 200 x 100 points; `objects` are numbered from 10, the page lists them as annotations."""
    numbers = range(10, 10 + len(objects))
    annotations = " ".join(f"{number} 0 R" for number in numbers)
    body = [
        f"1 0 obj<</Type/Catalog/Pages 2 0 R {catalog.format(fields=annotations)}>>endobj",
        "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj",
        f"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 100]/Annots[{annotations}]/Resources<<>>>>endobj",
        f"4 0 obj{_RED}endobj",
        f"5 0 obj{_WHITE}endobj",
        "6 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj",
        *(f"{number} 0 obj{text}endobj" for number, text in zip(numbers, objects, strict=True)),
    ]
    return "\n".join(["%PDF-1.7", *body, "trailer<</Root 1 0 R>>", ""]).encode()


FORM = "/AcroForm<</Fields[{fields}]/DA(/F 12 Tf 0 g)/DR<</Font<</F 6 0 R>>>>{more}>>"


def field(x: int, more: str) -> str:
    """A form field on the square of 20 points at (x, 40)."""
    return f"<</Type/Annot/Subtype/Widget/Rect[{x} 40 {x + 20} 60]/F 4 {more}>>"


def form(*fields: str, more: str = "") -> bytes:
    return pdf(*fields, catalog=FORM.replace("{more}", more))


TEXT = "/FT/Tx/T(t)/V(A)/AP<</N 4 0 R>>"
TICKED = "/FT/Btn/T(b)/V/Yes/AS/Yes/AP<</N<</Yes 4 0 R/Off 5 0 R>>>>"
NOT_TICKED = "/FT/Btn/T(c)/V/Off/AS/Off/AP<</N<</Yes 4 0 R/Off 5 0 R>>>>"
TEXT_WITHOUT_APPEARANCE = "/FT/Tx/T(n)/V(MMM)/DA(/F 12 Tf 0 g)"
