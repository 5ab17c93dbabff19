"""The scoring job: files of any length in, a table of scores out, and a way on from wherever it was interrupted."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from anomaly_ae.data.coding import Coder
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import Stamp, check_output
from anomaly_ae.data.formats import Format, format_of
from anomaly_ae.data.rejects import Reject, as_table
from anomaly_ae.data.sources import Position, Source, Wanted, expand, open_source, require
from anomaly_ae.data.streams import STDIN
from anomaly_ae.errors import BadRowsError, ConfigError, DataError
from anomaly_ae.estimator import Detector
from anomaly_ae.loading import load_for_rows
from anomaly_ae.ops.journal import Identity, Journal
from anomaly_ae.ops.sinks import REJECTS, Files, Sink, Stream
from anomaly_ae.ops.tracking import digest, tracked
from anomaly_ae.ops.verdicts import TOP_ROWS, Block, Teller, Told, blocks
from anomaly_ae.overlap import in_order, pool
from anomaly_ae.scoring.thresholds import promised_rate

Progress = Callable[[float, str], None]  # share done in [0, 1], and what is being done
Path_ = str | os.PathLike[str]
POLICIES = ("quarantine", "skip", "fail")
SAMPLE = 4096  # scores kept for the histogram, half as many at least


@dataclass(frozen=True)
class ScoreSummary:
    """What a scoring job was: for people, for `--json`, and for the run in MLflow.

    `rows` of the input are `scored` or `rejected`. `resumed_rows` of them were scored by an earlier process, all of
    them where the job was `complete_already`.
    """

    model: str
    inputs: list[str]
    output: str
    rows: int
    scored: int
    rejected: int
    rejects: str | None
    alarms: int
    alarm_rate: float
    promised_false_alarm_rate: float | None
    threshold: float
    ignored_columns: list[str]
    top_anomalies: list[dict[str, Any]]
    seconds: float
    resumed_rows: int = 0
    complete_already: bool = False
    run_id: str | None = None
    tracking_uri: str | None = None


def score_file(
    model: Path_,
    input: Path_ | Sequence[Path_],
    output: Path_,
    *,
    keep: Sequence[str] = (),
    top: int = 3,
    on_bad_row: str = "quarantine",
    max_bad_rows: str | int = "1%",
    rejects: Path_ | None = None,
    on_unseen: str = "score",
    dialect: Dialect | None = None,
    format: str | None = None,
    overwrite: bool = False,
    track: bool = False,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Score every row of files; memory does not grow with their length.

    Columns out: `file` where there are several, `row` (its number in the file, from 1), those of `keep`,
    `anomaly_score`, `p_value`, `is_anomaly`, then `top_1`, `top_1_share` and so on, and of alarms the `reasons`
    ("temperature 93.1, expected 61 to 67").

    The output appears complete or not at all. Every row of the input is in it or among the rejects. Beside it
    `OUTPUT.job.json` says what the job was: the same job again does nothing where it is complete, and goes on where it
    was killed, to the same bytes. An input is the same where its length and its time of change are.

    Parameters
    ----------
    model : path
        The model folder.
    input : path or sequence of paths
        CSV (also compressed by gzip or Zstandard), Parquet or Arrow files, patterns such as `"day-*.csv"`, or `"-"`,
        which is CSV from standard input.
    output : path
        CSV, JSON lines or Parquet file by its ending, or `"-"`, which is standard output.
    keep : sequence of str, default=()
        Columns to copy to the output.
    top : int >= 0, default=3
        How many blamed columns to name a row.
    on_bad_row : {"quarantine", "skip", "fail"}, default="quarantine"
        What to do with a row that cannot be scored: write it to `rejects`, leave it out, or stop.
    max_bad_rows : int or str such as "1%", default="1%"
        With more bad rows than this, or than this share, there is no output.
    rejects : path or None, default=None
        Where bad rows go; `None` is `OUTPUT.rejects.csv`.
    on_unseen : {"score", "reject"}, default="score"
        What to do with a category that was not there at fit: score it as strange, or take the row for a bad one.
    dialect : Dialect or None, default=None
        How text is written: delimiter, decimal comma, encoding, missing values.
    format : {"csv", "jsonl", "parquet"} or None, default=None
        Format of the output; `None` goes by its ending.
    overwrite : bool, default=False
        Replace the output of another job.
    track : bool, default=False
        Log a run in MLflow, once the output is there.
    progress : callable or None, default=None
        Told the share that is done and what is being done.

    Raises
    ------
    AnomalyError
        When model, input or output are not what they must be; nothing is then written.
    BadRowsError
        When more rows are bad than allowed; the rejects are then written, and nothing else.

    Examples
    --------
    >>> from anomaly_ae import score_file
    >>> score_file("model", "night-*.csv", "scores.parquet", keep=["machine"]).alarms  # doctest: +SKIP
    12
    """
    started = time.perf_counter()
    dialect = dialect or Dialect()
    names, several = expand([input] if isinstance(input, str | os.PathLike) else input)
    to_stdout = os.fspath(output) == STDIN
    if on_bad_row not in POLICIES or on_unseen not in ("score", "reject"):
        raise ConfigError(
            f"A policy is one of {', '.join(POLICIES)} (unseen: score, reject), however: {on_bad_row}, {on_unseen}. "
            "Choose from them."
        )
    allowed = _Allowed.of(max_bad_rows if on_bad_row != "fail" else 0)
    made = format_of(os.fspath(output), format or ("csv" if to_stdout else None))
    if to_stdout and made.name == "parquet":
        raise ConfigError("Standard output takes csv or jsonl, however: parquet. Give a file for it.")
    target = Path(output) if to_stdout else check_output(output)
    aside = None
    if on_bad_row == "quarantine" and (rejects is not None or not to_stdout):
        aside = check_output(rejects if rejects is not None else f"{os.fspath(output)}.rejects.csv")
    _check_apart(names, target, aside)
    job = Job(load_for_rows(model), names, several, dialect, keep, top, on_unseen)
    if aside is None and on_bad_row != "skip":
        allowed = _Allowed(0, 0.0)  # nowhere to put a bad row
    options = {
        "keep": list(keep), "top": top, "on_bad_row": on_bad_row, "on_unseen": on_unseen, "format": made.name,
        "rejects": None if aside is None else str(aside), "several": several,
        "dialect": asdict(dialect) | {"missing": list(dialect.missing)},
    }  # fmt: skip
    identity = Identity(digest(Path(model) / "manifest.json"), job.stamps, options)
    sink = Stream(made, aside) if to_stdout else Files(Journal(target, identity), made, aside)
    with sink:
        if isinstance(sink, Files):
            if (there := sink.journal.finished()) is not None:
                sink.clean()
                return ScoreSummary(**{**there, "complete_already": True, "resumed_rows": there["scored"]})
            sink.journal.check_free(overwrite, aside)
        tally = job.run(sink, made, allowed, progress)
        summary = ScoreSummary(
            model=str(model),
            inputs=names,
            output=str(output),
            rows=tally.rows,
            scored=tally.scored,
            rejected=tally.rejected,
            rejects=str(aside) if aside is not None and tally.rejected else None,
            alarms=tally.alarms,
            alarm_rate=tally.alarms / max(1, tally.scored),
            promised_false_alarm_rate=promised_rate(job.detector.threshold_),
            threshold=job.detector.threshold_.value_,
            ignored_columns=job.ignored,
            top_anomalies=[row for _, _, row in tally.strangest],
            seconds=time.perf_counter() - started,
            resumed_rows=tally.resumed,
        )
        sink.finish(asdict(summary))
        if track:
            summary = tracked(summary, lambda: _log(job.detector, summary, np.asarray(tally.sample)))
            sink.note(asdict(summary))
    return summary


