"""Pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.ops.pictures import bins, finished, scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
NORMAL, ANOMALY, UNKNOWN = "#4878a8", "#c8553d", "#5d6875"
EMBEDDED = 500  # codes, which t-SNE places in a few seconds
MARGINS = {"left": 0.1, "right": 0.98, "bottom": 0.14, "top": 0.95, "wspace": 0.22}


def curves(normal: Floats, anomalous: Floats, threshold: float) -> Figure:
    """Draw recall against false alarms, and precision against recall, with where the threshold lies."""
    from matplotlib.figure import Figure
    from sklearn.metrics import precision_recall_curve, roc_curve

    truth = np.repeat([False, True], [len(normal), len(anomalous)])
    score = np.concatenate([normal, anomalous])
    alarm = score > threshold
    recall, false = float(alarm[truth].mean()), float(alarm[~truth].mean())
    figure = Figure(figsize=(8, 3.6))
    left, right = figure.subplots(1, 2, gridspec_kw=MARGINS)
    false_rates, recalls, _ = roc_curve(truth, score)
    left.plot(false_rates, recalls, color=NORMAL, drawstyle="steps-post")
    left.plot([0, 1], [0, 1], color=UNKNOWN, linestyle=":", label="random order")
    left.plot([false], [recall], "o", color=ANOMALY, label="the threshold")
    left.set(xlabel="false-alarm rate", ylabel="recall", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    precisions, recalls, _ = precision_recall_curve(truth, score)
    right.plot(recalls, precisions, color=NORMAL, drawstyle="steps-post")
    right.axhline(truth.mean(), color=UNKNOWN, linestyle=":", label="random order")
    if alarm.any():
        right.plot([recall], [truth[alarm].mean()], "o", color=ANOMALY, label="the threshold")
    right.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return finished(figure)


def scores(normal: Floats, anomalous: Floats, threshold: float) -> Figure:
    """Draw how scores are spread, normal rows above and anomalies below, as shares of each."""
    from matplotlib.figure import Figure

    edges = bins(np.concatenate([normal, anomalous]), threshold)
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots(gridspec_kw=MARGINS)
    for some, colour, label in ((normal, NORMAL, "normal rows"), (anomalous, ANOMALY, "anomalies")):
        heights = np.histogram(some, edges)[0] / len(some)
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.6, label=label)
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.4g}")
    scale(axes, edges)
    axes.set(xlabel="anomaly score", ylabel="share of each")
    return finished(figure)


def robustness(curve: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw AUROC and false alarms against how far rows are spoilt, a kind a panel."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(line["kind"] for line in curve))
    figure = Figure(figsize=(8, 2.8))
    margins = {**MARGINS, "bottom": 0.19, "top": 0.81}
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False, gridspec_kw=margins)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        lines = [line for line in curve if line["kind"] == kind]
        levels = [line["level"] for line in lines]
        panel.plot(levels, [line["auroc"] for line in lines], "o-", color=NORMAL, markersize=3, label="AUROC")
        panel.plot(
            levels,
            [line["false_alarm_rate"] for line in lines],
            "s--",
            color=ANOMALY,
            markersize=3,
            label="false alarms",
        )
        panel.set_title(kind, fontsize=10)
        panel.set(ylim=(-0.02, 1.02))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("AUROC, rate")
    figure.supxlabel("level", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="upper right", ncols=2, frameon=False, fontsize=9)
    return figure


def codes(z: Floats, of: NDArray[np.int64]) -> Figure:
    """Draw codes by label: on their first two principal components, and so that neighbours stay together (t-SNE)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4))
    left, right = figure.subplots(1, 2, gridspec_kw=MARGINS)
    _labelled(left, _plane(z, of), of)
    left.set(xlabel="first principal component of normal codes", ylabel="second")
    some = np.linspace(0, len(z) - 1, min(len(z), EMBEDDED)).astype(np.intp)
    _labelled(right, _neighbourhoods(z[some]), of[some])
    right.set(xlabel="t-SNE: neighbours stay together", xticks=[], yticks=[])
    return finished(figure)


def _plane(z: Floats, of: NDArray[np.int64]) -> Floats:
    """Codes on the first two principal components of normal ones; far ones are held at the edge."""
    from sklearn.decomposition import PCA

    known = z[of == 1] if (of == 1).sum() > 2 else z
    components = PCA(2).fit(known)
    plane, spread = components.transform(z), np.std(components.transform(known), axis=0)
    middle, reach = np.median(plane, axis=0), 6 * spread + 1e-12
    return np.clip(plane, middle - reach, middle + reach)


def _neighbourhoods(z: Floats) -> Floats:
    """Places of codes in a plane in which neighbours are together (van der Maaten and Hinton 2008, JMLR 9)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30, (len(z) - 1) / 3)
    with threadpool_limits(1):  # of few points threads spend their time on waiting for each other
        return TSNE(2, init="pca", perplexity=perplexity, random_state=0).fit_transform(z)


def _labelled(axes: Axes, plane: Floats, of: NDArray[np.int64]) -> None:
    for label, colour, mark, name in (
        (0, UNKNOWN, "x", "no label"),
        (1, NORMAL, "o", "normal rows"),
        (-1, ANOMALY, "^", "anomalies"),
    ):
        if (of == label).any():
            points = plane[of == label]
            axes.plot(points[:, 0], points[:, 1], mark, color=colour, markersize=3, alpha=0.6, label=name)
