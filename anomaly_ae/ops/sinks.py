"""Where scores and rejects go: files beside which a journal is kept, or standard output."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa

from anomaly_ae.data import rejects as rejected
from anomaly_ae.data.drafts import Draft, Stamp, publish, remove, sync
from anomaly_ae.data.formats import FORMATS, Format, Groups
from anomaly_ae.errors import BadRowsError, OutputError
from anomaly_ae.ops.journal import Journal

EVERY = 1.0  # seconds between checkpoints
REJECTS = FORMATS["csv"]
NOTHING = Format("nothing", lambda schema: b"", lambda table: b"")
AS_TABLES = Format("tables", lambda schema: b"", lambda table: table)  # for a sink in memory


def usual_rejects(output: str | os.PathLike[str]) -> Path:
    """Where bad rows go, if nothing else is said."""
    return Path(f"{os.fspath(output)}.rejects.csv")


class Sink(Protocol):
    """Takes bytes of scores and of rejects, which go to a file, if anywhere."""

    rejects_path: Path | None

    def begin(self, schema: pa.Schema) -> dict[str, Any] | None:
        """Get ready; the last checkpoint, if there is one to go on from."""
        ...

    def write(self, scores: Any, rejects: Any) -> None:
        """Append some of both."""
        ...

    def checkpoint(self, done: dict[str, Any]) -> None:
        """Note how far the job is, if it is time."""
        ...

    def finish(self, summary: dict[str, Any], tally: dict[str, Any]) -> None:
        """All of it is there; by the tally goes on what is still to be done."""
        ...

    def refuse(self) -> None:
        """Too many rows are bad: keep the rejects alone."""
        ...

    def note(self, summary: dict[str, Any]) -> None:
        """Everything is done, and this is what there is to say of the job."""
        ...


class Files:
    """Drafts of the output and of the rejects, and the journal that says how much of them counts.

    A process that dies, or is interrupted, leaves them for the next one; one that fails leaves nothing of them. A
    Parquet file cannot be gone on with, so it is made beside a draft that can, and made again from that.
    """

    def __init__(self, journal: Journal, format: Format, rejects: Path | None) -> None:
        self.journal, self.format, self.rejects_path = journal, format, rejects
        self._stack = ExitStack()
        self._rejects: Draft | None = None
        self._whole: Groups | None = None
        self._begun, self._last = False, 0.0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._scores = stack.enter_context(Draft(self.journal.output))
            if self.rejects_path is not None:
                self._rejects = stack.enter_context(Draft(self.rejects_path))
            self._stack = stack.pop_all()
        self._files: list[Any] = self.journal.read().get("files", [])  # nobody else writes it from here on
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if self._begun and kind is not None and not issubclass(kind, KeyboardInterrupt | BadRowsError):
                self._discard()  # what comes next needs the room
                self.journal.undo()
            for draft in self._drafts:
                draft.discard_if_empty()

    @property
    def _drafts(self) -> list[Draft]:
        return [self._scores] if self._rejects is None else [self._scores, self._rejects]

    def begin(self, schema: pa.Schema) -> dict[str, Any] | None:
        """Go on from the last checkpoint, where it is this job's and the drafts have all of it; else anew."""
        self._begun = True
        if self.format.name == "parquet":
            self._whole = Groups(self._scores.draft.with_suffix(".whole"), schema)
        done, heads = self.journal.resumable(), (self.format.head(schema), REJECTS.head(rejected.SCHEMA))
        if done is not None and all(map(lambda draft, size: draft.size >= size, self._drafts, done["sizes"])):
            for draft, size in zip(self._drafts, done["sizes"], strict=True):
                draft.cut(size)
            if self._whole is not None:
                with pa.OSFile(str(self._scores.draft)) as messages:
                    self._whole.add(messages)
            return done
        for draft, head in zip(self._drafts, heads, strict=False):
            draft.cut(0)
            draft.write(head)
        self.journal.write("new", self.rejects_path)
        self._last = time.monotonic()
        return None

    def write(self, scores: Any, rejects: Any) -> None:
        """Append some of both."""
        self._scores.write(scores)
        if self._whole is not None and len(scores):
            self._whole.add(scores)
        if self._rejects is not None and rejects is not None:
            self._rejects.write(rejects)

    def checkpoint(self, done: dict[str, Any]) -> None:
        """Have it on disk that the job is as far as this; every second is often enough."""
        if time.monotonic() - self._last < EVERY:
            return
        done = {**done, "sizes": [draft.sync() for draft in self._drafts]}
        self.journal.write("running", self.rejects_path, done=done)
        self._last = time.monotonic()

    def finish(self, summary: dict[str, Any], tally: dict[str, Any]) -> None:
        """Publish: first it is written down that all is there, then each file gets its name, the output last."""
        self._scores.sync()
        whole = self._scores.draft
        if self._whole is not None:
            self._whole.close()
            whole = self._whole.path
            sync(whole)
        files = [(whole, self.journal.output)]
        if self._rejects is not None and summary["rejected"]:
            self._rejects.sync()
            files.append((self._rejects.draft, self._rejects.path))
        self._files = [(str(draft.absolute()), str(path.absolute()), Stamp.of(draft)) for draft, path in files]
        self._complete(summary, tally=tally)
        for draft, path in reversed(files):
            publish(draft, path)
        self._begun = False  # what fails from here on takes nothing back
        self.clean()

    def note(self, summary: dict[str, Any]) -> None:
        """Write down what a complete job was."""
        self._complete(summary)

    def _complete(self, summary: dict[str, Any], **left: Any) -> None:
        self.journal.write("complete", self.rejects_path, files=self._files, summary=summary, **left)

    @property
    def left(self) -> dict[str, Any] | None:
        """The tally of a job that is complete but for what comes after its output."""
        found: dict[str, Any] | None = self.journal.before.get("tally")
        return found

    def clean(self) -> None:
        """Of a complete job, leave what was published and nothing else."""
        usual = usual_rejects(self.journal.output)  # by another name they may be another job's
        if self.rejects_path == usual and len(self.journal.read()["files"]) == 1:
            usual.unlink(missing_ok=True)  # of a job that was overwritten
        self._discard()

    def refuse(self) -> None:
        """Publish the rejects alone."""
        if self._rejects is None:
            self.journal.undo()
        else:
            self._rejects.sync()
            self.journal.write("refused", self.rejects_path)
            publish(self._rejects.draft, self._rejects.path)
        self._discard()

    def _discard(self) -> None:
        for draft in self._drafts:
            draft.discard()
        remove(self._scores.draft.with_suffix(".whole"))


