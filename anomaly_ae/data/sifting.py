"""A piece of text as a table, and where that fails, as a table of its good rows and what is wrong with each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.records import QUOTE, Piece, Spans, spans_of
from anomaly_ae.data.rejects import NO_TEXT

Types = Mapping[str, pa.DataType]
Read = Callable[[bytes, Types], pa.Table]
Bad = dict[int, tuple[str | None, str]]  # of rows, from 0: the column, if it is one, and the reason


class Sifted(NamedTuple):
    """How many records a piece has, which are good, these as a table, and what is wrong with the others."""

    rows: int
    good: NDArray[np.intp]
    table: pa.Table
    bad: Bad


def sift(piece: Piece, read: Read, columns: Sequence[str], types: Types, dialect: Dialect) -> Sifted:
    """Read a piece; where pyarrow refuses, find the rows that it refuses for and read the others."""
    if not piece.broken:
        rows = _count(piece)
        try:
            table = read(piece.data if rows else b"\n", types)
        except pa.ArrowInvalid:
            pass
        else:
            if table.num_rows == rows:
                return Sifted(rows, np.arange(rows), table, {})
    spans = spans_of(piece)
    bad: Bad = {row: (None, reason) for row, reason in piece.broken.items()}
    good = _without(len(spans), bad)
    fields = _fields(piece.data, spans[good], dialect)
    for row, count in zip(good.tolist(), fields.tolist(), strict=True):
        if count != len(columns):
            bad[row] = (None, f"{count} fields where the header has {len(columns)}")
    for quick in (True, False):
        good = _without(len(spans), bad)
        some = good[_unlike_numbers(piece.data, spans[good], types, dialect)] if quick else good
        suspects = _suspects(_joined(piece.data, spans[some]), read, types, dialect)
        bad |= {int(some[row]): what for row, what in suspects.items()}
        good = _without(len(spans), bad)
        try:
            table = read(_joined(piece.data, spans[good]), types)
        except pa.ArrowInvalid:
            continue  # a cell that has the letters of a number, and is none
        if table.num_rows == len(good):
            return Sifted(len(spans), good, table, bad)
    table, odd = _halved(piece.data, spans[good], read, types)
    bad |= {int(good[row]): (None, reason) for row, reason in odd.items()}
    return Sifted(len(spans), _without(len(spans), bad), table, bad)


def _count(piece: Piece) -> int:
    """How many records there are, by counting line ends where that is all that it takes."""
    data = piece.data
    if piece.spans is not None or b'"' in data or b"\n\n" in data or b"\n\r" in data or data[:1] in (b"\n", b"\r"):
        return len(spans_of(piece))
    return data.count(b"\n") + (not data.endswith(b"\n"))


def _fields(data: bytes, spans: Spans, dialect: Dialect) -> NDArray[np.intp]:
    """How many fields each well-formed record has."""
    delimiter = dialect.separator.encode()
    codes = np.frombuffer(data, np.uint8)
    places, quotes = np.flatnonzero(codes == ord(delimiter)), np.flatnonzero(codes == QUOTE)
    fields = 1 + np.subtract(*(np.searchsorted(places, spans[:, side]) for side in (1, 0)))
    quoted = np.subtract(*(np.searchsorted(quotes, spans[:, side]) for side in (1, 0)))
    whole = re.compile(rb'(?<![^%b])"[^"]*(?:""[^"]*)*"' % re.escape(delimiter))
    for row in np.flatnonzero(quoted).tolist():  # delimiters in quotes do not count
        start, end = spans[row].tolist()
        fields[row] = 1 + whole.sub(b"", data[start:end]).count(delimiter)
    return fields


def _unlike_numbers(data: bytes, spans: Spans, types: Types, dialect: Dialect) -> NDArray[np.bool_]:
    """Which records have a byte that numbers have not, which is quickly told; all, where some column is text."""
    if not all(map(pa.types.is_floating, types.values())):
        return np.ones(len(spans), dtype=bool)
    usual = np.zeros(256, dtype=bool)
    usual[list(b'0123456789+-eE" \r\n' + f"{dialect.decimal}{dialect.separator}".encode())] = True
    places = np.flatnonzero(~usual[np.frombuffer(data, np.uint8)])
    found: NDArray[np.bool_] = np.less(*(np.searchsorted(places, spans[:, side]) for side in (0, 1)))
    return found


def _without(rows: int, bad: Bad) -> NDArray[np.intp]:
    stays = np.ones(rows, dtype=bool)
    stays[list(bad)] = False
    return np.flatnonzero(stays)


def _joined(data: bytes, spans: Spans) -> bytes:
    """Records a line each; those that follow each other are taken together."""
    if not len(spans):
        return b"\n"
    between = spans[1:, 0] - spans[:-1, 1]
    return_first = np.frombuffer(data, np.uint8)[spans[:-1, 1]] == ord("\r")
    first = np.flatnonzero(np.append(True, between != 1 + return_first))
    starts, ends = spans[first, 0].tolist(), spans[np.append(first[1:], len(spans)) - 1, 1].tolist()
    view = memoryview(data)
    return b"\n".join([view[start:end] for start, end in zip(starts, ends, strict=True)]) + b"\n"


def _suspects(data: bytes, read: Read, types: Types, dialect: Dialect) -> Bad:
    """Rows with a cell that is no number in a column of numbers, or no text: found in bulk, then looked at."""
    try:
        table = read(data, {name: pa.binary() for name in types})
    except pa.ArrowInvalid:
        return {}
    nulls = pa.array([null.encode() for null in dialect.nulls], pa.binary())
    bad: Bad = {}
    for name, kind in reversed(list(types.items())):  # the first column is named where several are at fault
        column = table.column(name).combine_chunks()
        if pa.types.is_floating(kind):
            fine = pc.or_(pc.match_substring_regex(column, dialect.surely_number), pc.is_in(column, value_set=nulls))
        elif _is_text(column):
            continue
        else:
            fine = pa.array([_is_text(cell) for cell in column])
        for row in np.flatnonzero(~fine.to_numpy(zero_copy_only=False)).tolist():
            cell = column[row].as_py()
            if not pa.types.is_floating(kind):
                bad[row] = (name, NO_TEXT)
            elif not dialect.is_number(cell):
                bad[row] = (name, f"{cell[:80].decode('utf-8', 'backslashreplace')!r} is no number")
    return bad


def _is_text(values: pa.Array | pa.Scalar) -> bool:
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _halved(data: bytes, spans: Spans, read: Read, types: Types) -> tuple[pa.Table, dict[int, str]]:
    """Records as a table; those that pyarrow refuses for a reason of its own are found by halves."""
    reason = "pyarrow reads no row, or more than one"
    try:
        table = read(_joined(data, spans), types)
    except pa.ArrowInvalid as error:
        reason = " ".join(str(error).split())[:200]
    else:
        if table.num_rows == len(spans):
            return table, {}
    if len(spans) == 1:
        return read(b"\n", types), {0: reason}
    middle = len(spans) // 2
    (left, bad), (right, more) = (_halved(data, some, read, types) for some in (spans[:middle], spans[middle:]))
    return pa.concat_tables([left, right]), bad | {middle + row: what for row, what in more.items()}
