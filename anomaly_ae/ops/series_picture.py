"""Pictures of a series: channels and what was expected of them, the score, its threshold, and events."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_ae.explanation import Verdict
from anomaly_ae.ops.series_times import laid
from anomaly_ae.series.detector import SeriesDetector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 12  # channels drawn, at most, unless some are asked for
PAGE_PANELS, PAGE_MACHINES = 5, 3  # on a page
COLUMNS = 4  # machines drawn, at most, unless some are asked for
POINTS = 1500  # places along the time axis; in each the smallest and the largest value are kept
BLUE, ORANGE, RED, GREY = "#2f6690", "#e08e1b", "#c8553d", "#8a8a8a"
Assessed = tuple[Verdict, pd.DataFrame, list[NDArray[np.intp]]]  # what `assess_events` says of rows


class Machine(NamedTuple):
    """What is drawn of the rows of one group, in order of time; `run` says which of them follow each other."""

    name: str | None
    times: NDArray[Any]
    run: NDArray[np.intp]
    codes: NDArray[np.float64]
    expected: NDArray[np.float64]
    score: NDArray[np.float64]
    contributions: NDArray[np.float64]
    events: pd.DataFrame  # indexed by their numbers
    spans: list[NDArray[np.intp]]


def machines_of(
    detector: SeriesDetector, X: pd.DataFrame, assessed: Assessed, asked: Sequence[str] = ()
) -> tuple[list[Machine], int]:
    """The groups of a table that were asked for, else all or the strangest; and how many are left out."""
    verdict, events, spans = assessed
    line, names = laid(detector, X), detector.contract_.names
    run = np.searchsorted(line.bounds[:, 0], line.place, side="right")
    of: Any = np.zeros(len(X)) if detector.group is None else X[detector.group].map(str).to_numpy()
    shown = list(asked) or list(dict.fromkeys(of))
    if not asked and len(shown) > COLUMNS:
        highest = pd.Series(verdict.anomaly_score).groupby(of).max()
        shown = sorted(shown, key=lambda group: -highest[group])[:COLUMNS]
    machines = []
    for group in shown:
        rows = np.flatnonzero(of == group)
        mine = X.iloc[rows]
        numbers = [number for number, span in enumerate(spans) if of[span[0]] == group]
        machines.append(
            Machine(
                None if detector.group is None else str(group),
                _axis(detector, mine),
                run[rows],
                detector.contract_.codes(mine[names]) if set(names) <= set(mine) else mine.to_numpy(),
                detector.expected(mine),
                verdict.anomaly_score[rows],
                verdict.contributions[rows],
                events.iloc[numbers].set_index(pd.Index(numbers) + 1),
                [np.searchsorted(rows, spans[number]) for number in numbers],
            )
        )
    return machines, 0 if asked else len(set(of)) - len(shown)


def draw(
    detector: SeriesDetector,
    machines: Sequence[Machine],
    channels: Sequence[str] = (),
    title: str = "",
    most: int = PANELS,
    width: float = 8.0,
) -> Figure:
    """A column a machine: one panel a channel, those asked for or the most blamed, and one for the score.

    There are at most `most` of these unless some are asked for; a machine's are `width` inches wide. Blue is what was
    measured, orange what the other channels let expect. Events are shaded: red in the panels of the channels that they
    blame, grey elsewhere.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    names = detector.contract_.names
    blamed = np.zeros(len(names))
    for machine in machines:
        for rows in machine.spans:
            blamed += machine.contributions[rows].sum(axis=0)
    order = [names[j] for j in np.argsort(-blamed, kind="stable")]
    shown = list(channels) or order[:most]
    left_out = len(names) - len(shown)
    figure = Figure(figsize=(4 + width * len(machines), 1.6 + 1.05 * len(shown) + 1.4), layout="constrained")
    heights = [*[1] * len(shown), 1.6]
    panels: Any = figure.subplots(
        len(shown) + 1, len(machines), sharex="col", sharey="row", squeeze=False, height_ratios=heights
    )
    for row, name in zip(panels[:-1], shown, strict=True):
        j = names.index(name)
        for panel, machine in zip(row, machines, strict=True):
            _channel(panel, machine, name, j)
        values = np.concatenate([machine.codes[:, j] for machine in machines])
        if np.isfinite(values).any():  # where much is wrong, what is expected may be anywhere
            low, high = np.nanmin(values), np.nanmax(values)
            room = 0.25 * (high - low) or 1.0
            row[0].set_ylim(low - room, high + room)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", parse_math=False)
    for panel, machine in zip(panels[-1], machines, strict=True):
        _score(panel, machine, detector)
    level = detector.events_.level_
    highest = max(machine.score.max() for machine in machines)
    if highest > 4 * level:  # linear up to the level, then in steps of two, five and ten
        steps = [m * 10.0**e for e in range(-3, 12) for m in (1, 2, 5)]
        for panel in panels[-1]:
            panel.set_yscale("symlog", linthresh=level)
            panel.yaxis.set_major_locator(FixedLocator([0, *(one for one in steps if level < one < highest)]))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{score:g}"))
            panel.yaxis.set_minor_locator(NullLocator())
    for panel, machine in zip(panels[-1], machines, strict=True):
        if machine.times.dtype.kind == "M":
            panel.xaxis.set_major_locator(locator := AutoDateLocator())
            panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    panels[-1, 0].set_ylim(bottom=0)
    panels[-1, 0].set_ylabel("anomaly\nscore", rotation=0, ha="right", va="center")
    for panel in panels.ravel():
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.005)
    for panel, machine in zip(panels[0], machines, strict=True):
        if machine.name is not None:
            panel.set_title(machine.name, loc="left", fontweight="bold", parse_math=False)
    handles = [
        *panels[0, 0].get_legend_handles_labels()[0],
        Patch(color=RED, alpha=0.25, lw=0, label="event, channel to blame"),
        Patch(color=GREY, alpha=0.1, lw=0, label="event, another to blame"),
        *panels[-1, 0].get_legend_handles_labels()[0],
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    title += f" ({left_out} channels not drawn)" if left_out else ""
    figure.suptitle(title, x=0.01, ha="left", parse_math=False)
    return figure


def of_events(detector: SeriesDetector, X: pd.DataFrame, assessed: Assessed) -> list[tuple[str, Figure]]:
    """The strangest machines that had events, and the channels that these blame: with names, a picture each."""
    events = assessed[1]
    if not len(events):
        return []
    severest: list[str] = []
    if detector.group is not None:
        severest.extend(events.groupby("group")["severity"].max().nlargest(PAGE_MACHINES).index.map(str))
    machines = machines_of(detector, X, assessed, severest)[0]
    return [(machine.name or "", draw(detector, [machine], most=PAGE_PANELS, width=5.0)) for machine in machines]


def _channel(panel: Axes, machine: Machine, name: str, j: int) -> None:
    """What was measured and expected of a channel; events are red where they blame it."""
    _line(panel, machine, machine.expected[:, j], ORANGE, "expected from the other channels", 1.2)
    _line(panel, machine, machine.codes[:, j], BLUE, "measured", 0.8)
    for event, rows in zip(machine.events.to_dict("records"), machine.spans, strict=True):
        guilty = any(event.get(f"channel_{k}") == name and event[f"channel_{k}_share"] >= 0.1 for k in (1, 2, 3))
        first, last = machine.times[rows[0]], machine.times[rows[-1]]
        panel.axvspan(first, last, color=RED if guilty else GREY, alpha=0.25 if guilty else 0.1, lw=0)


def _score(panel: Axes, machine: Machine, detector: SeriesDetector) -> None:
    """The score, its threshold, and events with their numbers."""
    threshold, level = detector.threshold_.value_, detector.events_.level_
    _line(panel, machine, machine.score, "black", "score", 0.8)
    panel.axhline(threshold, color=GREY, ls=":", label=f"threshold {threshold:.3g}")
    panel.axhline(level, color=RED, ls="--", label=f"an event opens {level:.3g}")
    for number, rows in zip(machine.events.index, machine.spans, strict=True):
        panel.axvspan(machine.times[rows[0]], machine.times[rows[-1]], color=RED, alpha=0.25, lw=0)
        middle = machine.times[rows[len(rows) // 2]]
        panel.annotate(
            str(number), (middle, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", color=RED
        )


def _axis(detector: SeriesDetector, X: pd.DataFrame) -> NDArray[Any]:
    """Where rows lie along the axis: dates as such, else numbers, else rows from 1."""
    given: Any = X[detector.time] if detector.time is not None else X.index
    if detector.time is None and not isinstance(given, pd.DatetimeIndex):
        return np.arange(1, len(X) + 1)
    if pd.api.types.is_numeric_dtype(given.dtype):
        return np.asarray(given)
    return pd.DatetimeIndex(pd.to_datetime(given, format="ISO8601", utc=True)).tz_localize(None).to_numpy()


def _line(panel: Axes, machine: Machine, y: NDArray[np.float64], color: str, label: str, width: float) -> None:
    """A line through no more points than can be told apart, that keeps every spike and ends where rows are missing."""
    x, run, n = machine.times, machine.run, len(y)
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
        x, y, run = x[kept], y[kept], run[kept]
    ends = np.flatnonzero(np.diff(run)) + 1
    panel.plot(np.insert(x, ends, x[ends]), np.insert(y, ends, np.nan), color=color, lw=width, label=label)
    alone = np.isin(
        run, [number for number, rows in zip(*np.unique(run, return_counts=True), strict=True) if rows == 1]
    )
    panel.plot(x[alone], y[alone], ".", color=color, ms=3)