@dataclass(frozen=True)
class _Allowed:
    """How many bad rows are too many: more than so many, or than such a share of all."""

    count: float
    share: float

    @classmethod
    def of(cls, told: str | int) -> _Allowed:
        text = str(told).strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = -1.0
        if not number >= 0 or (text.endswith("%") and number > 100):
            raise ConfigError(f"Bad rows are allowed by number or share, however: {told!r}. Try 100 or 1%.")
        return cls(np.inf, number / 100) if text.endswith("%") else cls(number, np.inf)

    def told(self) -> str:
        return f"{self.count:g}" if np.isfinite(self.count) else f"{self.share:.4g} of all"


@dataclass
class _Tally:
    """What has come of a job so far; all of it fits into a checkpoint."""

    rows: int = 0
    scored: int = 0
    rejected: int = 0
    alarms: int = 0
    strangest: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)  # ties go to the earlier row
    sample: list[float] = field(default_factory=list)  # every `step`-th score
    step: int = 1
    resumed: int = 0

    def add(self, told: Told, file: dict[str, str], rejected: int) -> None:
        first = -self.scored % self.step
        self.sample += told.scores[first :: self.step].tolist()
        while len(self.sample) > SAMPLE:
            self.sample, self.step = self.sample[::2], 2 * self.step
        rows = [(row["anomaly_score"], -(self.scored + k), {**file, **row}) for k, row in enumerate(told.strangest)]
        self.strangest = heapq.nlargest(TOP_ROWS, self.strangest + rows, key=lambda row: row[:2])
        self.rows += len(told.scores) + rejected
        self.scored += len(told.scores)
        self.rejected += rejected
        self.alarms += told.alarms


