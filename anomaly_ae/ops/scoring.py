"""The scoring job: files of any length in, a table of scores out, and a way on from wherever it was interrupted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from anomaly_ae.data.contract import listed
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import check_output, check_page, pointed_at, write_whole
from anomaly_ae.data.formats import Format, format_of
from anomaly_ae.data.sources import expand
from anomaly_ae.data.streams import STDIN
from anomaly_ae.errors import ConfigError, OutputError, warn
from anomaly_ae.estimator import Detector
from anomaly_ae.loading import load_for_rows
from anomaly_ae.mlflow import runs
from anomaly_ae.mlflow.outbox import Input, now
from anomaly_ae.mlflow.registry import pinned, resolve
from anomaly_ae.ops.arguments import Path_, Progress
from anomaly_ae.ops.assets import Place, brief, moment, monitored, told_drift
from anomaly_ae.ops.describe import told_alarms, told_ignored, told_rejects
from anomaly_ae.ops.job import Job
from anomaly_ae.ops.journal import Identity, Journal
from anomaly_ae.ops.report import batch_page
from anomaly_ae.ops.sinks import Files, Stream, usual_rejects
from anomaly_ae.ops.tally import Allowed, ScoreSummary, Tally, nameless, too_many
from anomaly_ae.ops.tracking import Entry, digest, picture, told_run, tracked, written
from anomaly_ae.ops.verdicts import AGREEMENT, TOP_ROWS
from anomaly_ae.promise import promised

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
        or `"-"`, which is CSV from standard input. Of several, those without a row, even empty ones, are passed over.
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
    asked = [model] if challenger is None else [model, challenger]
    for one in asked:
        if not isinstance(one, str | os.PathLike):
            raise ConfigError(
                f"A job needs the folder of a model, however: {type(one).__name__} is none. Save it first, or use "
                "score_batches."
            )
    event_time = moment(event_time) if isinstance(event_time, str) else event_time
    check_policies(on_bad_row, on_unseen)
    allowed = Allowed.of(max_bad_rows if on_bad_row != "fail" else 0)
    output = pointed_at(output)
    beside = usual_rejects(output) if rejects is None else Path(rejects)
    names, several = expand([input] if isinstance(input, str | os.PathLike) else input, [output, beside])
    goes = Outputs.of(output, names, format, beside, rejects is not None, on_bad_row, overwrite, report)
    if goes.rejects is None and on_bad_row != "skip":
        allowed = Allowed(0, 0.0)  # nowhere to put a bad row
    judges = [Judge.of(one) for one in asked]
    kept = max(TOP_ROWS, log_samples)  # of the strangest rows
    job = Job([judge.detector for judge in judges], names, several, dialect, keep, top, on_unseen, kept)
    options = {
        "keep": list(keep), "top": top, "on_bad_row": on_bad_row, "on_unseen": on_unseen, "format": goes.format.name,
        "rejects": None if goes.rejects is None else str(goes.rejects), "several": several,
        "dialect": asdict(dialect) | {"missing": list(dialect.missing)},
        "challenger": [judge.digest for judge in judges[1:]], "log_samples": kept,
    }  # fmt: skip
    sink = goes.sink(Identity(judges[0].digest, job.stamps, options))
    place = Place(*judges[0].known, asset, event_time, None if state is None else Path(state))
    after = Afterwards(sink, judges, names, place, goes.page, remember or state is not None, track, began, log_samples)
    with sink:
        if isinstance(sink, Files):
            if (there := sink.journal.finished()) is not None:
                if not allowed.suffices(there["rejected"], there["rows"]):
                    raise too_many(there["rejected"], there["rows"], allowed, "", goes.rejects)
                return _again(sink, there, after)
            sink.journal.check_free(overwrite, goes.rejects)
        tally = job.run(sink, goes.format, allowed, progress)
        summary = ScoreSummary(
            model=judges[0].name,
            inputs=names,
            output=str(goes.output),
            rows=tally.rows,
            scored=tally.scored,
            rejected=tally.rejected,
            rejects=str(goes.rejects) if goes.rejects is not None and tally.rejected else None,
            alarms=tally.alarms,
            alarm_rate=tally.alarms / max(1, tally.scored),
            promised_false_alarm_rate=promised(judges[0].detector),
            threshold=judges[0].detector.threshold_.value_,
            ignored_columns=job.ignored,
            top_anomalies=[row for _, _, row in tally.strangest],
            seconds=time.perf_counter() - started,
            empty_inputs=tally.empty,
            p_value_resolution=judges[0].detector.threshold_.resolution_,
            challenger=None if challenger is None else tally.beside(judges[1].name, judges[1].detector),
            resumed_rows=tally.resumed,
        )
        sink.finish(asdict(summary), tally.to_json())
        return after.follow_up(tally, summary)


# --- before ----------------------------------------------------------------------------------------------------------


def check_policies(on_bad_row: str, on_unseen: str) -> None:
    if on_bad_row not in POLICIES or on_unseen not in ("score", "reject"):
        raise ConfigError(
            f"A policy is one of {', '.join(POLICIES)} (unseen: score, reject), however: {on_bad_row}, {on_unseen}. "
            "Choose from them."
        )


class Outputs(NamedTuple):
    """Where scores go and how they are written, and the files for rejects and for a page, where there are to be any."""

    output: Path
    format: Format
    rejects: Path | None
    page: Path | None

    @classmethod
    def of(
        cls,
        output: Path,
        names: Sequence[str],
        format: str | None,
        beside: Path,
        wants_rejects: bool,
        on_bad_row: str,
        overwrite: bool,
        report: Path_ | None,
    ) -> Self:
        """Refuse, before any work is done, what could not be written after it."""
        to_stdout, files = os.fspath(output) == STDIN, [name for name in names if name != STDIN]
        made = format_of(os.fspath(output), format or ("csv" if to_stdout else None))
        if to_stdout and made.name == "parquet":
            raise ConfigError("Standard output takes csv or jsonl, however: parquet. Give a file for it.")
        target = output if to_stdout else check_output(output, *files)
        aside = None
        if on_bad_row == "quarantine" and (wants_rejects or not to_stdout):
            aside = check_output(beside, *files, target)
        if wants_rejects and aside is None:
            raise ConfigError(f"Rejects are kept by quarantine, however: {on_bad_row} was asked for. Leave one out.")
        if to_stdout and aside is not None and aside.exists() and not overwrite:
            raise OutputError(
                f"Rejects need a new file, however: {aside} exists. Choose another, or allow overwriting."
            )
        page = None if report is None else check_page(report, *files, target, aside)
        return cls(target, made, aside, page)

    @property
    def to_stdout(self) -> bool:
        return os.fspath(self.output) == STDIN

    def sink(self, identity: Identity) -> Files | Stream:
        """What takes scores and rejects there."""
        if self.to_stdout:
            return Stream(self.format, self.rejects)
        return Files(Journal(self.output, identity), self.format, self.rejects)


class Judge(NamedTuple):
    """A model of the job: by what name it was asked for, the digest of its folder, and what that holds."""

    name: str
    digest: str
    detector: Detector

    @classmethod
    def of(cls, asked: Path_) -> Judge:
        """The model of a folder or registry."""
        name = pinned(asked)
        folder = resolve(name)
        return cls(name, digest(folder / "manifest.json"), load_for_rows(folder))

    @property
    def known(self) -> runs.Model:
        """As a run may know it."""
        return runs.Model(nameless(self.name), self.digest)


# --- after -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Afterwards:
    """What is done once the output is there: rows are monitored, drawn and logged.

    Where it was cut short the same job again does it.
    """

    sink: Files | Stream
    judges: Sequence[Judge]
    names: Sequence[str]
    place: Place
    page: Path | None
    remember: bool
    track: bool
    began: int
    log_samples: int

    def follow_up(self, tally: Tally, summary: ScoreSummary) -> ScoreSummary:
        """The summary with what is found, and its run."""
        champion = self.judges[0].detector
        found, charts = monitored(self.place, champion, tally.evidence(), self.names, self.remember, self.track)
        summary = replace(summary, monitoring=found and brief(found))
        sample, reference = np.asarray(tally.sample), champion.calibration_scores_
        if self.page is not None:
            write_whole(self.page, batch_page(asdict(summary), sample, reference, summary.threshold, found))
        if self.track:
            summary = tracked(summary, partial(self._told, summary, tally, found), *charts)
        self.sink.note(asdict(summary))  # what was found, and its run: the same job again tells both
        return summary

    def _told(self, summary: ScoreSummary, tally: Tally, found: dict[str, Any] | None) -> Entry:
        """What the run of a job is to say: names and digests, no paths; and no row but those asked for."""
        from anomaly_ae.ops.pictures import score_histogram

        models, reference = [judge.known for judge in self.judges], self.judges[0].detector.calibration_scores_
        sample = np.asarray(tally.sample)
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
            "score_median": float(np.median(sample)) if summary.scored else None,
            "score_max": summary.top_anomalies[0]["anomaly_score"] if summary.scored else None,
        }
        tags = self.place.tags(found)
        if summary.challenger is not None:
            numbers |= {f"challenger_{name}": summary.challenger[name] for name in ("alarms", "threshold")}
            numbers |= {f"alarms_{name}": summary.challenger[name] for name in AGREEMENT}
            tags |= {"anomaly_ae.challenger": models[1].name, "anomaly_ae.challenger_digest": models[1].digest}
        known = {name: value for name, value in numbers.items() if value is not None}
        known = {**(runs.monitored(found) if found else {}), **known}
        record = replace(runs.of_score(source, models[0], self.began, known, tags), id=tally.record)
        histogram = partial(score_histogram, sample, summary.threshold, source.name, reference, summary.scored)
        drawn = picture(histogram) if summary.scored else {}
        plain = summary.in_a_run(self.log_samples)
        texts = {"summary.json": json.dumps(plain, indent=1) + "\n"}
        if found is not None:
            texts["monitoring.json"] = json.dumps(found, indent=1) + "\n"
        page = written(lambda: batch_page(plain, sample, reference, summary.threshold, found))
        return record, {**texts, **page, **drawn}, None


def _again(sink: Files, there: dict[str, Any], after: Afterwards) -> ScoreSummary:
    """The summary of a job that is complete already; what it left undone is done."""
    sink.clean()
    summary = ScoreSummary(**{**there, "complete_already": True, "resumed_rows": there["scored"]})
    if (left := sink.left) is not None:
        return after.follow_up(Tally.of(left), summary)
    if after.page is not None and not after.page.exists():
        warn(
            f"A report is made when rows are scored, however: this job was complete before. For {after.page}, remove "
            f"{sink.journal.output} and score again."
        )
    return summary


def told_score(s: ScoreSummary) -> str:
    """A job for a person."""
    done = f"complete  already; {s.scored:,} rows were scored" if s.complete_already else f"scored    {s.scored:,} rows"
    again = f", {s.resumed_rows:,} of them before the interruption" if 0 < s.resumed_rows < s.scored else ""
    lines = [
        f"{done}{again} in {s.seconds:.1f} s",
        *told_ignored(s),
        *([f"note      without rows: {listed(s.empty_inputs, 8)}"] if s.empty_inputs else []),
        told_alarms(s),
        f"output    {s.output}",
        *told_rejects(s.rejected, s.rows, s.rejects),
    ]
    lines += told_drift(s.monitoring) + told_run(s)
    lines += _told_challenger(s.challenger) if s.challenger else []
    if s.top_anomalies:
        lines += ["", f"strangest rows; p is never below {s.p_value_resolution:.2g}"]
    for row in s.top_anomalies[:5]:
        lines.append(f"  {_place(row)} score {row['anomaly_score']:<10.4g} p {row['p_value']:.4f}  {row['reasons']}")
    return "\n".join(lines)


def _place(row: dict[str, Any]) -> str:
    names = list(row)  # columns that are kept stand between a row's number and its score
    kept = "".join(f" {name} {row[name]} " for name in names[names.index("row") + 1 : names.index("anomaly_score")])
    return (f"{row['file']}, row {row['row']}" if "file" in row else f"row {row['row']:<6}") + kept


def _told_challenger(c: dict[str, Any]) -> list[str]:
    lines = [
        f"against   {c['model']}: {c['alarms']:,} alarms",
        "",
        "alarms                 challenger      not",
        f"  champion        {c['both']:>15,} {c['champion_only']:>8,}",
        f"  not             {c['challenger_only']:>15,} {c['neither']:>8,}",
    ]
    if c["disagreements"]:
        lines += ["", "strongest disagreements"]
    for row in c["disagreements"][:5]:
        who = "champion" if row["is_anomaly"] else "challenger"
        ps = f"p {row['p_value']:.4f} to the champion, {row['challenger_p_value']:.4f} to the challenger"
        lines.append(f"  {_place(row)} {ps}: alarm of the {who} only")
    return lines
