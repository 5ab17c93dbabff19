"""Rows that cannot be scored: where they are, what is wrong with them, and their text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("line", pa.int64()),
        ("byte_offset", pa.int64()),
        ("column", pa.string()),
        ("reason", pa.string()),
        ("raw", pa.string()),
    ]
)
NO_NUMBER = re.compile(r"""(['"])(.*)\1 is (?:no|not a finite) number""", re.DOTALL)
NO_TEXT, NO_TIME = "no text in the encoding", " is no time"
ENCODING = "say how the file is encoded (--encoding, cp1252 perhaps)"
COMMA = "say that decimals have a comma (--decimal ,)"
THOUSANDS = "write numbers without separators of thousands"
REMEDIES = {  # of what a cell looks like that is no number
    r".*\\x[89a-f].*": ENCODING,  # a byte that is no text
    r"[-+]?\d{1,3},\d{3}": f"{COMMA} or {THOUSANDS}",
    r"[-+]?\d*,\d+([eE][-+]?\d+)?": COMMA,
    r"[-+]?\d*\.\d+([eE][-+]?\d+)?": "say that decimals have a point (no --decimal)",
    r"[-+]?\d{1,3}([.,' ]\d{3})+([.,]\d*)?": THOUSANDS,
    r"[^#]*\d.*": "write numbers without units and other signs",
}


class Reject(NamedTuple):
    """A row that cannot be scored.

    `row` counts the rows of the file from 1, bad ones too; `line` its lines from 1, the header's too; `byte_offset`
    is that of the row's first byte in the file's (decompressed) text. What is not known is None: a Parquet file has no
    lines, a transcoded one no offsets, and a row with too many fields no column. `raw` is the row as it was written.
    """

    file: str
    row: int
    line: int | None
    byte_offset: int | None
    column: str | None
    reason: str
    raw: str

    @property
    def place(self) -> str:
        """Where it is, for people."""
        line = "" if self.line is None else f", line {self.line}"
        column = "" if self.column is None else f", column {self.column!r}"
        return f"{self.file}, row {self.row}{line}{column}"

    @property
    def remedy(self) -> str:
        """Which option may have it read, if one may."""
        if self.reason == NO_TEXT:
            return ENCODING
        if self.reason.endswith(NO_TIME):
            return "write times as ISO 8601 (2026-11-27 14:30:00) or as a count"
        told = NO_NUMBER.fullmatch(self.reason)
        return remedy(told[2], self.line is not None) if told else ""


def as_table(rejects: Sequence[Reject]) -> pa.Table:
    """Rejects as the rejects file has them."""
    return pa.table(list(map(list, zip(*rejects, strict=True))) or [[]] * len(SCHEMA), schema=SCHEMA)


def remedy(cell: str, is_text: bool = True) -> str:
    """Which option may have a cell read that is no number, by what it looks like, of a file that `is_text` or not."""
    looks = (way for pattern, way in REMEDIES.items() if re.fullmatch(pattern, cell.strip(), re.DOTALL))
    named = f"{cell!r} stands for a missing value (--missing {shlex.quote(cell)})"
    way = next(looks, f"say that {named}" if len(cell) < 20 else "say what stands for a missing value (--missing)")
    return way if is_text or "--missing" in way else ""
