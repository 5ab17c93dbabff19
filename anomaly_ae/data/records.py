"""Text in pieces of whole records, whatever is wrong with its quotes.

A CSV reader that meets a quote that never closes takes the rest of the file for one cell. Here a record is well-formed
or it is not: quoted fields end where a delimiter or a line ends, and within 1 MiB. Of a record that is not, its first
line is set aside, and the next line begins a record. What is a record depends on the text alone, not on the pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.data.streams import Text

CHUNK = 4 << 20  # bytes a piece, about
LONGEST = 1 << 20  # bytes a record may have
NEWLINE, RETURN, QUOTE = b'\n\r"'
BROKEN = "quotes that do not match, or a stray carriage return"
TOO_LONG = "a line longer than 1 MiB"

Spans = NDArray[np.int64]


class Piece(NamedTuple):
    """Whole records of a text: from which byte and line on, and of those with doubtful quotes, where each is.

    `spans` `(records, 2)` are the bytes of each record, without its line end; `broken` says what is wrong with some.
    `share` is how much of the file has been read.
    """

    data: bytes
    offset: int
    line: int
    share: float = 0.0
    spans: Spans | None = None
    broken: Mapping[int, str] = {}

    @property
    def lines(self) -> int:
        """How many lines end in it."""
        return self.data.count(b"\n")


def pieces(text: Text, delimiter: str, offset: int = 0, line: int = 1) -> Iterator[Piece]:
    """Cut what is left of a text, which stands at this offset and line, into pieces of whole records."""
    record, rest, final = well_formed(delimiter), b"", False
    while not final:
        data = text.read(CHUNK)
        final = not data
        buffer = rest + data
        if not buffer:
            return
        end = _quick_end(buffer, delimiter.encode(), final)
        if end is None:
            piece, end = _one_by_one(buffer, record, final, offset, line)
        else:
            piece = Piece(buffer[:end], offset, line)
        if end:
            yield piece._replace(share=text.share)
            offset, line = offset + end, line + piece.lines
        rest = buffer[end:]
        if len(rest) > LONGEST and b"\n" not in rest:  # no record, and no end in sight
            yield Piece(rest[:LONGEST], offset, line, text.share, np.array([[0, LONGEST]]), {0: TOO_LONG})
            offset += len(rest)
            while (data := text.read(CHUNK)) and (newline := data.find(b"\n")) < 0:
                offset += len(data)
            rest = data[newline + 1 :] if data else b""
            offset, line = offset + len(data) - len(rest), line + 1


def well_formed(delimiter: str) -> re.Pattern[bytes]:
    """A record without its line end: fields that are quoted whole, or that do not begin with a quote."""
    d = re.escape(delimiter.encode())
    field = rb'(?:"[^"]*+(?:""[^"]*+)*+"|(?:[^"%b\r\n][^%b\r\n]*+)?+)' % (d, d)
    return re.compile(rb"%b(?:%b%b)*+(?=\r?\n|\r?\Z)" % (field, d, field))


def spans_of(piece: Piece) -> Spans:
    """The first byte of each record and the one after its last, line ends left out, empty lines as well."""
    if piece.spans is not None:
        return piece.spans
    codes = np.frombuffer(piece.data, np.uint8)
    ends = np.flatnonzero(codes == NEWLINE)
    quotes = np.flatnonzero(codes == QUOTE)
    if len(quotes):
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    if not len(ends) or ends[-1] != len(codes) - 1:
        ends = np.append(ends, len(codes))
    starts = np.append(0, ends[:-1] + 1)
    ends = ends - ((ends > starts) & (codes[np.maximum(ends - 1, 0)] == RETURN))
    return np.column_stack([starts, ends])[ends > starts]


def _quick_end(buffer: bytes, delimiter: bytes, final: bool) -> int | None:
    """Where the last whole record of a buffer ends; None where records have to be looked at one by one."""
    if b'"' in buffer:
        codes = np.frombuffer(buffer, np.uint8)
        quotes, ends = np.flatnonzero(codes == QUOTE), np.flatnonzero(codes == NEWLINE)
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0] + 1
        if final and len(quotes) % 2 == 0 and not (len(ends) and ends[-1] == len(codes)):
            ends = np.append(ends, len(codes))
        if not len(ends) or np.diff(ends, prepend=0).max() > LONGEST:
            return None
        end = int(ends[-1])
        quotes = quotes[quotes < end]
        padded = np.concatenate([[NEWLINE], codes[:end], [NEWLINE]])
        fine_before, fine_after = [*delimiter, NEWLINE, QUOTE], [*delimiter, NEWLINE, RETURN, QUOTE]
        opened, closed = padded[quotes[::2]], padded[quotes[1::2] + 2]
        if not (np.isin(opened, fine_before).all() and np.isin(closed, fine_after).all()):
            return None
    else:
        end = len(buffer) if final else buffer.rfind(b"\n") + 1
        half = LONGEST // 2
        if any(buffer.find(b"\n", start, start + half) < 0 for start in range(0, end - half, half)):
            return None
    if len(buffer) - end > LONGEST or (final and end < len(buffer)):
        return None
    return end if buffer.count(b"\r", 0, end) == buffer.count(b"\r\n", 0, end) else None


def _one_by_one(buffer: bytes, record: re.Pattern[bytes], final: bool, offset: int, line: int) -> tuple[Piece, int]:
    """The records of a buffer that are complete, and where they end."""
    spans: list[tuple[int, int]] = []
    broken: dict[int, str] = {}
    start, size = 0, len(buffer)
    while start < size:
        match = record.match(buffer, start, min(size, start + LONGEST))
        end = match.end() if match else -1
        if not final and (end < 0 or end + 2 > size) and size - start <= LONGEST:
            break  # what comes next decides
        newline = buffer.find(b"\n", start if end < 0 else end)
        after = size if newline < 0 else newline + 1
        if end < 0 or buffer[end:after] not in (b"\n", b"\r\n", b"\r", b""):
            if newline < 0 and not final:
                break  # longer than any record, and its line does not end here
            newline = buffer.find(b"\n", start)
            after = size if newline < 0 else newline + 1
            end = start + len(buffer[start:after].rstrip(b"\r\n"))
            broken[len(spans)] = BROKEN if end - start <= LONGEST else TOO_LONG
        if end > start:
            spans.append((start, min(end, start + LONGEST)))
        else:
            broken.pop(len(spans), None)
        start = after
    found = np.array(spans, dtype=np.int64).reshape(-1, 2)
    return Piece(buffer[:start], offset, line, spans=found, broken=broken), start
