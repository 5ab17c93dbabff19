"""What is said of the rows of a series, as a table of scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_ae.explanation import Verdict
from anomaly_ae.scoring.attribution import top
from anomaly_ae.series.detector import SeriesDetector
from anomaly_ae.series.events import is_place


class SeriesTold(NamedTuple):
    """A row of scores a row, the verdict that they are of, the table of events, and which rows each is of."""

    table: pa.Table
    verdict: Verdict
    events: pd.DataFrame
    spans: list[NDArray[np.intp]]


def told_rows(
    detector: SeriesDetector,
    X: Any,
    kept: Mapping[str, Any],
    top_columns: int,
    rows: NDArray[np.int64] | None = None,
) -> SeriesTold:
    """Columns: `row`, those of time, group and `kept`, `anomaly_score`, `p_value`, `is_anomaly`, `event` (its number,
    where there is one), then `top_1`, `top_1_share` and so on, empty where no column contributes anything.

    `rows` are the numbers of rows, from 1, where some between them are missing.
    """
    verdict, found, spans = detector.assess_events(X)
    if rows is not None and detector.time is None:
        found = found.assign(**{name: rows[found[name]] - 1 for name in map(str, found) if is_place(name)})
    number = np.zeros(len(X), dtype=np.int64)
    for event, places in enumerate(spans, 1):
        number[places] = event
    columns: dict[str, Any] = {"row": np.arange(1, len(X) + 1) if rows is None else rows}
    columns |= {name: X[name].to_numpy() for name in named(detector)} | dict(kept)
    columns |= {"anomaly_score": verdict.anomaly_score, "p_value": verdict.p_value, "is_anomaly": verdict.is_anomaly}
    columns["event"] = pa.array(number, mask=number == 0)
    which, share = top(verdict.contributions, top_columns)
    innocent = ~verdict.contributions.any(axis=1)  # all columns: there is nothing to blame them for
    for k in range(which.shape[1]):
        blamed = np.asarray(detector.contract_.names, dtype=object)[which[:, k]]
        columns[f"top_{k + 1}"] = pa.array(blamed, pa.string(), mask=innocent)
        columns[f"top_{k + 1}_share"] = pa.array(share[:, k], mask=innocent)
    return SeriesTold(pa.table(columns), verdict, found, spans)


def named(detector: SeriesDetector) -> list[str]:
    """The columns of time and group."""
    return [name for name in (detector.time, detector.group) if name is not None]
