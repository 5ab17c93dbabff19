"""A picture of a series: channels and what was expected of them, the score, its threshold, and events."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import write_whole
from anomaly_ae.data.tables import Table
from anomaly_ae.errors import ConfigError, MissingExtraError
from anomaly_ae.explanation import Verdict
from anomaly_ae.ops.arguments import Progress, tell
from anomaly_ae.ops.series import loaded, new_output, read
from anomaly_ae.series.detector import SeriesDetector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
PANELS = 12  # channels drawn, at most, unless some are asked for
POINTS = 3000  # places along the time axis; in each the smallest and the largest value are kept
BLUE, ORANGE, RED, GREY = "#2f6690", "#e08e1b", "#c8553d", "#8a8a8a"


def plot(
    model: str | Path,
    input: str | Path,
    output: str | Path,
    channels: Sequence[str] = (),
    overwrite: bool = False,
    dialect: Dialect | None = None,
    progress: Progress | None = None,
) -> tuple[Path, pd.DataFrame]:
    """Draw a file as a model sees it, to PNG, SVG or PDF by the output's ending; returns the file and the events.

    Raises
    ------
    AnomalyError
        When model, table or output are not what they must be; nothing is then written.
    """
    target = new_output(output, overwrite)
    if target.suffix.lower() not in ENDINGS:
        raise ConfigError(f"A plot needs a name that ends in {', '.join(ENDINGS)}, however: {target}. Rename it.")
    try:
        import matplotlib as mpl  # an extra: only pictures need it
    except ImportError as error:
        raise MissingExtraError(
            'plot needs matplotlib, however: it is not installed. Install it with pip install "anomaly-ae[plot]".'
        ) from error
    detector = loaded(model)
    if unknown := [name for name in channels if name not in detector.contract_.names]:
        raise ConfigError(
            f"--channel needs columns of the model, however: {unknown}. It has {detector.contract_.names}."
        )
    X, _ = read(detector, Table.open(input, dialect), progress=progress)
    verdict, events, spans = detector.assess_events(X)
    tell(progress, 0.9, "drawing")
    with mpl.rc_context({"svg.hashsalt": "anomaly-ae", "font.size": 9}):
        figure = draw(detector, X, verdict, events, spans, channels, f"{Path(input).name}, {len(events)} events")
        picture = io.BytesIO()
        figure.savefig(picture, format=target.suffix[1:].lower(), dpi=120)
    write_whole(target, picture.getvalue())
    return target, events


def draw(
    detector: SeriesDetector,
    X: pd.DataFrame,
    verdict: Verdict,
    events: pd.DataFrame,
    spans: Sequence[NDArray[np.intp]],
    channels: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """One panel a channel, the most blamed first, and one for the score; all share the time axis.

    Blue is what was measured, orange what the other channels let expect. Events are shaded: red in the panels of the
    channels that they blame, grey elsewhere.
    """
    from matplotlib.figure import Figure

    names, rule = detector.contract_.names, detector.events_
    blamed = np.zeros(len(names))
    for rows in spans:
        blamed += verdict.contributions[rows].sum(axis=0)
    order = [names[j] for j in np.argsort(-blamed, kind="stable")]
    shown = list(channels) or order[:PANELS]
    left_out = len(names) - len(shown)
    codes, expected = detector.contract_.codes(X[names]) if set(names) <= set(X) else X.to_numpy(), detector.expected(X)
    times = _axis(detector, X)
    figure = Figure(figsize=(12, 1.6 + 1.05 * len(shown) + 1.4), layout="constrained")
    panels: Any = figure.subplots(len(shown) + 1, 1, sharex=True, squeeze=False, height_ratios=[*[1] * len(shown), 1.6])
    for panel, name in zip(panels[:-1, 0], shown, strict=True):
        j = names.index(name)
        _line(panel, times, expected[:, j], ORANGE, "expected from the other channels", 1.2)
        _line(panel, times, codes[:, j], BLUE, "measured", 0.8)
        if np.isfinite(codes[:, j]).any():  # where much is wrong, what is expected may be anywhere
            low, high = np.nanmin(codes[:, j]), np.nanmax(codes[:, j])
            room = 0.25 * (high - low) or 1.0
            panel.set_ylim(low - room, high + room)
        panel.set_ylabel(name, rotation=0, ha="right", va="center")
        for number, rows in enumerate(spans):
            guilty = any(
                events[f"channel_{k}"].iloc[number] == name and events[f"channel_{k}_share"].iloc[number] >= 0.1
                for k in (1, 2, 3)
                if f"channel_{k}" in events
            )
            panel.axvspan(
                times[rows[0]], times[rows[-1]], color=RED if guilty else GREY, alpha=0.25 if guilty else 0.1, lw=0
            )
    bottom = panels[-1, 0]
    _line(bottom, times, verdict.anomaly_score, "black", "score", 0.8)
    bottom.axhline(detector.threshold_.value_, color=GREY, ls=":", label=f"threshold {detector.threshold_.value_:.3g}")
    bottom.axhline(rule.level_, color=RED, ls="--", label=f"an event opens {rule.level_:.3g}")
    if verdict.anomaly_score.max() > 4 * rule.level_:
        bottom.set_yscale("symlog", linthresh=rule.level_)
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("anomaly\nscore", rotation=0, ha="right", va="center")
    for number, rows in enumerate(spans, 1):
        bottom.axvspan(times[rows[0]], times[rows[-1]], color=RED, alpha=0.25, lw=0)
        middle = times[rows[len(rows) // 2]]
        bottom.annotate(
            str(number), (middle, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", color=RED
        )
    for panel in panels[:, 0]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.005)
    panels[0, 0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    bottom.legend(loc="upper left", ncols=3, frameon=False)
    figure.suptitle(title + (f" ({left_out} channels not drawn)" if left_out else ""), x=0.01, ha="left")
    return figure


def _axis(detector: SeriesDetector, X: pd.DataFrame) -> NDArray[Any]:
    """Where rows lie along the axis: dates as such, else numbers, else rows from 1."""
    given: Any = X[detector.time] if detector.time is not None else X.index
    if detector.time is None and not isinstance(given, pd.DatetimeIndex):
        return np.arange(1, len(X) + 1)
    if pd.api.types.is_numeric_dtype(given.dtype):
        return np.asarray(given)
    return pd.DatetimeIndex(pd.to_datetime(given, format="ISO8601", utc=True)).tz_localize(None).to_numpy()


def _line(panel: Axes, x: NDArray[Any], y: NDArray[np.float64], color: str, label: str, width: float) -> None:
    """A line through no more points than can be told apart, that keeps every spike."""
    n = len(x)
    if n > 4 * POINTS:
        edges = np.linspace(0, n, POINTS + 1).astype(int)
        kept = np.array(
            [
                place
                for low, high in pairwise(edges.tolist())
                if not np.isnan(y[low:high]).all()
                for place in sorted({low + int(np.nanargmin(y[low:high])), low + int(np.nanargmax(y[low:high]))})
            ],
            dtype=np.intp,
        )
        x, y = x[kept], y[kept]
    panel.plot(x, y, color=color, lw=width, label=label)
