"""Measurements that are written line by line, each on one thread, and gone on with where they stopped."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer

Line = dict[str, Any]
Job = tuple[set[tuple[str, ...]], Callable[[], list[Line]]]  # the keys of the lines it makes, and the making


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra on one thread; then as it was."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def ranking(y: np.ndarray, score: np.ndarray) -> Line:
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {"auroc": f"{roc_auc_score(y, score):.6f}", "ap": f"{average_precision_score(y, score):.6f}"}


def measure(jobs: list[Job], output: Path, fields: Sequence[str], keys: int, n_jobs: int) -> None:
    """Append the lines of each job to `output` as they come; the first `keys` fields of a line say which it is.

    Lines that are there already stay and are not measured again, but for failed ones and a last one that was cut off.
    """
    from joblib import Parallel, delayed
    from rich.console import Console
    from rich.progress import track

    there = recorded(output, fields, keys)
    todo = [work for lines, work in jobs if not there.issuperset(lines)]
    results = Parallel(n_jobs=n_jobs, return_as="generator_unordered")(delayed(work)() for work in todo)
    with output.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, restval="")
        if not file.tell():
            writer.writeheader()
        for lines in track(results, "measuring", total=len(todo), console=Console(stderr=True)):
            writer.writerows(line for line in lines if tuple(str(line[field]) for field in fields[:keys]) not in there)
            file.flush()


def recorded(output: Path, fields: Sequence[str], keys: int) -> set[tuple[str, ...]]:
    """The keys of the lines that `output` holds, once a last line that was cut off and those that failed are gone."""
    if not output.exists():
        return set()
    text = output.read_text(encoding="utf-8")
    lines = pd.read_csv(io.StringIO(text[: text.rfind("\n") + 1] or ",".join(fields)), dtype=str, keep_default_na=False)
    if list(lines) != list(fields):
        raise typer.BadParameter(f"{output} has other columns than {', '.join(fields)}. Choose another file.")
    lines = lines[lines["error"] == ""]
    lines.to_csv(fresh := output.with_name(f"{output.name}.part"), index=False)
    fresh.replace(output)
    return set(lines.iloc[:, :keys].itertuples(index=False, name=None))


def failure(error: Exception) -> Line:
    return {"error": " ".join(f"{type(error).__name__}: {error}".split())}
