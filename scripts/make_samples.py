"""Draw the two sample images that ship with the package.

    python scripts/make_samples.py [page] [screen]

The page needs Pillow alone. The screen is scripts/screen.html, photographed by a headless
Chromium, which must be on the PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "src" / "pixelprune" / "images" / "samples"
WIDTH, HEIGHT, MARGIN, GUTTER = 1191, 1684, 108, 44  # A4 at 144 dpi
COLUMN = (WIDTH - 2 * MARGIN - GUTTER) // 2
BODY, LEADING = 20, 31
INK, GREY, BLUE, AMBER = "#1b1b1f", "#6a6a72", "#2f5f9e", "#d08a2b"

TITLE = "How Much of a Page Is Paper?"
BYLINE = "A field note on margins, gutters and the blank space between lines"
ABSTRACT = (
    "We scanned the outgoing mail of a small office for one month and counted, square by square, "
    "how much of each sheet carried ink. Nearly three sheets in four were more than half empty. Letters "
    "were the emptiest, invoices came next, and only the printed price list used the whole sheet."
)
SECTIONS = [
    (
        "1  Why count squares",
        "A reader skips over empty paper without noticing it. A scanner does not: every square of "
        "the sheet is measured, stored and sent with the same care, whether or not there is a word "
        "on it. The cost of a page is therefore set by its format and not by what it says. We "
        "wanted to know how large the difference is for ordinary papers, the kind that a clerk "
        "files ten times a day and that nobody would call sparse.",
    ),
    (
        "2  What we did",
        "Each sheet was divided into squares of five millimetres. A square counted as blank if "
        "nothing was printed or written in it, and as a repeat if it looked exactly like the square "
        "to its left or the one above. Rules of tables and tinted panels make many repeats: they are "
        "not blank, and yet they tell us nothing that the neighbouring square has not told already.",
    ),
    (
        "3  What we found",
        "Table 1 gives the shares. Blank squares alone explain most of the saving; repeats add "
        "up to a fifth, most of it in forms. No sheet was full. The price list comes closest, "
        "with small type in four columns, but even there the gutters and the foot of the page are "
        "white.",
    ),
    (
        "4  What follows",
        "Whoever pays by the square should look at the squares first. A rule as plain as ours, "
        "which only asks whether a square equals a neighbour, already sets aside half of the work, "
        "and puts nothing at risk: what it sets aside can be drawn again from what it keeps.",
    ),
    (
        "5  Limits",
        "We looked at printed matter only. Handwriting, stamps and the grain of photographs leave "
        "few squares equal, and a sheet that was copied twice has specks where it had none before. "
        "For such sheets one would have to say how much two squares may differ and still count as "
        "one, which is a question about readers and not about paper.",
    ),
]
TABLE = [
    ("Kind of sheet", "Sheets", "Blank", "Repeats"),
    ("Letter", "212", "71 %", "4 %"),
    ("Invoice", "164", "58 %", "12 %"),
    ("Order form", "97", "44 %", "19 %"),
    ("Minutes", "31", "49 %", "3 %"),
    ("Price list", "18", "23 %", "9 %"),
]
BARS = [("Letter", 71, 4), ("Invoice", 58, 12), ("Form", 44, 19), ("Minutes", 49, 3), ("Prices", 23, 9)]


def font(size: int) -> ImageFont.FreeTypeFont:
    face = ImageFont.load_default(size)
    assert isinstance(face, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return face


class Page:
    """A sheet of paper with a pen that moves down."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH, HEIGHT), "white")
        self.draw = ImageDraw.Draw(self.image)

    def text(
        self, x: int, y: int, line: str, size: int, fill: str = INK, bold: bool = False, anchor: str = "la"
    ) -> None:
        width = size / 34 if bold else 0
        self.draw.text((x, y), line, fill, font(size), anchor=anchor, stroke_width=width, stroke_fill=fill)

    def paragraph(self, x: int, y: int, text: str, width: int, size: int, leading: int, fill: str = INK) -> int:
        for line in wrapped(text, width, size):
            self.text(x, y, line, size, fill)
            y += leading
        return y

    def table(self, x: int, y: int, width: int) -> int:
        self.text(x, y, "Table 1.  Share of squares by kind of sheet.", 15, GREY)
        y += 30
        stops = (0, 0.58, 0.77, 1.0)
        for number, row in enumerate(TABLE):
            if number == 0:
                self.draw.rectangle((x, y - 6, x + width, y + 26), fill="#e9edf3")
            for column, (cell, stop) in enumerate(zip(row, stops, strict=True)):
                anchor = "ra" if column else "la"
                at = x + round(stop * width) + (-8 if column else 8)
                self.text(at, y, cell, 16, bold=number == 0, anchor=anchor)
            y += 32
            self.draw.line((x, y - 6, x + width, y - 6), fill="#c9ced8")
        return y + 10

    def chart(self, x: int, y: int, width: int, height: int) -> int:
        base = y + height
        for share in range(0, 101, 25):
            level = base - height * share // 100
            self.draw.line((x + 44, level, x + width, level), fill="#dfe2e8")
            self.text(x + 36, level, f"{share} %", 13, GREY, anchor="rm")
        step = (width - 44) // len(BARS)
        for number, (label, blank, repeats) in enumerate(BARS):
            left = x + 44 + number * step + step // 5
            right = left + step * 3 // 5
            split = base - height * blank // 100
            self.draw.rectangle((left, split, right, base), fill=BLUE)
            self.draw.rectangle((left, split - height * repeats // 100, right, split), fill=AMBER)
            self.text((left + right) // 2, base + 8, label, 13, GREY, anchor="ma")
        return base + 36


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Break `text` into lines of at most `width` pixels."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font(size).getlength(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line]


def draw_page() -> Image.Image:
    page = Page()
    centre, right = WIDTH // 2, MARGIN + COLUMN + GUTTER
    page.text(MARGIN, 62, "Notes from the Mail Room", 15, GREY)
    page.text(WIDTH - MARGIN, 62, "No. 7", 15, GREY, anchor="ra")
    page.draw.line((MARGIN, 90, WIDTH - MARGIN, 90), fill="#c9ced8")
    page.text(centre, 136, TITLE, 42, bold=True, anchor="ma")
    page.text(centre, 200, BYLINE, 19, GREY, anchor="ma")
    y = page.paragraph(MARGIN + 90, 262, ABSTRACT, WIDTH - 2 * MARGIN - 180, BODY, LEADING)
    top = y + 44

    y = top
    for heading, body in SECTIONS[:2]:
        page.text(MARGIN, y, heading, 20, bold=True)
        y = page.paragraph(MARGIN, y + 36, body, COLUMN, BODY, LEADING) + 30
    page.table(MARGIN, y + 8, COLUMN)

    y = page.chart(right, top + 8, COLUMN, 240)
    caption = "Figure 1.  Blank squares (blue) and repeats (amber), in per cent of the sheet."
    y = page.paragraph(right, y, caption, COLUMN, 15, 23, GREY) + 34
    for heading, body in SECTIONS[2:]:
        page.text(right, y, heading, 20, bold=True)
        y = page.paragraph(right, y + 36, body, COLUMN, BODY, LEADING) + 30
    page.text(centre, HEIGHT - 84, "1", 16, GREY, anchor="ma")
    return page.image


def photograph_screen() -> Image.Image:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("make_samples: no Chromium on the PATH (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "screen.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command = [browser, *flags, f"--user-data-dir={folder}/profile", "--window-size=1440,900"]
        command += [f"--screenshot={shot}", (HERE / "screen.html").resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if not shot.exists():
            sys.exit("make_samples: Chromium took no picture:\n" + textwrap.indent(done.stderr, "  "))
        return Image.open(shot).convert("RGB")


def main(names: list[str]) -> None:
    makers = {"page": draw_page, "screen": photograph_screen}
    for name in names or list(makers):
        path = SAMPLES / f"{name}.png"
        makers[name]().save(path, optimize=True)
        print(f"{path.relative_to(HERE.parent)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
