"""Pictures of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY_DECADES = 1000  # from how many times the least score on an axis has room for powers of ten alone


def score_histogram(
    scores: NDArray[np.float64],
    threshold: float,
    title: str,
    reference: NDArray[np.float64] | None = None,
    rows: int | None = None,
) -> Figure:
    """Draw how scores are spread, where the threshold lies and how many are beyond it.

    `scores` `(n,)`, which may be a sample of those of `rows`, are drawn as bars; `reference` `(m,)`, the calibrate
    rows' scores, as an outline scaled to the same number of rows. The axis is logarithmic where all scores are positive
    and span more than a decade.
    """
    from matplotlib.figure import Figure

    shown = scores if reference is None else np.concatenate([scores, reference])
    edges = bins(shown, threshold)
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots(gridspec_kw={"left": 0.09, "right": 0.98, "bottom": 0.13, "top": 0.91})
    for some, colour, label in ((scores <= threshold, "#4878a8", "normal"), (scores > threshold, "#c8553d", "alarm")):
        axes.stairs(np.histogram(scores[some], edges)[0], edges, fill=True, color=colour, label=label)
    if reference is not None:
        heights = np.histogram(reference, edges)[0] * len(scores) / len(reference)
        axes.stairs(heights, edges, color="black", label="calibrate rows, scaled")
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.4g}")
    scale(axes, edges)
    alarms = int((scores > threshold).sum())
    title = title.replace("$", r"\$")  # no formula
    which = f"{alarms:,} of {len(scores):,} rows"
    if rows is not None and rows > len(scores):
        which = f"{alarms:,} in a sample of {len(scores):,} from {rows:,} rows"
    axes.set(title=f"{title}: {which} beyond the threshold", xlabel="anomaly score", ylabel="rows")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def bins(scores: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """Edges of bins of scores `(n,)`, with room for the threshold: of equal ratio where all are positive and span more
    than a decade, else of equal width."""
    low, high = float(min(scores.min(), threshold)), float(max(scores.max(), threshold))
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = (np.geomspace if _by_ratio(low, high) else np.linspace)(low, high, 61)
    edges[0], edges[-1] = low, high  # geomspace rounds
    return edges


def scale(axes: Axes, edges: NDArray[np.float64]) -> None:
    """Have an axis of scores be as their bins are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = edges[0], edges[-1]
    if _by_ratio(low, high):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < MANY_DECADES else (1,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{score:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _by_ratio(low: float, high: float) -> bool:
    return low > 0 and high / low > 10


def curves(history: pd.DataFrame) -> Figure:
    """Draw the losses of a fit by epoch, the mean over its nets."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3))
    axes = figure.subplots(gridspec_kw={"left": 0.09, "right": 0.98, "bottom": 0.17, "top": 0.96})
    means = history.groupby("epoch").mean()
    for name, colour, style in (("loss", "#4878a8", "-"), ("validate_loss", "#c8553d", "--")):
        if name in means and means[name].notna().any():
            axes.plot(means.index, means[name], style, color=colour, label=name.replace("_", " "))
    axes.set(xlabel="epoch", ylabel="loss")
    return finished(figure)


def over_time(batches: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw what was found in batches by their event times: alarm rate, distance of scores, columns, the martingale."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    when = [datetime.fromisoformat(batch["event_time"]) for batch in batches]
    figure = Figure(figsize=(8, 7))
    margins = {"left": 0.1, "right": 0.98, "bottom": 0.08, "top": 0.98, "hspace": 0.12}
    rate, score, count, capital = figure.subplots(4, sharex=True, gridspec_kw=margins)
    rates = np.array([batch["alarm_rate"] for batch in batches])
    low, high = np.array([batch["alarm_interval"] for batch in batches]).T
    rate.errorbar(when, rates, [rates - low, high - rates], fmt="o-", color="#4878a8", markersize=3, linewidth=1)
    if batches[-1]["promised"] is not None:
        rate.axhline(batches[-1]["promised"], color="#c8553d", linestyle="--", label="expected of normal rows, at most")
    rate.set_ylabel("alarm rate")
    distances = [batch["score"]["ks"] for batch in batches]
    score.plot(when, distances, "o-", color="#4878a8", markersize=3, linewidth=1)
    score.set(ylabel="score drift", ylim=(0, max(0.1, *distances) * 1.1))
    count.vlines(when, 0, [len(batch["drifting"]) for batch in batches], color="#4878a8", linewidth=3)
    count.set(ylabel="columns that drift", ylim=(0, max(1, *(len(batch["drifting"]) for batch in batches)) * 1.1))
    count.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    levels = [batch["martingale"]["log10"] for batch in batches]
    capital.plot(when, levels, "o-", color="#4878a8", markersize=3, linewidth=1)
    capital.axhline(batches[-1]["martingale"]["level_log10"], color="#c8553d", linestyle="--", label="alarm")
    capital.set_ylabel("martingale, log10")
    if when[0] == when[-1]:  # matplotlib would show years around it
        capital.set_xlim(when[0] - timedelta(hours=12), when[0] + timedelta(hours=12))
    locator = AutoDateLocator()
    capital.xaxis.set_major_locator(locator)
    capital.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return finished(figure)


def small(features: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the shares of columns' bins, now as bars and at fit as a line, a column a panel."""
    from matplotlib.figure import Figure

    wide = min(3, len(features))
    tall = -(-len(features) // wide)
    height = 2.2 * tall + 0.3
    figure = Figure(figsize=(8, height))
    margins = {"left": 0.07, "right": 0.98, "bottom": 0.3 / height, "top": 1 - 0.3 / height, "hspace": 0.4}
    panels = figure.subplots(tall, wide, squeeze=False, gridspec_kw=margins).ravel()
    for panel, feature in zip(panels, features, strict=False):
        places = np.arange(len(feature["labels"]))
        panel.bar(places, feature["seen"], width=0.9, color="#4878a8")
        panel.stairs(feature["reference"], np.append(places, len(places)) - 0.5, color="#000000", baseline=None)
        panel.set_title(shortened(feature["name"], 28), fontsize=9)
        shown = places[:: max(1, len(places) - 1)] if len(places) > 6 else places
        most = max(6, min(16, 36 // len(shown)))
        panel.set_xticks(shown, [shortened(feature["labels"][place], most) for place in shown], fontsize=7)
        if len(places) > 6:  # the ends alone, within the panel: neighbours have theirs
            first, last = panel.get_xticklabels()
            first.set_horizontalalignment("left")
            last.set_horizontalalignment("right")
        panel.tick_params(axis="y", labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[::wide]:
        panel.set_ylabel("share of rows", fontsize=7)
    for panel in panels[len(features) :]:
        panel.set_visible(False)
    return figure


def shortened(text: str, most: int) -> str:
    """A text without its end, where it is longer; without what matplotlib takes for formulas."""
    return (text if len(text) <= most else f"{text[: most - 3]}...").replace("$", r"\$")


def finished(figure: Figure) -> Figure:
    """A figure without frames, with legends where there is something to tell."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False)
    return figure
