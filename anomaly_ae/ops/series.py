"""The jobs of the shell on series: fit, and score with events; `series_plot` and `watch` are beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_ae import config as configuration
from anomaly_ae import storage
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import Draft, check_output, check_page, publish, write_whole
from anomaly_ae.data.formats import FORMATS, Format, Groups, format_of
from anomaly_ae.data.rejects import SCHEMA, Reject, as_table
from anomaly_ae.data.streams import STDIN
from anomaly_ae.data.tables import Table
from anomaly_ae.errors import ConfigError, DataError, OutputError
from anomaly_ae.explanation import Verdict
from anomaly_ae.folds import BLOCK
from anomaly_ae.loading import load
from anomaly_ae.mlflow import runs
from anomaly_ae.mlflow.outbox import now
from anomaly_ae.mlflow.registry import pinned, resolve
from anomaly_ae.monitoring.history import Evidence
from anomaly_ae.monitoring.profile import Counts
from anomaly_ae.ops.arguments import Progress, tell
from anomaly_ae.ops.assets import Place, brief, monitored
from anomaly_ae.ops.fitting import check_register, entry, learn, publish_model, set_rate, source
from anomaly_ae.ops.pictures import score_histogram
from anomaly_ae.ops.report import batch_page
from anomaly_ae.ops.scoring import Outputs, check_policies
from anomaly_ae.ops.series_picture import of_events
from anomaly_ae.ops.series_reading import read
from anomaly_ae.ops.series_summary import VALUES, SeriesFitSummary, SeriesScoreSummary, told_guess, told_unopened
from anomaly_ae.ops.series_table import named, told_rows
from anomaly_ae.ops.series_times import check_groups, laid, last_moment, told_begun, told_dropped, told_unseen
from anomaly_ae.ops.sinks import REJECTS, Stream, usual_rejects
from anomaly_ae.ops.tally import SAMPLE, Allowed, nameless, too_many
from anomaly_ae.ops.tracking import Entry, digest, picture, tracked, written
from anomaly_ae.promise import promised
from anomaly_ae.series.detector import SeriesDetector


def is_series_config(config: str | Path | None) -> bool:
    """Whether a configuration describes a detector of series."""
    return config is not None and isinstance(configuration.load(config)[0], SeriesDetector)


def fit(
    data: str | Path,
    model: str | Path,
    config: str | Path | None = None,
    time_column: str | None = None,
    group: str | None = None,
    exclude: Sequence[str] = (),
    dialect: Dialect | None = None,
    overwrite: bool = False,
    track: bool = False,
    register: str | None = None,
    progress: Progress | None = None,
    report: str | Path | None = None,
    alpha: float | None = None,
) -> SeriesFitSummary:
    """Fit the `SeriesDetector` of a YAML file (default: `SeriesDetector(random_state=0)`) on all rows of a table.

    `time_column`, `group` and `alpha`, the rate of false alarms to promise, stand for what the file says of them.

    Raises
    ------
    AnomalyError
        When configuration, table or target are not what they must be; nothing is then written.
    """
    started, began = time.perf_counter(), now()
    check_register(register, track)
    page = None if report is None else check_page(report, data, config, model)
    target = storage.check_target(model, overwrite)
    detector, text = configuration.load(config) if config is not None else (SeriesDetector(random_state=0), "")
    if not isinstance(detector, SeriesDetector):
        raise ConfigError(
            f"--time and --group are for series, however: {config} describes {type(detector).__name__}. Begin it with "
            "SeriesDetector."
        )
    given = {name: value for name, value in (("time", time_column), ("group", group)) if value is not None}
    detector.set_params(**given)
    if alpha is not None:
        set_rate(detector, alpha, config)
    if given or alpha is not None:
        text = ""  # the configuration is no longer as it was written
    table = Table.open(data, dialect)
    table.require([*exclude, *named(detector)], "The fit")
    names = [name for name in table.columns if name not in set(exclude)]
    X = table.read(names, BLOCK)
    if detector.group is not None:
        X[detector.group] = table.texts([detector.group], BLOCK)[detector.group]
    check_groups(detector, X, data)
    file = source(data)
    learn(detector, data, file, X, progress)
    publish_model(detector, target, overwrite, page)
    summary = SeriesFitSummary(
        model=str(target),
        data=str(data),
        rows=len(X),
        columns=detector.contract_.names,
        ignored_columns=list(table.nameless),
        detector=repr(detector),
        window=detector.fold_.length,
        step=detector.step_,
        threshold=detector.threshold_.value_,
        event_level=detector.events_.level_,
        promised_false_alarm_rate=promised(detector),
        seconds=time.perf_counter() - started,
        flag_columns=[detector.contract_.names[place] for place in detector.fold_.unseen],
        notes=[*told_dropped(detector, X, laid(detector, X)), *told_guess(detector)],
    )
    if not track:
        return summary
    return tracked(summary, lambda: entry(detector, target, file, began, register, text))


def score(
    model: str | Path,
    input: str | Path,
    output: str | Path,
    events: str | Path | None = None,
    keep: Sequence[str] = (),
    top_columns: int = 3,
    dialect: Dialect | None = None,
    overwrite: bool = False,
    track: bool = False,
    asset: str = "",
    event_time: datetime | None = None,
    state: str | Path | None = None,
    report: str | Path | None = None,
    progress: Progress | None = None,
    remember: bool = False,
    on_bad_row: str = "quarantine",
    max_bad_rows: str | int = "1%",
    rejects: str | Path | None = None,
    format: str | None = None,
) -> SeriesScoreSummary:
    """Score every row of a series, and write what happened in it.

    Columns out: `row` (its number in the file, from 1), those of time, group and `keep`, `anomaly_score`, `p_value`,
    `is_anomaly`, `event` (its number, where there is one), then `top_1`, `top_1_share` and so on, empty where no column
    contributes anything. Bad rows, policies, `rejects`, `format` and `"-"` are those of `score_file`; a bad row is
    missing in the series.

    Raises
    ------
    AnomalyError
        When model, table or output are not what they must be; nothing is then written.
    BadRowsError
        When more rows are bad than allowed; the rejects are then written, and nothing else.
    """
    started, began = time.perf_counter(), now()
    check_policies(on_bad_row, "score")
    output = Path(output)
    allowed = Allowed.of(max_bad_rows if on_bad_row != "fail" else 0)
    beside = usual_rejects(output) if rejects is None else Path(rejects)
    goes = Outputs.of(output, [str(input)], format, beside, rejects is not None, on_bad_row, overwrite, report)
    if goes.rejects is None and on_bad_row != "skip":
        allowed = Allowed(0, 0.0)  # nowhere to put a bad row
    if not goes.to_stdout:
        new_output(goes.output, overwrite, input)
    if goes.rejects is not None:
        new_output(goes.rejects, overwrite or _are_rejects(goes.rejects, str(input)), input)
    if str(events) == STDIN:
        raise ConfigError("Events need a file, however: - is standard output. Give --events a file.")
    listing = None if events is None else new_output(events, overwrite, input, output, goes.rejects, goes.page)
    if listing is not None:
        format_of(listing)
    called = pinned(model)
    folder = resolve(called)
    detector = loaded(folder)
    table, bad = Table.open(input, dialect), list[Reject]()
    X, kept = read(detector, table, keep, progress, bad.append)
    rows = len(X) + len(bad)
    if not len(X) or not allowed.suffices(len(bad), rows):
        _set_aside(goes, bad)
        lacks = ""
        if not len(X):
            lacks = "times" if all(reject.column == detector.time for reject in bad) else "rows"
        first = f"{bad[0].place}: {bad[0].reason}"
        raise too_many(len(bad), rows, allowed, first, goes.rejects, bad[0].remedy, lacks)
    try:
        told, verdict, found, spans = told_rows(detector, X, kept, top_columns, X.index.to_numpy())
    except DataError as error:
        told = f"{error} (Rows are counted without {len(bad):,} bad ones.)" if bad else error
        raise DataError(f"{input}: {told}") from error
    tell(progress, 0.9, "writing")
    listed = found.copy()
    listed.insert(0, "event", np.arange(1, len(found) + 1))
    _set_aside(goes, bad)
    if listing is not None:
        _write(listing, format_of(listing), pa.Table.from_pandas(listed, preserve_index=False))
    _publish(goes, told)
    place = Place(
        nameless(called),
        digest(folder / "manifest.json"),
        asset,
        event_time or last_moment(detector, X),
        None if state is None else Path(state),
    )
    line = laid(detector, X)
    proof = evidence(detector, X, verdict, line.order)
    drift, charts = monitored(place, detector, proof, [str(input)], remember or state is not None, track)
    summary = SeriesScoreSummary(
        model=called,
        input=str(input),
        output=str(goes.output),
        events_output=None if events is None else str(events),
        rows=rows,
        scored=len(X),
        alarms=int(verdict.is_anomaly.sum()),
        alarm_rate=float(verdict.is_anomaly.mean()),
        promised_false_alarm_rate=promised(detector),
        threshold=detector.threshold_.value_,
        event_level=detector.events_.level_,
        events=[{str(name): _plain(value) for name, value in event.items()} for event in found.to_dict("records")],
        ignored_columns=[name for name in [*table.columns, *table.nameless] if name not in {*X.columns, *keep}],
        notes=[
            *told_dropped(detector, X, line),
            *told_unseen(detector, X),
            *told_begun(detector, line),
            *told_unopened(detector, verdict, len(found)),
        ],
        seconds=time.perf_counter() - started,
        rejected=len(bad),
        rejects=str(goes.rejects) if goes.rejects is not None and bad else None,
        monitoring=drift and brief(drift),
    )
    sample = verdict.anomaly_score[line.order][:: max(1, len(X) // SAMPLE)]
    reference = detector.calibration_scores_
    if goes.page is not None:
        tell(progress, 0.95, "drawing")
        figures = of_events(detector, X, (verdict, found, spans))  # on demand alone: they show what was measured
        write_whole(goes.page, batch_page(vars(summary), sample, reference, summary.threshold, drift, figures))
    if not track:
        return summary

    def run() -> Entry:
        plain = summary.in_a_run()
        file = source(input)
        numbers = {"alarms": summary.alarms, "events": len(summary.events), "threshold": summary.threshold}
        numbers |= runs.monitored(drift) if drift else {"alarm_rate": summary.alarm_rate}
        numbers |= {name: getattr(summary, name) for name in ("rows", "scored", "rejected", "seconds")}
        record = runs.of_score(file, runs.Model(place.model, place.model_digest), began, numbers, place.tags(drift))
        texts = {"summary.json": json.dumps(plain, indent=1) + "\n"}
        texts |= {"events.csv": listed.drop(columns=VALUES).to_csv(index=False)} if listing is not None else {}
        texts |= {"monitoring.json": json.dumps(drift, indent=1) + "\n"} if drift else {}
        texts |= written(lambda: batch_page(plain, sample, reference, summary.threshold, drift))
        drawn = picture(lambda: score_histogram(sample, summary.threshold, file.name, reference, summary.scored))
        return record, {**texts, **drawn}, None

    return tracked(summary, run, *charts)


def evidence(detector: SeriesDetector, X: pd.DataFrame, verdict: Verdict, order: NDArray[np.intp]) -> Evidence | None:
    """What monitoring needs of rows, in order of time, and the verdict on them; None where the model has no profile."""
    if detector.profile_ is None:
        return None
    codes, counts = detector.contract_.codes(X.drop(columns=named(detector))), Counts.none(detector.n_features_in_)
    for first in range(0, len(X), BLOCK):
        rows = order[first : first + BLOCK]
        counts += detector.profile_.count(codes[rows], verdict.contributions[rows])
    step = max(1, len(X) // SAMPLE)
    return Evidence(counts, int(verdict.is_anomaly.sum()), verdict.anomaly_score[order][::step], step)


def new_output(path: str | Path, overwrite: bool, *others: str | Path | None) -> Path:
    """Refuse, before any work is done, an output that cannot be published, is there already, or is one of `others`."""
    place = check_output(path, *others)
    if place.exists() and not overwrite:
        raise OutputError(f"An output needs a new file, however: {path} exists. Choose another, or allow overwriting.")
    return place


def _are_rejects(place: Path, input: str) -> bool:
    """Whether a file holds bad rows of an earlier run on the same input: that was refused, or is done again."""
    first = as_table([Reject(input, 0, None, None, None, "", "")]).select(["file"])
    begins = bytes(REJECTS.head(SCHEMA)) + bytes(REJECTS.body(first)).rstrip()
    if not place.is_file():
        return False
    with place.open("rb") as file:
        return file.read(len(begins)) == begins


def _set_aside(goes: Outputs, bad: list[Reject]) -> None:
    """Bad rows as a file; where there are none, none of the usual name, for it would be of another job."""
    if goes.rejects is not None and bad:
        _write(goes.rejects, REJECTS, as_table(bad))
    elif goes.rejects == usual_rejects(goes.output):
        goes.rejects.unlink(missing_ok=True)


def _publish(goes: Outputs, told: pa.Table) -> None:
    """Scores as a file, or on standard output."""
    if goes.to_stdout:
        with Stream(goes.format, None) as out:
            out.begin(told.schema)
            out.write(goes.format.body(told), None)
            out.finish({}, {})
    else:
        _write(goes.output, goes.format, told)


def _write(path: Path, kind: Format, table: pa.Table) -> None:
    """A table as a file that appears complete or not at all."""
    with Draft(path) as draft:
        draft.cut(0)
        try:
            if kind is FORMATS["parquet"]:
                whole = Groups(draft.draft, table.schema)
                whole.add(kind.body(table))
                whole.close()
            else:
                draft.write(kind.head(table.schema))
                draft.write(kind.body(table))
            draft.sync()
        except BaseException:
            draft.discard()
            raise
        publish(draft.draft, path)


def loaded(model: str | Path) -> SeriesDetector:
    """The detector of series in a model folder."""
    detector = load(model)
    if not isinstance(detector, SeriesDetector):
        raise ConfigError(
            f"A series needs a model of series, however: {model} is of {type(detector).__name__}. Fit a SeriesDetector."
        )
    return detector


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
