"""What results of the benchmark say: means, who wins how often, by how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import typer

TIE = 0.001
DRAWS = 2000  # bootstrap


def complete(results: pd.DataFrame) -> pd.DataFrame:
    """The lines of those (table, seed) that every method finished."""
    finished = results.dropna(subset=["auroc", "ap"])
    counts = finished.groupby(["table", "seed"])["method"].transform("nunique")
    return finished[counts == results["method"].nunique()]


def means(results: pd.DataFrame) -> pd.DataFrame:
    """By method: AUROC and AP, mean over tables of the mean over seeds; seconds, median over tables.

    `alarms_1` and `alarms_5` are the shares of normal test rows with a p-value of at most 1 % and 5 %, as AUROC.
    """
    tables = results.groupby(["method", "table"], as_index=False).mean(numeric_only=True)
    by = tables.groupby("method")
    rates = [name for name in ("auroc", "ap", "alarms_1", "alarms_5") if name in tables]
    joined = by[rates].mean().join(by[["fit_seconds", "score_seconds"]].median())
    return joined.sort_values("auroc", ascending=False).reset_index()


def duels(results: pd.DataFrame, ours: Sequence[str], against: Sequence[str]) -> pd.DataFrame:
    """Each of ours against each peer: tables won, tied and lost, mean difference and its 95 % interval.

    The interval is a bootstrap over tables, paired: of the tables' differences, drawn with replacement.
    """
    lines = []
    for mine in ours:
        for peer in against:
            line: dict[str, Any] = {"ours": mine, "peer": peer}
            for measure_ in ("auroc", "ap"):
                by_table = results.pivot_table(index="table", columns="method", values=measure_)
                difference = (by_table[mine] - by_table[peer]).to_numpy()
                draws = np.random.default_rng(0).choice(difference, (DRAWS, len(difference))).mean(axis=1)
                low, high = np.quantile(draws, [0.025, 0.975])
                won, lost = int((difference > TIE).sum()), int((difference < -TIE).sum())
                line |= {
                    f"{measure_} won/tied/lost": f"{won}/{len(difference) - won - lost}/{lost}",
                    f"{measure_} difference": float(difference.mean()),
                    f"{measure_} 95 %": f"[{low:+.4f}, {high:+.4f}]",
                }
            lines.append(line)
    return pd.DataFrame(lines)


def show(frame: pd.DataFrame, markdown: bool = True) -> None:
    """Print a table on standard output; numbers from 1000 on without decimals."""

    def cell(value: Any) -> str:
        number = isinstance(value, float)
        return (f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4f}") if number else str(value)

    frame = frame.map(cell).replace("nan", "")
    rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
    typer.echo("\n".join(f"| {' | '.join(row)} |" for row in rows) if markdown else frame.to_string(index=False))
    typer.echo()
