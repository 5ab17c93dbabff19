"""The bytes of an input: from a file or standard input, decompressed, as UTF-8."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from anomaly_ae.errors import DataError

STDIN = "-"
COMPRESSED: dict[bytes, Callable[[Any], Any]] = {  # what a compressed file begins with, and how it is read
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zX": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda raw: pa.CompressedInputStream(pa.PythonFile(raw), "zstd"),
}
FOREIGN = {  # what a file begins with that is no text, and what to do
    b"PK\x03\x04": ("a ZIP archive, as .xlsx is", "Save it as CSV, or unpack it"),
    b"\xd0\xcf\x11\xe0": ("an old Office file, as .xls is", "Save it as CSV"),
    b"PAR1": ("Parquet", "Name it .parquet"),
    b"ARRO": ("an Arrow file", "Name it .arrow"),
}
MARKS = {  # what a file may begin with to say how it is encoded; the longer first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
PIECE = 1 << 20  # bytes decoded at a time

# bytes that are no text in the encoding become one that is none in UTF-8, so that the row can be found and rejected
NO_TEXT, MARK_IT = "\udcff", "anomaly_ae.mark"
codecs.register_error(MARK_IT, lambda error: (NO_TEXT, error.end))  # type: ignore[attr-defined]


@contextlib.contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Trouble with reading becomes one sentence."""
    try:
        yield
    except (pa.ArrowInvalid, OSError, EOFError, StopIteration, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"A table needs a readable file, however: {path}: {error}. Check or restore it.") from error


class Text:
    """What a file says, as UTF-8, whatever it is compressed with or encoded in.

    Compression is told by the first bytes (gzip, bzip2, xz, Zstandard), the encoding by a byte order mark or by
    `encoding`. Where `plain`, offsets are those of the file.
    """

    def __init__(self, path: str, encoding: str | None = None) -> None:
        self.path = path
        if path == STDIN and sys.stdin is None:
            raise DataError("Standard input needs to be open, however: it is closed. Give it a file or a pipe.")
        raw: Any = sys.stdin.buffer if path == STDIN else Path(path).open("rb")  # noqa: SIM115 (closed by close)
        self._file, self._size = raw, 0 if path == STDIN else Path(path).stat().st_size
        raw, head = _peeked(raw)
        self.plain = path != STDIN
        if unpack := next((way for mark, way in COMPRESSED.items() if head.startswith(mark)), None):
            raw, head = _peeked(unpack(raw), rewind=False)
            self.plain = False
        if head in FOREIGN:
            what, to_do = FOREIGN[head]
            to_do = f"{to_do} in a file" if path == STDIN else to_do
            raise DataError(f"A table needs CSV, however: {path} is {what}. {to_do}.")
        self.marked = next((len(mark) for mark in MARKS if head.startswith(mark)), 0)
        encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)), encoding or "utf-8")
        self._raw, self._decoder = raw, None
        if codecs.lookup(encoding).name not in ("utf-8", "ascii"):
            self._decoder = codecs.getincrementaldecoder(encoding)(MARK_IT)
            self.plain, self.marked = False, 0

    def read(self, size: int) -> bytes:
        """About so many bytes; none at the end."""
        if self._decoder is None:
            return bytes(self._raw.read(size))
        found = b""
        while not found:
            data = bytes(self._raw.read(min(size, PIECE)))
            found = self._decoder.decode(data, not data).encode("utf-8", "surrogateescape")
            if not data:
                break
        return found

    @property
    def as_written(self) -> bool:
        """Whether the bytes are those of the file, or of what it was before it was compressed."""
        return self._decoder is None

    def seek(self, offset: int) -> None:
        """Go to an offset of a plain file."""
        self._raw.seek(offset)

    @property
    def share(self) -> float:
        """How much of the file has been read, in [0, 1]."""
        return min(1.0, self._file.tell() / self._size) if self._size else 0.0

    def close(self) -> None:
        """Let go of the file."""
        if self.path != STDIN:
            self._file.close()

    def __enter__(self) -> Text:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] or bytes(self._rest.read(len(buffer)))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _peeked(raw: Any, rewind: bool = True) -> tuple[Any, bytes]:
    """A stream as it was, and its first four bytes."""
    head = b""
    while len(head) < 4 and (more := bytes(raw.read(4 - len(head)))):
        head += more
    if rewind and raw.seekable():
        raw.seek(0)
        return raw, head
    return io.BufferedReader(_Rejoined(head, raw), PIECE), head
