"""How a text table is written: delimiter, decimal point, encoding, and what stands for a missing value."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.csv

from anomaly_ae.errors import ConfigError

NULLS = tuple(pyarrow.csv.ConvertOptions().null_values)  # "", NA, NaN, null, N/A and the like
DELIMITERS = ",;\t|"
SWAPPED = str.maketrans(".,", ",.")


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Parameters
    ----------
    delimiter : str or None, default=None
        What stands between fields, one character; `None` is that of comma, semicolon, tab and bar which the header has
        most of.
    decimal : {".", ","}, default="."
        What stands before a number's decimals.
    encoding : str or None, default=None
        As Python names it; `None` is UTF-8, or what the file's byte order mark says.
    missing : sequence of str, default=()
        What else stands for a missing value, beside an empty cell, NA, NaN, null and the like.

    Raises
    ------
    ConfigError
        When a value is out of range.
    """

    delimiter: str | None = None
    decimal: str = "."
    encoding: str | None = None
    missing: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "missing", tuple(self.missing))
        if self.delimiter in ("\\t", "tab"):
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is not None and (len(self.delimiter.encode()) != 1 or self.delimiter in '"\r\n'):
            raise ConfigError(
                f"A delimiter is one character of ASCII and no quote, however: {self.delimiter!r}. Try ';' or tab."
            )
        if self.decimal not in (".", ",") or self.decimal == self.delimiter:
            raise ConfigError(
                f"Decimals need a point or a comma that does not delimit fields, however: {self.decimal!r} (delimiter "
                f"{self.delimiter!r}). Give '.' or ','."
            )
        try:
            "".encode(self.encoding or "utf-8")  # hex is a codec, but none of text
        except LookupError as error:
            raise ConfigError(
                f"An encoding needs a name that Python knows, however: {self.encoding!r}. Try utf-8, latin-1 or cp1252."
            ) from error

    def of(self, header: str) -> Dialect:
        """This dialect with the delimiter of a header line, where none was given."""
        if self.delimiter is not None:
            return self
        bare = re.sub(r'"[^"]*"', "", header)
        found = max((d for d in DELIMITERS if d != self.decimal or d == "."), key=bare.count)
        return Dialect(found, self.decimal, self.encoding, self.missing)

    @property
    def separator(self) -> str:
        """The delimiter, a comma where it is not known."""
        return self.delimiter or ","

    def names(self, header: str) -> list[str]:
        """The column names in a header."""
        return next(csv.reader([header], delimiter=self.separator, strict=True), [])

    @cached_property
    def nulls(self) -> list[str]:
        """All that stands for a missing value."""
        return [*NULLS, *self.missing]

    def convert(self, columns: Mapping[str, pa.DataType]) -> pyarrow.csv.ConvertOptions:
        """How pyarrow is to read these columns; others are left out."""
        return pyarrow.csv.ConvertOptions(
            column_types=dict(columns),
            include_columns=list(columns),
            null_values=self.nulls,
            strings_can_be_null=False,
            decimal_point=self.decimal,
        )

    def parse(self, quoted: bool) -> pyarrow.csv.ParseOptions:
        """How pyarrow is to find the fields of a text, which may have quotes in it."""
        return pyarrow.csv.ParseOptions(delimiter=self.separator, newlines_in_values=quoted)

    def pointed(self, cell: Any) -> Any:
        """A number that is written as text with a point before its decimals; with a point already it is then none."""
        return cell if self.decimal == "." or not isinstance(cell, str) else cell.translate(SWAPPED)

    @cached_property
    def surely_number(self) -> str:
        """What only numbers match; a few others are numbers as well."""
        return rf"^[+-]?(\d+([{self.decimal}]\d*)?|[{self.decimal}]\d+)([eE][+-]?\d+)?$"

    def is_number(self, cell: bytes) -> bool:
        """Whether pyarrow reads a cell as a number or a missing value."""
        return _is_number(cell, self.decimal, tuple(self.nulls))


@lru_cache(maxsize=4096)
def _is_number(cell: bytes, decimal: str, nulls: tuple[str, ...]) -> bool:
    options = pyarrow.csv.ConvertOptions(
        column_types={"x": pa.float64()}, null_values=list(nulls), decimal_point=decimal
    )
    quoted = pa.py_buffer(b'"' + cell.replace(b'"', b'""') + b'"\n')
    try:
        pyarrow.csv.read_csv(
            pa.BufferReader(quoted), pyarrow.csv.ReadOptions(column_names=["x"], use_threads=False),
            pyarrow.csv.ParseOptions(newlines_in_values=True), options,
        )  # fmt: skip
    except pa.ArrowInvalid:
        return False
    return True
