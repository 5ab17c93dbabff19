"""Public labelled sets of series: where train rows end, what is scored, what is measured. No label reaches a fit."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sensor_metrics import counts, found, rates

from anomaly_ae.evaluation.events import composite_f1, diagnosis
from anomaly_ae.evaluation.surface import VUSPR, buffer_length

Line = dict[str, Any]
Factory = Callable[[int], Any]

SENSOR = ("suite", "series", "seed", "method", "channels", "rows_train", "rows_test", "vus_pr", "auroc", "ap")
SENSOR += ("f1", "far", "mar", "found", "event_f1", "hit100", "hit150", "ndcg", "fit_seconds", "score_seconds", "error")

SKAB_TRAIN = 400  # rows
TEP_ONSET = 160  # row at which the fault of each test file sets in
NAB_TRAIN = 0.15  # share of rows
POOLED = "all"  # the line of a suite whose files are counted together


class Suite(enum.StrEnum):
    """A public set of labelled series and its protocol."""

    tsb = "tsb"
    skab = "skab"
    tep = "tep"
    ucr = "ucr"
    rootcause = "rootcause"
    nab = "nab"


@dataclass
class Series:
    """Rows of normal operation, rows to score, their labels, and for some rows the channels at fault."""

    name: str
    train: NDArray[np.float64]
    test: NDArray[np.float64]
    label: NDArray[np.bool_]
    events: list[tuple[int, int, list[int]]] = field(default_factory=list)


# --- reading ---------------------------------------------------------------------------------------------------------


def tsb(folder: Path) -> Iterator[Series]:
    """TSB-AD-M: the first rows train; the whole series is scored, its train rows with it."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            X, label, train = file["X"].astype(np.float64), file["label"] != 0, int(file["train_rows"])
        yield Series(path.stem, X[:train], X, label)


def skab(folder: Path) -> Iterator[Series]:
    """SKAB: of each file of an experiment with faults, the first 400 rows train and the others are scored."""
    for path in sorted(path for part in ("other", "valve1", "valve2") for path in (folder / part).glob("*.csv")):
        table = pd.read_csv(path, sep=";", index_col=0)
        label = table["anomaly"].to_numpy() != 0
        X = table.drop(columns=["anomaly", "changepoint"]).to_numpy(np.float64)
        yield Series(f"{path.parent.name}/{path.stem}", X[:SKAB_TRAIN], X[SKAB_TRAIN:], label[SKAB_TRAIN:])


def tep(folder: Path) -> Iterator[Series]:
    """Tennessee Eastman: `d00` trains; `d00_te` is normal, the faults of `d01_te` to `d21_te` begin at row 160."""
    with np.load(folder / "tep.npz") as file:
        tables = {name: file[name].astype(np.float64) for name in file.files}
    train = tables.pop("d00")
    for name, X in sorted(tables.items()):
        yield Series(name, train, X, (np.arange(len(X)) >= TEP_ONSET) & (name != "d00_te"))


def ucr(folder: Path) -> Iterator[Series]:
    """UCR Anomaly Archive: one event in the test part."""
    for name, start, end in pd.read_csv(folder / "index.csv")[["name", "start", "end"]].itertuples(index=False):
        with np.load(folder / f"{name}.npz") as file:
            train, test, label = (file[part].astype(np.float64) for part in ("train", "test", "label"))
        yield Series(name, train[:, None], test[:, None], label != 0, [(int(start), int(end), [0])])


