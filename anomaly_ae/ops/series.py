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
from anomaly_ae.data.formats import FORMATS, Groups, format_of
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
from anomaly_ae.ops.fitting import check_register, entry, learn, publish_model, source
from anomaly_ae.ops.pictures import score_histogram
from anomaly_ae.ops.report import batch_page
from anomaly_ae.ops.series_picture import of_events
from anomaly_ae.ops.series_summary import VALUES, SeriesFitSummary, SeriesScoreSummary, told_guess, told_unopened
from anomaly_ae.ops.series_table import named, told_rows
from anomaly_ae.ops.series_times import check_groups, laid, last_moment, told_begun, told_dropped, told_unseen
from anomaly_ae.ops.tally import SAMPLE, nameless
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
) -> SeriesFitSummary:
    """Fit the `SeriesDetector` of a YAML file (default: `SeriesDetector(random_state=0)`) on all rows of a table.

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
) -> SeriesScoreSummary:
    """Score every row of a series, and write what happened in it.

    Columns out: `row` (1-based), those of time, group and `keep`, `anomaly_score`, `p_value`, `is_anomaly`, `event`
    (its number, where there is one), then `top_1`, `top_1_share` and so on, empty where no column contributes anything.

    Raises
    ------
    AnomalyError
        When model, table or output are not what they must be; nothing is then written.
    """
    started, began = time.perf_counter(), now()
    page = None if report is None else check_page(report, input, output, events)
    target = new_output(output, overwrite, input)
    listing = None if events is None else new_output(events, overwrite, input, output)
    for path in (target, listing):
        if path is not None:
            format_of(path)
    called = pinned(model)
    folder = resolve(called)
    detector = loaded(folder)
    table = Table.open(input, dialect)
    X, kept = read(detector, table, keep, progress)
    try:
        told, verdict, found, spans = told_rows(detector, X, kept, top_columns)
    except DataError as error:
        raise DataError(f"{input}: {error}") from error
    tell(progress, 0.9, "writing")
    listed = found.copy()
    listed.insert(0, "event", np.arange(1, len(found) + 1))
    if listing is not None:
        _write(listing, pa.Table.from_pandas(listed, preserve_index=False))
    _write(target, told)
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
        output=str(target),
        events_output=None if events is None else str(events),
        rows=len(X),
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
        monitoring=drift and brief(drift),
    )
    sample = verdict.anomaly_score[line.order][:: max(1, len(X) // SAMPLE)]
    reference = detector.calibration_scores_
    if page is not None:
        tell(progress, 0.95, "drawing")
        figures = of_events(detector, X, (verdict, found, spans))  # on demand alone: they show what was measured
        write_whole(page, batch_page(vars(summary), sample, reference, summary.threshold, drift, figures))
    if not track:
        return summary

    def run() -> Entry:
        plain = summary.in_a_run()
        file = source(input)
        numbers = {"alarms": summary.alarms, "events": len(summary.events), "threshold": summary.threshold}
        numbers |= runs.monitored(drift) if drift else {"alarm_rate": summary.alarm_rate}
        numbers |= {"rows": summary.rows, "seconds": summary.seconds}
        record = runs.of_score(file, runs.Model(place.model, place.model_digest), began, numbers, place.tags(drift))
        texts = {"summary.json": json.dumps(plain, indent=1) + "\n"}
        texts |= {"events.csv": listed.drop(columns=VALUES).to_csv(index=False)} if listing is not None else {}
        texts |= {"monitoring.json": json.dumps(drift, indent=1) + "\n"} if drift else {}
        texts |= written(lambda: batch_page(plain, sample, reference, summary.threshold, drift))
        drawn = picture(lambda: score_histogram(sample, summary.threshold, file.name, reference, summary.rows))
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


def read(
    detector: SeriesDetector, table: Table, keep: Sequence[str] = (), progress: Progress | None = None
) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """The columns of a table that a model takes, and those to keep; `progress` is told of the first half of a job."""
    channels = detector.contract_.columns
    names = list(getattr(detector, "feature_names_in_", [])) or [column.name for column in channels]
    table.require([*named(detector), *names], "The model")
    table.require(keep, "--keep")
    numbers = [name for name, column in zip(names, channels, strict=True) if column.kind == "number"]
    texts = [name for name in names if name not in set(numbers)]
    wanted = [name for name in keep if name not in named(detector)]
    beside = [name for name in dict.fromkeys([*named(detector), *wanted]) if name not in names]
    blocks = []
    for block in table.blocks(numbers, [*texts, *beside], BLOCK):
        blocks.append(block.X)
        tell(progress, 0.5 * block.share_read, "reading")
    rows = pd.concat(blocks)
    tell(progress, 0.5, "scoring")
    X = rows[[*named(detector), *names]]
    if detector.time is not None:
        X = X.assign(**table.read([detector.time], BLOCK))
    check_groups(detector, X, table.source.name)
    return X, {name: rows[name] for name in wanted}


def new_output(path: str | Path, overwrite: bool, *others: str | Path) -> Path:
    """Refuse, before any work is done, an output that cannot be published, is there already, or is one of `others`."""
    place = check_output(path, *others)
    if place.exists() and not overwrite:
        raise OutputError(f"An output needs a new file, however: {path} exists. Choose another, or allow overwriting.")
    return place


def _write(path: Path, table: pa.Table) -> None:
    """A table as a file that appears complete or not at all."""
    kind = format_of(path)
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