class Job:
    """A detector and the files whose rows it is to judge."""

    def __init__(
        self,
        detector: Detector,
        names: Sequence[str],
        several: bool,
        dialect: Dialect,
        keep: Sequence[str],
        top: int,
        on_unseen: str = "score",
    ) -> None:
        self.detector, self.several, self.keep = detector, several, list(keep)
        self.stamps = {name: None if name == STDIN else Stamp.of(Path(name)) for name in names}
        self.sources = [open_source(name, dialect) for name in names]
        self.columns = [_columns(detector, source) for source in self.sources]
        self.coders = [
            Coder(detector.contract_.columns, columns, dialect.nulls, on_unseen == "reject") for columns in self.columns
        ]
        self.tellers = [Teller(detector, columns, keep, top) for columns in self.columns]
        self.schema = self.tellers[0].schema
        if several:
            self.schema = self.schema.insert(0, pa.field("file", pa.string()))
        reserved = set(self.schema.names) - set(keep)
        for source in self.sources:
            require(source, keep, "--keep")
        if clash := sorted(set(keep) & reserved | {name for name in keep if self.schema.names.count(name) > 1}):
            raise ConfigError(
                f"--keep needs columns that the output has not yet, however: {clash}. Rename or leave out."
            )

    @property
    def ignored(self) -> list[str]:
        """Columns that neither the model knows nor the output keeps."""
        known = {name for columns in self.columns for name in columns} | set(self.keep)
        return list(dict.fromkeys(name for source in self.sources for name in source.columns if name not in known))

    def run(self, sink: Sink, format: Format, allowed: _Allowed, progress: Progress | None) -> _Tally:
        """Score all rows, from the beginning or from where the sink says that it stands."""
        done = sink.begin(self.schema) or {"file": 0, "rows": 0, "position": None, "tally": asdict(_Tally())}
        tally = _Tally(**done["tally"])
        tally.strangest = [tuple(row) for row in tally.strangest]  # type: ignore[misc]
        tally.resumed = tally.scored
        file, rows, start = done["file"], done["rows"], done["position"] and Position(*done["position"])
        with pool() as threads:
            for file in range(file, len(self.sources)):  # noqa: B020 (from where it stands)
                name, said = self.sources[file].name, partial(self._say, file, format)
                for block, told, scores, rejects in in_order(threads, said, self._blocks(file, start, rows, threads)):
                    tally.add(told, {"file": name} if self.several else {}, len(block.rejects))
                    _check(tally, allowed, block.rejects, sink)
                    sink.write(scores, rejects)
                    there = {"file": file, "rows": block.done, "position": block.position}
                    sink.checkpoint({**there, "tally": asdict(tally)})
                    if progress is not None:
                        progress((file + block.share) / len(self.sources), "scoring")
                if not tally.rows and file == len(self.sources) - 1:
                    raise DataError(
                        f"A table needs rows, however: {name} has a header and no row. Give a file with rows."
                    )
                if self.stamps[name] is not None and Stamp.of(Path(name)) != self.stamps[name]:
                    raise DataError(
                        f"A job needs an input that stays as it is, however: {name} changed while it was read. Start "
                        "again when it is complete."
                    )
                rows, start = 0, None
        if tally.rejected > allowed.share * tally.rows:
            sink.refuse()
            raise _too_many(tally, allowed)
        return tally

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
        return blocks(parts, list(dict.fromkeys([*coder.texts, *self.keep])), skip)


def _check(tally: _Tally, allowed: _Allowed, rejects: Sequence[Reject], sink: Sink) -> None:
    if tally.rejected <= allowed.count:
        return
    if allowed.count == 0:
        sink.refuse()
        first = rejects[0]
        raise BadRowsError(
            f"A row needs values that can be scored, however: {first.place}: {first.reason}. Repair it, or set such "
            "rows aside (--on-bad-row quarantine, --rejects FILE)."
        )
    sink.write(b"", REJECTS.body(as_table(rejects)))
    sink.refuse()
    raise _too_many(tally, allowed)


def _too_many(tally: _Tally, allowed: _Allowed) -> BadRowsError:
    return BadRowsError(
        f"A job may have bad rows, at most {allowed.told()}, however: {tally.rejected:,} of {tally.rows:,}. "
        "See the rejects, or allow more (--max-bad-rows)."
    )


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


def _check_apart(names: Sequence[str], target: Path, aside: Path | None) -> None:
    """Raise ConfigError where a file is to be read and written, or written twice."""
    inputs = {os.path.realpath(name) for name in names if name != STDIN}
    outputs = [os.path.realpath(path) for path in (target, aside) if path is not None]
    for path in outputs:
        if path in inputs or outputs.count(path) > 1:
            raise ConfigError(f"A job needs an output besides its input, however: both are {path}. Choose another.")


def _log(detector: Detector, summary: ScoreSummary, sample: np.ndarray) -> str:
    from anomaly_ae.mlflow import runs
    from anomaly_ae.ops.report import score_histogram

    model, source = Path(summary.model), Path(summary.inputs[0])
    figure = score_histogram(sample, summary.threshold, source.name, detector.calibration_scores_)
    numbers: Mapping[str, float | None] = {
        "scored": summary.scored,
        "rejected": summary.rejected,
        "alarms": summary.alarms,
        "alarm_rate": summary.alarm_rate,
        "threshold": summary.threshold,
        "promised_false_alarm_rate": summary.promised_false_alarm_rate,
        "seconds": summary.seconds,
        "score_median": float(np.median(sample)),
        "score_max": float(sample.max()),
    }
    known = {name: value for name, value in numbers.items() if value is not None}
    digests = digest(*summary.inputs), digest(model / "manifest.json")
    return runs.log_score(source, digests[0], summary.rows, model, digests[1], known, asdict(summary), figure)
