"""Rows that cannot be scored: where they are, what is wrong with them, and their text."""

from __future__ import annotations

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


def as_table(rejects: Sequence[Reject]) -> pa.Table:
    """Rejects as the rejects file has them."""
    return pa.table(list(map(list, zip(*rejects, strict=True))) or [[]] * len(SCHEMA), schema=SCHEMA)
