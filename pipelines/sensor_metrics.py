"""What some suites of sensor benchmarks count; what is of use elsewhere is in `anomaly_ae.evaluation`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.bool_]


def counts(label: Labels, alarm: Labels) -> dict[str, int]:
    """Rows alarmed and labelled, alarmed only, labelled only, neither."""
    label, alarm = np.asarray(label, dtype=bool), np.asarray(alarm, dtype=bool)
    pairs = {"tp": label & alarm, "fp": ~label & alarm, "fn": label & ~alarm, "tn": ~label & ~alarm}
    return {name: int(rows.sum()) for name, rows in pairs.items()}


def rates(tp: int, fp: int, fn: int, tn: int) -> dict[str, float]:
    """F1, false-alarm rate FP / (FP + TN) and missed-alarm rate FN / (FN + TP) by rows; 0 where undefined."""
    return {
        "f1": 2 * tp / max(2 * tp + fp + fn, 1),
        "far": fp / max(fp + tn, 1),
        "mar": fn / max(fn + tp, 1),
    }


def found(score: Array, start: int, end: int, least: int = 100) -> bool:
    """Whether the row of the top score lies within max(`least`, its length) of the one event from `start` to `end`."""
    top, slack = int(np.argmax(score)), max(least, end - start)
    return start - slack <= top <= end + slack
