"""The rows of a scoring job: read, judged and handed on block by block, from wherever the sink says that it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from anomaly_ae.data.coding import Coder, Coders
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import Stamp
from anomaly_ae.data.formats import Format
from anomaly_ae.data.rejects import Reject, as_table
from anomaly_ae.data.sources import Position, Source, Wanted, at_once, open_source, require
from anomaly_ae.data.streams import STDIN
from anomaly_ae.errors import BadRowsError, DataError, EmptyTableError
from anomaly_ae.estimator import Detector
from anomaly_ae.ops.arguments import Progress, tell
from anomaly_ae.ops.sinks import REJECTS, Sink
from anomaly_ae.ops.tally import Allowed, Tally, too_many
from anomaly_ae.ops.verdicts import TOP_ROWS, Block, SideBySide, Teller, Told, blocks, check_kept
from anomaly_ae.overlap import in_order, pool


class Job:
    """A detector, or a champion and its challenger, and the files whose rows they are to judge."""

    def __init__(
        self,
        detectors: Sequence[Detector],
        names: Sequence[str],
        several: bool,
        dialect: Dialect,
        keep: Sequence[str],
        top: int,
        on_unseen: str = "score",
        kept: int = TOP_ROWS,
    ) -> None:
        self.several, self.keep, self.kept = several, list(keep), kept
        self.stamps = {name: None if name == STDIN else Stamp.of(Path(name)) for name in names}
        self.sources, self.empty = _opened(names, dialect)
        self.columns = [[_columns(detector, source) for detector in detectors] for source in self.sources]
        self.coders = [
            Coders(
                [
                    Coder(detector.contract_.columns, columns, dialect.nulls, on_unseen == "reject")
                    for detector, columns in zip(detectors, each, strict=True)
                ]
            )
            for each in self.columns
        ]
        self.tellers = [self._teller(detectors, each, top) for each in self.columns]
        self.schema = self.tellers[0].schema
        if several:
            self.schema = self.schema.insert(0, pa.field("file", pa.string()))
        for source in self.sources:
            require(source, keep, "--keep")
        check_kept(self.schema, keep)

    def _teller(self, detectors: Sequence[Detector], columns: Sequence[list[str]], top: int) -> Teller | SideBySide:
        champion = Teller(detectors[0], columns[0], self.keep, top, self.kept)
        if len(detectors) == 1:
            return champion
        return SideBySide(champion, Teller(detectors[1], columns[1], [], 0, 0))

    @property
    def ignored(self) -> list[str]:
        """Columns that neither the model knows nor the output keeps."""
        known = {name for each in self.columns for columns in each for name in columns} | set(self.keep)
        names = [name for source in self.sources for name in [*source.columns, *source.nameless]]
        return [name for name in dict.fromkeys(names) if name not in known]

    def run(self, sink: Sink, format: Format, allowed: Allowed, progress: Progress | None) -> Tally:
        """Score all rows, from the beginning or from where the sink says that it stands."""
        done = sink.begin(self.schema) or {"file": 0, "rows": 0, "position": None}
        none = Tally(self.kept, empty=list(self.empty)).to_json()
        tally = Tally.of(done.get("tally", none))
        file, rows, start = done["file"], done["rows"], done["position"] and Position(*done["position"])
        with pool() as threads:
            for file in range(file, len(self.sources)):  # noqa: B020 (from where it stands)
                name, said = self.sources[file].name, partial(self._say, file, format)
                for block, told, scores, rejects in in_order(threads, said, self._blocks(file, start, rows, threads)):
                    tally.add(told, {"file": name} if self.several else {}, block.rejects)
                    _check(tally, allowed, block.rejects, sink)
                    sink.write(scores, rejects)
                    there = {"file": file, "rows": block.done, "position": block.position}
                    sink.checkpoint({**there, "tally": tally.to_json()})
                    tell(progress, (file + block.share) / len(self.sources), "scoring")
                    rows = block.done
                if not rows:
                    tally.empty.append(name)
                if not tally.rows and file == len(self.sources) - 1:
                    raise EmptyTableError(
                        f"A table needs rows, however: {name} has a header and no row. Give a file with rows."
                    )
                self._check_unchanged(name)
                rows, start = 0, None
        for name in self.empty:
            self._check_unchanged(name)
        if not allowed.suffices(tally.rejected, tally.rows):
            sink.refuse()
            raise too_many(tally.rejected, tally.rows, allowed, tally.first_reject, sink.rejects_path, tally.remedy)
        return tally

    def _check_unchanged(self, name: str) -> None:
        if self.stamps[name] is not None and Stamp.of(Path(name)) != self.stamps[name]:
            raise DataError(
                f"A job needs an input that stays as it is, however: {name} changed while it was read. Start again "
                "when it is complete."
            )

    def _say(self, file: int, format: Format, block: Block) -> tuple[Block, Told, Any, Any]:
        """What there is to say of a block, as it is and as bytes of output and of rejects."""
        told = self.tellers[file](block.rows, block.codes, block.table)
        table = told.table
        if self.several:
            table = table.add_column(0, "file", pa.repeat(self.sources[file].name, table.num_rows))
        rejects = REJECTS.body(as_table(block.rejects)) if block.rejects else None
        return block, told._replace(table=None), format.body(table), rejects

    def _blocks(self, file: int, start: Position | None, skip: int, threads: Any) -> Iterator[Block]:
        source, coder = self.sources[file], self.coders[file]
        wanted = Wanted(coder.numbers, coder.texts, self.keep, coder)

        def part(chunk: tuple[Any, Position]) -> tuple[Any, Position]:
            return source.part(chunk[0], wanted), chunk[1]

        parts = in_order(threads, part, source.chunks(wanted, start))
        size = at_once(sum(map(len, self.columns[file])))
        return blocks(parts, list(dict.fromkeys([*coder.texts, *self.keep])), size, skip)


def _opened(names: Sequence[str], dialect: Dialect) -> tuple[list[Source], list[str]]:
    """Tables to read, and the names of those beside them that are empty; raises DataError where all are."""
    sources: list[Source] = []
    empty: list[str] = []
    for name in names:
        try:
            sources.append(open_source(name, dialect))
        except EmptyTableError:
            if len(empty) == len(names) - 1:
                raise
            empty.append(name)
    return sources, empty


def _check(tally: Tally, allowed: Allowed, rejects: Sequence[Reject], sink: Sink) -> None:
    if tally.rejected <= allowed.count:
        return
    sink.write(b"", REJECTS.body(as_table(rejects)))
    sink.refuse()
    if allowed.count == 0:
        first = rejects[0]
        raise BadRowsError(
            f"A row needs values that can be scored, however: {first.place}: {first.reason}. Repair "
            f"it{first.remedy and f', {first.remedy}'}, or set such rows aside (--on-bad-row quarantine with "
            "--max-bad-rows above 0; of standard output, --rejects FILE).",
            rows=tally.rows,
            rejected=tally.rejected,
            rejects=None if sink.rejects_path is None else str(sink.rejects_path),
        )
    raise too_many(tally.rejected, tally.rows, allowed, tally.first_reject, sink.rejects_path, tally.remedy)


def _columns(detector: Detector, source: Source) -> list[str]:
    """The table's columns that the model takes, in the model's order."""
    if hasattr(detector, "feature_names_in_"):
        names = list(detector.feature_names_in_)
        require(source, names, "The model")
        return names
    if len(source.columns) != detector.n_features_in_:
        raise DataError(
            f"A model fitted without column names needs tables of its {detector.n_features_in_} columns, however: "
            f"{source.name} has {len(source.columns)}. Fit it on a DataFrame to have columns chosen by name."
        )
    return list(source.columns)
