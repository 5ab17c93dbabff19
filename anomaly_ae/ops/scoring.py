"""The scoring job: files of any length in, a table of scores out, and a way on from wherever it was interrupted."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_ae.data.coding import Coder, Coders
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import Stamp, check_output, pointed_at, write_whole
from anomaly_ae.data.formats import Format, format_of
from anomaly_ae.data.rejects import Reject, as_table
from anomaly_ae.data.sources import Position, Source, Wanted, expand, open_source, require
from anomaly_ae.data.streams import STDIN
from anomaly_ae.errors import BadRowsError, ConfigError, DataError, OutputError
from anomaly_ae.estimator import Detector
from anomaly_ae.loading import load_for_rows
from anomaly_ae.mlflow import runs
from anomaly_ae.mlflow.outbox import Input, now
from anomaly_ae.mlflow.registry import pinned, resolve
from anomaly_ae.ops.arguments import Path_, Progress, tell
from anomaly_ae.ops.assets import Place, brief, moment, monitored
from anomaly_ae.ops.journal import Identity, Journal
from anomaly_ae.ops.report import batch_page
from anomaly_ae.ops.sinks import REJECTS, Files, Sink, Stream, usual_rejects
from anomaly_ae.ops.tally import Allowed, ScoreSummary, Tally, nameless, too_many
from anomaly_ae.ops.tracking import Entry, digest, picture, tracked, written
from anomaly_ae.ops.verdicts import AGREEMENT, TOP_ROWS, Block, SideBySide, Teller, Told, blocks, check_kept
from anomaly_ae.overlap import in_order, pool
from anomaly_ae.promise import promised

Floats = NDArray[np.float64]
POLICIES = ("quarantine", "skip", "fail")


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
    challenger: Path_ | None = None,
    log_samples: int = 0,
    asset: str = "",
    event_time: datetime | str | None = None,
    remember: bool = False,
    state: Path_ | None = None,
    report: Path_ | None = None,
) -> ScoreSummary:
    """Score every row of files; memory does not grow with their length.

    Columns out: `file` where there are several, `row` (its number in the file, from 1), those of `keep`,
    `anomaly_score`, `p_value`, `is_anomaly`, then `top_1`, `top_1_share` and so on, and of alarms the `reasons`
    ("temperature 93.1, expected 61 to 67"). With a challenger, at the end, `challenger_score`, `challenger_p_value` and
    `challenger_is_anomaly`.

    The output appears complete or not at all. Every row of the input is in it or among the rejects. Beside it
    `OUTPUT.job.json` says what the job was: the same job again does nothing where it is complete, and goes on where it
    was killed, to the same bytes. An input is the same where its length and its time of change are.

    Parameters
    ----------
    model : path
        The model folder; or of a registry `models:/NAME@champion` or `models:/NAME/3`, or `runs:/ID/model`.
    input : path or sequence of paths
        CSV (also compressed by gzip, bzip2, xz or Zstandard), Parquet or Arrow files, patterns such as `"day-*.csv"`,
        or `"-"`, which is CSV from standard input.
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
    challenger : path or None, default=None
        A second model, given as the first, that judges the same rows in the same pass; a row is bad where either cannot
        judge it. The summary then counts where they agree, and names where they do not.
    log_samples : int >= 0, default=0
        Of how many of the strangest rows the run may hold the values; nothing else of the rows is logged.
    asset : str, default=""
        Which of many alike machines, sites or customers the rows are of: each is monitored by itself.
    event_time : datetime, str or None, default=None
        When the rows were measured, for monitoring; `None` is when the last of the files was written.
    remember : bool, default=False
        Have monitoring remember these rows, and judge them beside those of earlier jobs; else they are judged by
        themselves.
    state : path or None, default=None
        The file that remembers, which is then asked for; `None` is one in `anomaly-ae-monitor` in the working directory
        (the environment's `ANOMALY_AE_MONITOR` is another folder).
    report : path or None, default=None
        HTML file for a page on the job.

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
    started, began = time.perf_counter(), now()
    dialect = dialect or Dialect()
    for one in (model, *([] if challenger is None else [challenger])):
        if not isinstance(one, str | os.PathLike):
            raise ConfigError(
                f"A job needs the folder of a model, however: {type(one).__name__} is none. Save it first, or use "
                "score_batches."
            )
    output = pointed_at(output)
    beside = usual_rejects(output) if rejects is None else Path(rejects)
    names, several = expand([input] if isinstance(input, str | os.PathLike) else input, [output, beside])
    event_time = moment(event_time) if isinstance(event_time, str) else event_time
    to_stdout = os.fspath(output) == STDIN
    if on_bad_row not in POLICIES or on_unseen not in ("score", "reject"):
        raise ConfigError(
            f"A policy is one of {', '.join(POLICIES)} (unseen: score, reject), however: {on_bad_row}, {on_unseen}. "
            "Choose from them."
        )
    allowed = Allowed.of(max_bad_rows if on_bad_row != "fail" else 0)
    made = format_of(os.fspath(output), format or ("csv" if to_stdout else None))
    if to_stdout and made.name == "parquet":
        raise ConfigError("Standard output takes csv or jsonl, however: parquet. Give a file for it.")
    files = [name for name in names if name != STDIN]
    target = Path(output) if to_stdout else check_output(output, *files)
    aside = None
    if on_bad_row == "quarantine" and (rejects is not None or not to_stdout):
        aside = check_output(beside, *files, target)
    if rejects is not None and aside is None:
        raise ConfigError(f"Rejects are kept by quarantine, however: {on_bad_row} was asked for. Leave one out.")
    if to_stdout and aside is not None and aside.exists() and not overwrite:
        raise OutputError(f"Rejects need a new file, however: {aside} exists. Choose another, or allow overwriting.")
    page = None if report is None else check_output(report, *files, target, aside)
    kept = max(TOP_ROWS, log_samples)  # of the strangest rows
    asked = [model] if challenger is None else [model, challenger]
    called = [pinned(one) for one in asked]
    folders = [resolve(one) for one in called]
    digests = [digest(folder / "manifest.json") for folder in folders]
    detectors = [load_for_rows(folder) for folder in folders]
    job = Job(detectors, names, several, dialect, keep, top, on_unseen, kept)
    if aside is None and on_bad_row != "skip":
        allowed = Allowed(0, 0.0)  # nowhere to put a bad row
    options = {
        "keep": list(keep), "top": top, "on_bad_row": on_bad_row, "on_unseen": on_unseen, "format": made.name,
        "rejects": None if aside is None else str(aside), "several": several,
        "dialect": asdict(dialect) | {"missing": list(dialect.missing)}, "challenger": digests[1:], "log_samples": kept,
    }  # fmt: skip
    identity = Identity(digests[0], job.stamps, options)
    sink = Stream(made, aside) if to_stdout else Files(Journal(target, identity), made, aside)

    def followed_up(tally: Tally, summary: ScoreSummary) -> ScoreSummary:
        """Monitored, drawn and logged, once the output is there; where it was cut short the same job again does it."""
        models = [runs.Model(nameless(name), digest) for name, digest in zip(called, digests, strict=True)]
        place = Place(*models[0], asset, event_time, None if state is None else Path(state))
        found, charts = monitored(place, detectors[0], tally.evidence(), names, remember or state is not None, track)
        summary = replace(summary, monitoring=found and brief(found))
        sample, reference = np.asarray(tally.sample), detectors[0].calibration_scores_
        if page is not None:
            write_whole(page, batch_page(asdict(summary), sample, reference, summary.threshold, found))
        if track:
            told = partial(_told, summary, models, began, sample, reference, log_samples, found)
            summary = tracked(summary, told, *charts)
        sink.note(asdict(summary))  # what was found, and its run: the same job again tells both
        return summary

    with sink:
        if isinstance(sink, Files):
            if (there := sink.journal.finished()) is not None:
                sink.clean()
                summary = ScoreSummary(**{**there, "complete_already": True, "resumed_rows": there["scored"]})
                if (left := sink.left) is not None:
                    return followed_up(Tally.of(left), summary)
                if page is not None and not page.exists():
                    warnings.warn(
                        f"A report is made when rows are scored, however: this job was complete before. For {page}, "
                        f"remove {target} and score again.",
                        UserWarning,
                        stacklevel=2,
                    )
                return summary
            sink.journal.check_free(overwrite, aside)
        tally = job.run(sink, made, allowed, progress)
        summary = ScoreSummary(
            model=called[0],
            inputs=names,
            output=str(output),
            rows=tally.rows,
            scored=tally.scored,
            rejected=tally.rejected,
            rejects=str(aside) if aside is not None and tally.rejected else None,
            alarms=tally.alarms,
            alarm_rate=tally.alarms / max(1, tally.scored),
            promised_false_alarm_rate=promised(detectors[0]),
            threshold=detectors[0].threshold_.value_,
            ignored_columns=job.ignored,
            top_anomalies=[row for _, _, row in tally.strangest],
            seconds=time.perf_counter() - started,
            challenger=None if challenger is None else tally.beside(called[1], detectors[1]),
            resumed_rows=tally.resumed,
        )
        sink.finish(asdict(summary), tally.to_json())
        return followed_up(tally, summary)


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
        self.sources = [open_source(name, dialect) for name in names]
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
        return list(dict.fromkeys(name for source in self.sources for name in source.columns if name not in known))

    def run(self, sink: Sink, format: Format, allowed: Allowed, progress: Progress | None) -> Tally:
        """Score all rows, from the beginning or from where the sink says that it stands."""
        done = sink.begin(self.schema) or {"file": 0, "rows": 0, "position": None, "tally": Tally(self.kept).to_json()}
        tally = Tally.of(done["tally"])
        file, rows, start = done["file"], done["rows"], done["position"] and Position(*done["position"])
        with pool() as threads:
            for file in range(file, len(self.sources)):  # noqa: B020 (from where it stands)
                name, said = self.sources[file].name, partial(self._say, file, format)
                for block, told, scores, rejects in in_order(threads, said, self._blocks(file, start, rows, threads)):
                    tally.add(told, {"file": name} if self.several else {}, len(block.rejects))
                    _check(tally, allowed, block.rejects, sink)
                    sink.write(scores, rejects)
                    there = {"file": file, "rows": block.done, "position": block.position}
                    sink.checkpoint({**there, "tally": tally.to_json()})
                    tell(progress, (file + block.share) / len(self.sources), "scoring")
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
            raise too_many(tally, allowed)
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


def _check(tally: Tally, allowed: Allowed, rejects: Sequence[Reject], sink: Sink) -> None:
    if tally.rejected <= allowed.count:
        return
    sink.write(b"", REJECTS.body(as_table(rejects)))
    sink.refuse()
    if allowed.count == 0:
        first = rejects[0]
        raise BadRowsError(
            f"A row needs values that can be scored, however: {first.place}: {first.reason}. Repair it, or set such "
            "rows aside (--on-bad-row quarantine with --max-bad-rows above 0; of standard output, --rejects FILE)."
        )
    raise too_many(tally, allowed)


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


def _told(
    summary: ScoreSummary,
    models: Sequence[runs.Model],
    began: int,
    sample: Floats,
    reference: Floats,
    log_samples: int,
    found: dict[str, Any] | None,
) -> Entry:
    """What the run of a job is to say: names and digests, no paths; and no row but those asked for."""
    from anomaly_ae.ops.pictures import score_histogram

    first, more = Path(summary.inputs[0]).name, len(summary.inputs) - 1
    source = Input(f"{first} and {more} more" if more else first, digest(*summary.inputs))
    numbers: dict[str, float | None] = {
        "rows": summary.rows,
        "scored": summary.scored,
        "rejected": summary.rejected,
        "alarms": summary.alarms,
        "alarm_rate": summary.alarm_rate,
        "threshold": summary.threshold,
        "promised_false_alarm_rate": summary.promised_false_alarm_rate,
        "seconds": summary.seconds,
        "score_median": float(np.median(sample)) if len(sample) else None,
        "score_max": float(sample.max()) if len(sample) else None,
    }
    tags: dict[str, str] = {}
    if summary.challenger is not None:
        numbers |= {f"challenger_{name}": summary.challenger[name] for name in ("alarms", "threshold")}
        numbers |= {f"alarms_{name}": summary.challenger[name] for name in AGREEMENT}
        tags = {"anomaly_ae.challenger": models[1].name, "anomaly_ae.challenger_digest": models[1].digest}
    known = {name: value for name, value in numbers.items() if value is not None}
    known = {**(runs.monitored(found) if found else {}), **known}
    record = runs.of_score(source, models[0], began, known, tags)
    drawn = picture(lambda: score_histogram(sample, summary.threshold, source.name, reference)) if len(sample) else {}
    plain = summary.in_a_run(log_samples)
    texts = {"summary.json": json.dumps(plain, indent=1) + "\n"}
    if found is not None:
        texts["monitoring.json"] = json.dumps(found, indent=1) + "\n"
    page = written(lambda: batch_page(plain, sample, reference, summary.threshold, found))
    return record, {**texts, **page, **drawn}, None
