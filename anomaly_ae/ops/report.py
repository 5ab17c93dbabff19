"""Pictures of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def score_histogram(
    scores: NDArray[np.float64], threshold: float, title: str, reference: NDArray[np.float64] | None = None
) -> Figure:
    """Draw how scores are spread, where the threshold lies and how many are beyond it.

    `scores` `(n,)` are drawn as bars; `reference` `(m,)`, the calibrate rows' scores, as an outline scaled to the same
    number of rows. The axis is logarithmic where all scores are positive and span more than a decade.
    """
    from matplotlib.figure import Figure

    shown = scores if reference is None else np.concatenate([scores, reference])
    low, high = float(min(shown.min(), threshold)), float(max(shown.max(), threshold))
    if low == high:
        low, high = low - 0.5, high + 0.5
    logarithmic = low > 0 and high / low > 10
    edges = (np.geomspace if logarithmic else np.linspace)(low, high, 61).tolist()
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.hist(scores[scores <= threshold], edges, color="#4878a8", label="normal")
    axes.hist(scores[scores > threshold], edges, color="#c8553d", label="alarm")
    if reference is not None:
        weights = np.full(len(reference), len(scores) / len(reference))
        axes.hist(reference, edges, weights=weights, histtype="step", color="black", label="calibrate rows, scaled")
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.4g}")
    if logarithmic:
        axes.set_xscale("log")
    alarms = int((scores > threshold).sum())
    axes.set(
        title=f"{title}: {alarms} of {len(scores)} rows beyond the threshold", xlabel="anomaly score", ylabel="rows"
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
