"""What pages of HTML are made of: tables, lists, pictures and tiles, and how they become one file."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from anomaly_ae.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"#4878a8": "var(--bar)", "#c8553d": "var(--alarm)", "#000000": "currentColor", "#5d6875": "var(--faint)"}


class Table(NamedTuple):
    """Rows of cells; columns in `right` are flush right, cells in `whole` ones in one line; `more` are not shown."""

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[int] = frozenset()
    whole: frozenset[int] = frozenset()
    more: int = 0
    kind: str = "table"

    def cut(self, most: int) -> Table:
        """The first rows."""
        return self._replace(rows=self.rows[:most], more=max(0, len(self.rows) - most))


class Bad(str):
    """The text of a cell that stands out."""

    bad = True


class Listed(NamedTuple):
    """Sentences, one below the other."""

    texts: Sequence[str]
    kind: str = "list"


class Drawn(NamedTuple):
    """A picture."""

    svg: str
    kind: str = "figure"


class Code(NamedTuple):
    """Text as it is written."""

    text: str
    kind: str = "code"


class Section(NamedTuple):
    """A heading and what is below it."""

    title: str
    pieces: Sequence[Table | Listed | Drawn | Code | str]


class Tile(NamedTuple):
    """A figure at the top of a page."""

    name: str
    value: str
    mood: str = ""


def page(title: str, under: str, tiles: Sequence[Tile], sections: Sequence[Section]) -> str:
    """One file of HTML that needs no other."""
    import jinja2

    template = files("anomaly_ae.ops").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    made = environment.from_string(template).render(
        title=title, under=under, tiles=tiles, sections=sections, version=__version__
    )
    return _apart(made) + "\n"


def drawn(figure: Figure, label: str) -> Drawn:
    """A figure as part of the page: its text is text, its colours are the page's."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:height|width)="[\d.]+pt"', "", text, count=2)
    for colour, name in COLOURS.items():
        text = text.replace(colour, name)
    # text without a colour is black to matplotlib
    text = text.replace("<svg ", '<svg fill="currentColor" role="img" ', 1)
    head, rest = text.split(">", 1)
    return Drawn(f"{head}><title>{escape(label)}</title>{rest}")  # matplotlib escapes its own texts


def _apart(made: str) -> str:
    """Ids that are one picture's own: pictures of one page would share them."""
    parts = made.split("<svg ")
    for number, part in enumerate(parts[1:], 1):
        parts[number] = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>p{number}-", part)
    return "<svg ".join(parts)
