"""Files that appear complete or not at all: a hidden draft beside the place, one writer at a time, then a rename."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from anomaly_ae.errors import ConfigError, OutputError

STANDARD = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")
PAGE = b"<!doctype html"


class Stamp(NamedTuple):
    """By what a file is recognised: its length and when it was last changed."""

    bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """That of a file; None where there is none."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        return cls(status.st_size, status.st_mtime_ns)


@contextlib.contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Have an error of writing, at a full disk say, name the file: that of an open file names none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        why = f"A file needs a disk that takes it, however: {path}: {error.strerror or error}. Make room, try again."
        told = OSError(why)
        told.errno = error.errno
        raise told from error


class Draft:
    """The draft of a file, `.NAME.part` beside it, which only one process writes: it holds a lock on it.

    Entering the `with` block takes the lock and keeps what an earlier process left there. `publish` puts the draft in
    its place; leaving the block without `publish` or `discard` keeps it, as a process that is killed does.

    Raises
    ------
    OutputError
        When another process is writing it, or the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.draft = path.absolute().parent / f".{path.name}.part"
        self._stream: Any = None

    def __enter__(self) -> Self:
        import fcntl  # not there on Windows, where the rest of the package works

        while self._stream is None:
            stream = os.fdopen(os.open(self.draft, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                stream.close()
                raise OutputError(
                    f"An output needs one writer, however: another process is writing {self.path}. Wait for it, or "
                    "choose another output."
                ) from error
            # between opening and locking, the process that held the lock may have published or discarded the file
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), self.draft.stat()):
                    self._stream = stream
                    break
            stream.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return os.fstat(self._stream.fileno()).st_size

    def cut(self, size: int) -> None:
        """Keep the first bytes only, and go on writing there."""
        self._stream.truncate(size)
        self._stream.seek(size)

    def write(self, data: Any) -> None:
        """Append bytes."""
        view = memoryview(data).cast("B")
        with written_to(self.path):
            while len(view):
                view = view[self._stream.write(view) :]

    def sync(self) -> int:
        """Have all that was written on disk; how many bytes that is."""
        with written_to(self.path):
            os.fsync(self._stream.fileno())
        return self._stream.tell()

    def discard_if_empty(self) -> None:
        """Remove the draft where nothing was ever written to it."""
        if not self.size:
            self.discard()

    def discard(self) -> None:
        """Remove the draft."""
        remove(self.draft)


def remove(path: Path) -> None:
    """Remove a file where there is one, and have its room back at once even while it is open."""
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path, 0)
        path.unlink()


def publish(draft: Path, path: Path) -> None:
    """Put a file in its place in one step."""
    os.replace(draft, path)
    sync(path.absolute().parent)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that fits into memory; it appears complete or not at all, and where it cannot be nothing is left."""
    temporary = path.absolute().parent / f".{path.name}.new"
    try:
        with written_to(path), temporary.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pointed_at(path: str | os.PathLike[str]) -> Path:
    """Where an output goes: a link stays, and the file that it names is written."""
    if os.fspath(path).startswith(STANDARD):
        raise OutputError(f"An output needs a file, however: {path} is an open stream. Give - for standard output.")
    return Path(os.path.realpath(path) if os.path.islink(path) else path)


def check_output(path: str | os.PathLike[str], *others: str | os.PathLike[str] | None) -> Path:
    """Refuse, before any work is done, an output that could not be published after it, or is one of `others`."""
    path = pointed_at(path)
    for other in (Path(other) for other in others if other is not None):
        if path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other)):
            raise ConfigError(
                f"A job needs an output besides its input, a file of its own, however: both are {path}. Choose another."
            )
    if path.is_dir():
        raise OutputError(f"An output needs a file name, however: {path} is a folder. Give a file in it.")
    if path.exists() and not path.is_file():
        raise OutputError(f"An output needs a file, however: {path} is a pipe or a device. Give a file and read that.")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"An output needs a folder that can be written, however: {folder} cannot. Choose another.")
    return path


def check_page(path: str | os.PathLike[str], *inputs: Any) -> Path:
    """As `check_output`, of a page in HTML, which takes the place of another page but of no other file."""
    place = check_output(path, *inputs)
    if place.is_file() and place.stat().st_size:
        with place.open("rb") as stream:
            if not stream.read(len(PAGE)).lower().startswith(PAGE):
                raise OutputError(
                    f"A report takes the place of a report, however: {place} is none. Choose another file."
                )
    return place
