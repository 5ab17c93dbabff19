"""Lines of CSV or JSON as rows, one by one."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.streams import NO_TEXT
from anomaly_ae.data.written import meant
from anomaly_ae.errors import DataError


def records(lines: Iterable[str], names: list[str], dialect: Dialect) -> Iterator[dict[str, Any] | DataError]:
    """Rows as mappings; of those that are none, why."""
    lines = (line for line in lines if line.strip())
    first = next(lines, None)
    if first is None:
        raise DataError("A watch needs rows, however: standard input has none. Pipe CSV with a header, or JSON lines.")
    first = first.lstrip("\ufeff")
    read: Callable[[str], dict[str, Any] | DataError] = _json
    if first.lstrip().startswith("{"):
        lines = chain([first], lines)
    else:
        dialect = dialect.of(first)
        header = next(csv.reader([first], delimiter=dialect.separator))
        if missing := [name for name in names if name not in header]:
            raise DataError(
                f"The model needs the columns {names}, however: the header lacks "
                f"{missing}.{meant(missing, header)} It has {header}: name them as at fit, or say what is between "
                "them (--delimiter)."
            )
        read = partial(_fields, header=header, separator=dialect.separator)
    for line in lines:
        if NO_TEXT in line:
            yield DataError(f"A row needs text, however: {_shown(line)} is none. Give its encoding (--encoding).")
        else:
            yield read(line)


def ended(lines: Iterable[str], tell: Callable[[str], None]) -> Iterator[str]:
    """Lines that have an end; of one that has none yet, which may be half of what is being written, it is told."""
    for line in lines:
        if line.endswith("\n"):
            yield line
        else:
            tell(f"the last line has no end yet and is left for the next call: {_shown(line)}")


def _fields(line: str, header: list[str], separator: str) -> dict[str, Any] | DataError:
    try:
        cells = next(csv.reader([line], delimiter=separator))
    except csv.Error as error:
        return DataError(f"A row needs fields, however: {_shown(line)} ({error}). Repair what writes it.")
    if len(cells) != len(header):
        return DataError(
            f"A row needs {len(header)} fields, however: {len(cells)} ({_shown(line)}). Give each column one, empty "
            "where it is missing, and quote delimiters."
        )
    return dict(zip(header, cells, strict=True))


def _json(line: str) -> dict[str, Any] | DataError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return DataError(f"A row needs JSON, however: {_shown(line)} ({error}). Write an object a line.")
    if isinstance(row, dict):
        return row
    return DataError(f"A row needs a JSON object, however: {_shown(line)}. Write values by their columns' names.")


def _shown(line: str) -> str:
    return repr(line.strip()[:80])


def cell(cells: dict[str, Any], name: str, is_number: bool, dialect: Dialect) -> Any:
    """What a row has in a column; NaN and None where it is missing."""
    if name not in cells:
        raise DataError(
            f"A row needs the column {name!r}, however: it has {sorted(cells)}. Give it, as null where it is missing."
        )
    value = cells[name]
    if value is None or (isinstance(value, str) and value.strip() in dialect.nulls):
        return np.nan if is_number else None
    if not is_number:
        return value
    try:
        number = float(dialect.pointed(value))
    except (OverflowError, TypeError, ValueError):
        number = math.inf
    if math.isinf(number):
        raise DataError(
            f"A row needs finite numbers, however: column {name!r} has {value!r:.60}. Leave it empty where it is "
            "missing, or say how decimals and missing values are written (--decimal, --missing)."
        )
    return number


def as_number(said: Any, dialect: Dialect) -> Any:
    """A time as a number, where it is written as one."""
    try:
        return float(dialect.pointed(said))
    except (OverflowError, TypeError, ValueError):
        return said
