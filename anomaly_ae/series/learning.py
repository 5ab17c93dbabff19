"""The folds of a fit on series, one after the other, told of to whoever watches."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_ae.errors import ConfigError
from anomaly_ae.series.channels import Channels
from anomaly_ae.series.fold import LEVEL, SeriesFold
from anomaly_ae.series.windows import Kinds

Array = NDArray[np.float64]
EPOCHS = ["net", "epoch"]  # what a history without a net has


def check_inner(detector: Any) -> None:
    """Refuse a detector of rows that cannot be, or that asks for what has no effect on series."""
    detector._validate_params()
    for name, only in (("members", 1), ("warm_start", False)):
        if getattr(detector, name) != only:
            raise ConfigError(
                f"SeriesDetector trains one net, and anew at each fit, however: its detector has {name}="
                f"{getattr(detector, name)!r}. Leave {name} at {only}."
            )


class Learning:
    """Folds of a `SeriesDetector` one after the other, told of to its callbacks."""

    def __init__(self, detector: Any, rows: Array, rng: np.random.RandomState, folds: int) -> None:
        self.detector, self.rows, self.rng, self.folds = detector, rows, rng, folds
        self.records: list[dict[str, float]] = []
        self.done = 0
        self.context = detector._init_callback_context(max_subtasks=folds)
        self.context.call_on_fit_task_begin(estimator=detector, X=rows)

    def fold(self, kinds: Kinds) -> SeriesFold:
        """A fold that has learned from rows of these kinds."""
        detector, inner = self.detector, self.detector._inner()
        self.done += 1
        name = f"net {self.done} of {self.folds}"
        task = self.context.subcontext(task_name=name, max_subtasks=inner.epochs)
        task.call_on_fit_task_begin(estimator=detector)

        def on_epoch(record: dict[str, float]) -> bool:
            epoch = task.subcontext(task_name="epoch").call_on_fit_task_begin(estimator=detector)
            return epoch.call_on_fit_task_end(estimator=detector, metadata=record)

        rule, columns = detector.parts_["preprocessing"], detector.contract_.columns
        fold = detector._new_fold(Channels.learn(rule, columns, self.rows, kinds.fit), self.rng.randint(2**31 - 1))
        share = 1.0 if self.folds == 1 else float(np.diff(kinds.fit).sum()) / len(self.rows)
        history = fold.learn(self.rows, kinds, inner._recipe(), self.rng.randint(2**31 - 1), on_epoch, share)
        self.records += [{"net": self.done, **record} for record in history]
        task.call_on_fit_task_end(estimator=detector)
        return fold

    def check_up(self, fold: SeriesFold, runs: NDArray[np.intp]) -> None:
        """How far to trust windows that have just begun and what is expected, by runs `(k, 2)` not learned from."""
        fold.learn_begun(self.rows, runs)
        held_out = [self.rows[first:last] for first, last in runs]
        off = np.concatenate([np.abs(rows - fold.expected(rows)) for rows in held_out])
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # where all is NaN
            fold.channels.margin = np.nan_to_num(np.nanquantile(off, LEVEL, axis=0))

    def end(self) -> None:
        """All folds are there."""
        self.context.call_on_fit_task_end(estimator=self.detector)

    def history(self) -> pd.DataFrame:
        """One row an epoch."""
        return pd.DataFrame(self.records, columns=None if self.records else EPOCHS)
