"""Scores of a stream: batch by batch, without files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.utils.validation import check_is_fitted

from anomaly_ae.columns import check_distinct
from anomaly_ae.data.coding import Coder
from anomaly_ae.data.sources import Trouble, at_once
from anomaly_ae.data.written import meant
from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.estimator import Detector
from anomaly_ae.loading import load_for_rows
from anomaly_ae.mlflow.registry import resolve
from anomaly_ae.ops.verdicts import Teller, check_kept


class ScoredBatch(NamedTuple):
    """What is said of a batch: rows of `scores` and of `rejects` are together those of the batch, once each.

    Both have `row`, which counts the rows of the whole stream from 1.
    """

    scores: pd.DataFrame
    rejects: pd.DataFrame


def score_batches(
    model: Detector | str | os.PathLike[str],
    batches: Iterable[Any],
    *,
    keep: Sequence[str] = (),
    top: int = 3,
    on_unseen: str = "score",
) -> Iterator[ScoredBatch]:
    """Score a stream batch by batch, as `score_file` scores a file: a row's score does not depend on its batch.

    Parameters
    ----------
    model : detector or path
        A fitted detector, or its folder, or one of a registry as `models:/NAME@champion`.
    batches : iterable of DataFrame, Arrow table, Arrow record batch or array
        The rows; columns are chosen by name, of arrays by place.
    keep : sequence of str, default=()
        Columns to copy to the scores.
    top : int >= 0, default=3
        How many blamed columns to name a row.
    on_unseen : {"score", "reject"}, default="score"
        What to do with a category that was not there at fit.

    Yields
    ------
    ScoredBatch
        `scores` with the columns of `score_file`'s output; `rejects` with `row`, `column` and `reason` of rows that
        cannot be scored: infinite numbers, cells of another type than at fit.

    Raises
    ------
    ConfigError
        At the call, when the model or an option is not what it must be.
    DataError
        At the call, when there are no batches to go through; at a batch that lacks a column, or an array of text.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import AutoencoderDetector, score_batches
    >>> rng = np.random.default_rng(0)
    >>> det = AutoencoderDetector(random_state=0).fit(rng.normal(size=(200, 3)))
    >>> for scored in score_batches(det, [[[0, 0, 0], [9, 0, 0]], [[0, 0, np.inf]]]):
    ...     print(scored.scores[["row", "is_anomaly"]].to_dict("list"), scored.rejects["reason"].tolist())
    {'row': [1, 2], 'is_anomaly': [False, True]} []
    {'row': [], 'is_anomaly': []} ['an infinite number']
    """
    if not isinstance(model, Detector | str | os.PathLike):
        raise ConfigError(
            f"score_batches needs a detector of rows, or the folder of one, however: this is {type(model).__name__}. "
            "Fit an AutoencoderDetector, say; a detector of series has methods of its own."
        )
    one_alone = isinstance(batches, np.ndarray) and batches.ndim < 3
    if one_alone or isinstance(batches, pd.DataFrame | pa.Table | pa.RecordBatch) or not isinstance(batches, Iterable):
        raise DataError(f"score_batches needs batches, however: this is one {type(batches).__name__}. Give [X].")
    if on_unseen not in ("score", "reject"):
        raise ConfigError(f"An unseen category is to score or reject, however: {on_unseen!r}. Choose from them.")
    detector = model if isinstance(model, Detector) else load_for_rows(resolve(model))
    check_is_fitted(detector)
    contract = detector.contract_
    names = list(getattr(detector, "feature_names_in_", contract.names))
    coder = Coder(contract.columns, names, refuse_unseen=on_unseen == "reject")
    teller = Teller(detector, names, keep, top)
    check_kept(teller.schema, keep)
    return _scored(batches, names, keep, coder, teller)


def _scored(
    batches: Iterable[Any], names: Sequence[str], keep: Sequence[str], coder: Coder, teller: Teller
) -> Iterator[ScoredBatch]:
    seen, size = 0, at_once(len(names))
    for batch in batches:
        table = _table(batch, names)
        if lacking := [name for name in [*names, *keep] if name not in table.column_names]:
            raise DataError(
                "score_batches needs the columns of the model and those to keep, however: a batch lacks "
                f"{lacking}.{meant(lacking, table.column_names)} It has {table.column_names[:20]}: give it all of them "
                "by their names."
            )
        codes, troubles = coder(table)
        first = {trouble.row: trouble for trouble in reversed(troubles)}
        good = np.setdiff1d(np.arange(table.num_rows), np.array(list(first), dtype=np.intp))
        kept = table.select(list(dict.fromkeys([*coder.texts, *keep]))).take(pa.array(good))
        rows, codes = seen + 1 + good, codes[good]
        told = [
            teller(rows[at : at + size], codes[at : at + size], kept.slice(at, size)).table
            for at in range(0, max(1, len(rows)), size)
        ]
        rejects = [trouble._replace(row=seen + 1 + row) for row, trouble in sorted(first.items())]
        seen += table.num_rows
        yield ScoredBatch(pa.concat_tables(told).to_pandas(), pd.DataFrame(rejects, columns=list(Trouble._fields)))


def _of_frame(frame: pd.DataFrame) -> pa.Table:
    check_distinct(frame, "score_batches")
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except pa.ArrowException:  # cells of several types in a column: what they say is looked at
        mixed = frame.select_dtypes(object).columns
        texts = {name: frame[name].map(str, na_action="ignore") for name in mixed}
        return pa.Table.from_pandas(frame.assign(**texts), preserve_index=False)


def _table(batch: Any, names: Sequence[str]) -> pa.Table:
    if isinstance(batch, pa.RecordBatch):
        return pa.Table.from_batches([batch])
    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, pd.DataFrame):
        return _of_frame(batch)
    try:
        rows = np.asarray(batch, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"score_batches needs arrays of numbers, however: {error}. Give a DataFrame where columns hold others."
        ) from error
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise DataError(
            f"score_batches needs arrays of {len(names)} columns, however: shape {rows.shape}. Give rows of the model."
        )
    return pa.table(list(rows.T), names=list(names))