def rootcause(folder: Path) -> Iterator[Series]:
    """Server machines and applications; beside each `NAME.npz` a file `start-end:channels`, channels from 1."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            train, test, label = (file[part].astype(np.float64) for part in ("train", "test", "label"))
        events = []
        for line in path.with_name(f"{path.stem}.interpretation.txt").read_text().split():
            rows, _, channels = line.partition(":")
            start, end = map(int, rows.split("-"))
            events.append((start, end + 1, [int(channel) - 1 for channel in channels.split(",")]))
        yield Series(path.stem, train, test, label != 0, events)


def nab(folder: Path) -> Iterator[Series]:
    """Numenta: of each series of a known cause the first 15 % train; labelled windows of time in the rest."""
    windows = json.loads((folder / "combined_windows.json").read_text())
    for path in sorted((folder / "realKnownCause").glob("*.csv")):
        table = pd.read_csv(path, parse_dates=["timestamp"])
        label = np.zeros(len(table), dtype=bool)
        for start, end in windows[f"realKnownCause/{path.name}"]:
            label |= table["timestamp"].between(pd.Timestamp(start), pd.Timestamp(end)).to_numpy()
        X, train = table[["value"]].to_numpy(np.float64), int(NAB_TRAIN * len(table))
        yield Series(path.stem, X[:train], X[train:], label[train:])


READERS: dict[str, Callable[[Path], Iterator[Series]]] = {
    "tsb": tsb,
    "skab": skab,
    "tep": tep,
    "ucr": ucr,
    "rootcause": rootcause,
    "nab": nab,
}


# --- measuring -------------------------------------------------------------------------------------------------------


def ranking(label: NDArray[np.bool_], score: NDArray[np.float64]) -> Line:
    from sklearn.metrics import average_precision_score, roc_auc_score

    if label.all() or not label.any():
        return {}
    return {"auroc": roc_auc_score(label, score), "ap": average_precision_score(label, score)}


def _vus(series: Series, score: NDArray[np.float64]) -> Line:
    return {"vus_pr": VUSPR(series.label, buffer_length(series.test[:, 0]))(score)}


def score_series(suite: str, series: Series, detector: Any, score: NDArray[np.float64]) -> Line:
    """What a suite measures on one series, of scores and, where its bar asks for them, of alarms and explanations."""
    line = ranking(series.label, score)
    if suite == Suite.tsb or (suite == Suite.nab and series.label.any()):
        line |= _vus(series, score)
    if suite == Suite.ucr:
        line["found"] = int(found(score, *series.events[0][:2]))
    if suite in (Suite.skab, Suite.tep, Suite.rootcause):
        alarm = detector.predict(series.test) == -1
        line |= rates(**counts(series.label, alarm)) | {"alarm": alarm}
    if suite == Suite.rootcause:
        line["event_f1"] = composite_f1(series.label, alarm)
        if hasattr(detector, "explain"):
            line |= diagnosis(np.asarray(detector.explain(series.test)), series.events)
    return line


def run(suite: str, tables: Sequence[Series], seed: int, method: str, factory: Factory, timed: Callable) -> list[Line]:
    """Lines of a detector on series that share a fit, or on all files of a suite that pools them."""
    lines, alarms, scores, seconds = [], [], [], np.zeros(2)
    detector, trained = None, None
    for series in tables:
        line: Line = {"suite": suite, "series": series.name, "seed": seed, "method": method}
        line |= {"channels": series.train.shape[1], "rows_train": len(series.train), "rows_test": len(series.test)}
        fit_seconds = 0.0
        if series.train is not trained:
            detector, trained = factory(seed), series.train
            _, fit_seconds = timed(partial(detector.fit, series.train))
        score, score_seconds = timed(partial(detector.anomaly_score, series.test))
        measured = score_series(suite, series, detector, np.asarray(score, dtype=np.float64))
        alarms.append(measured.pop("alarm", None))
        scores.append(score)
        seconds += fit_seconds, score_seconds
        lines.append(line | measured | {"fit_seconds": fit_seconds, "score_seconds": score_seconds})
    if suite in (Suite.skab, Suite.tep):
        label, alarm = np.concatenate([series.label for series in tables]), np.concatenate(alarms)
        normal = np.concatenate([np.full(len(series.label), not series.label.any()) for series in tables])
        pooled = rates(**counts(label, alarm)) | ranking(label, np.concatenate(scores))
        if suite == Suite.tep:  # false alarms on the normal file; the mean over faults is the mean over their rows
            pooled |= {"far": float(alarm[normal].mean())}
        whole = {"suite": suite, "series": POOLED, "seed": seed, "method": method, "rows_test": len(label)}
        lines.append(whole | pooled | dict(zip(("fit_seconds", "score_seconds"), seconds, strict=True)))
    return [{key: f"{value:.6g}" if isinstance(value, float) else value for key, value in x.items()} for x in lines]


def grouped(suite: str, tables: Sequence[Series]) -> list[Sequence[Series]]:
    """Series measured by one job: all of a suite with a pooled line, else one by one."""
    return [tables] if suite in (Suite.skab, Suite.tep) else [[series] for series in tables]


def names(suite: str, tables: Sequence[Series]) -> list[str]:
    """Names of the lines that a job makes."""
    return [series.name for series in tables] + [POOLED] * (suite in (Suite.skab, Suite.tep))


# --- summing up ------------------------------------------------------------------------------------------------------

COLUMNS = {
    "tsb": ("vus_pr", "auroc", "ap"),
    "skab": ("f1", "far", "mar", "auroc", "ap"),
    "tep": ("detected", "detected without 3, 9, 15", "far"),
    "ucr": ("found", "ap", "auroc"),
    "rootcause": ("ap", "auroc", "event_f1", "far", "hit100", "hit150", "ndcg"),
    "nab": ("vus_pr", "auroc", "ap"),
}
HARD = ("d03_te", "d09_te", "d15_te")


def table(suite: str, lines: pd.DataFrame) -> pd.DataFrame:
    """By method: means over series (of `found` the sum), or the pooled line; seconds, median over series or in all."""
    lines = lines[lines["suite"] == suite]
    files = lines[lines["series"] != POOLED]
    if suite == Suite.skab:
        by = lines[lines["series"] == POOLED].groupby("method", sort=False).mean(numeric_only=True)
    elif suite == Suite.tep:
        faults = files[files["series"] != "d00_te"]
        by = lines[lines["series"] == POOLED].groupby("method", sort=False)[["far"]].mean()
        by["detected"] = 1 - faults.groupby("method")["mar"].mean()
        by["detected without 3, 9, 15"] = 1 - faults[~faults["series"].isin(HARD)].groupby("method")["mar"].mean()
    else:
        by = files.groupby("method", sort=False).mean(numeric_only=True)
        if suite == Suite.ucr:
            by["found"] = files.groupby("method")["found"].sum() / files.groupby("method")["seed"].nunique()
    counted = files[files["error"].isna()].groupby("method")["series"].nunique().rename("series")
    timed = lines[lines["series"] == POOLED] if suite in (Suite.skab, Suite.tep) else files
    seconds = timed.groupby("method")[["fit_seconds", "score_seconds"]].median()
    shown = by[list(COLUMNS[suite])].join(counted).join(seconds)
    return shown.sort_values(COLUMNS[suite][0], ascending=False).reset_index()