class Stream:
    """Standard output: nothing to go on from."""

    def __init__(self, format: Format, rejects: Path | None) -> None:
        self.format, self.rejects_path = format, rejects
        self._rejects = None if rejects is None else Draft(rejects)
        self._any = False
        if sys.stdout is None:
            raise OutputError("Standard output needs to be open, however: it is closed. Give a file instead.")

    def __enter__(self) -> Self:
        if self._rejects is not None:
            self._rejects.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rejects is not None:
            if kind is not None or not self._any:
                self._rejects.discard()
            self._rejects.__exit__(kind, error, trace)

    def begin(self, schema: pa.Schema) -> None:
        """Write the header."""
        if self._rejects is not None:
            self._rejects.cut(0)
            self._rejects.write(REJECTS.head(rejected.SCHEMA))
        self.write(self.format.head(schema), None)

    def write(self, scores: Any, rejects: Any) -> None:
        """Append some of both."""
        sys.stdout.buffer.write(scores)
        if self._rejects is not None and rejects is not None:
            self._rejects.write(rejects)
            self._any = True

    def checkpoint(self, done: dict[str, Any]) -> None:
        """Nothing is kept."""

    note = checkpoint

    def finish(self, summary: dict[str, Any], tally: dict[str, Any]) -> None:
        """Have all of it out."""
        sys.stdout.buffer.flush()
        self.refuse()

    def refuse(self) -> None:
        """Keep the rejects."""
        if self._rejects is not None and self._any:
            self._rejects.sync()
            publish(self._rejects.draft, self._rejects.path)


class Nowhere:
    """A sink that keeps nothing."""

    rejects_path: Path | None = None

    def begin(self, schema: Any) -> None:
        """There is nothing to go on from."""

    def write(self, scores: Any, rejects: Any) -> None:
        """Rows are not kept."""

    def checkpoint(self, done: dict[str, Any]) -> None:
        """Nor is how far they are."""

    def refuse(self) -> None:
        """Too many rows are bad: there is nothing to keep of them."""

    def finish(self, summary: dict[str, Any], tally: dict[str, Any]) -> None:
        """There is nothing to publish."""

    note = checkpoint


class Gathered(Nowhere):
    """A sink that keeps the tables themselves, of `AS_TABLES`."""

    def __init__(self) -> None:
        self.tables: list[pa.Table] = []

    def write(self, scores: Any, rejects: Any) -> None:
        """Keep a block of rows."""
        if isinstance(scores, pa.Table):
            self.tables.append(scores)
