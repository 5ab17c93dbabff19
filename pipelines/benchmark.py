"""Measure detectors beside their peers: tables, series, speed, jobs on long files, mixed columns, gaps.

    pip install "anomaly-ae[bench]"
    python pipelines/benchmark.py tabular --data FOLDER --protocol clean --output clean.csv
    python pipelines/benchmark.py summary clean.csv
    python pipelines/benchmark.py speed
    python pipelines/benchmark.py series-speed --data SERIES
    python pipelines/benchmark.py mixed --output mixed.csv
    python pipelines/benchmark.py csv --folder FOLDER
    python pipelines/benchmark.py missing --data FOLDER --output missing.csv
    python pipelines/benchmark.py labels --data FOLDER --output labels.csv
    python pipelines/benchmark.py sensor --data SERIES --suite tsb --output tsb.csv

FOLDER holds tables as `NAME.npz` with `X` `(n, d)` and `y` `(n,)`, 1 for an anomaly: ADBench's classical sets.
Results are written line by line, and what a file has already is not measured again, unless it failed: stop and go on
as you like; to measure something again, delete its line.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import sensor_protocols
import typer
from measuring import Job, Line, failure, measure, one_thread, ranking
from peers import METHODS, OURS, PEERS, Factory, chosen, listed
from results import complete, duels, means, show
from sensor_peers import SERIES_METHODS, chosen_for_series
from sensor_protocols import Series, Suite
from speeds import clock, timed

CLEAN_CAP, DTE_FLOOR, DTE_CAP = 10_000, 1_000, 50_000  # rows
GAPS = 0.3  # share of cells that `missing` removes
YARDSTICK = "PyOD-AutoEncoder"  # what `speed` divides by


# --- labelled tables -------------------------------------------------------------------------------------------------

TABULAR = ("protocol", "table", "seed", "method", "rows_train", "rows_test", "auroc", "ap")
TABULAR += ("alarms_1", "alarms_5", "fit_seconds", "score_seconds", "error")
LABELS = ("table", "seed", "method", "kind", "known", "auroc", "ap", "error")
MIXED = ("seed", "method", "kind", "rows_train", "rows_normal", "rows_planted", "auroc", "ap", "right_column", "error")
MIXED_DEFAULT = ("AutoencoderDetector", "IsolationForest", "PyOD-AutoEncoder")


class Protocol(enum.StrEnum):
    """How a labelled table becomes normal train rows and mixed test rows."""

    clean = "clean"
    contaminated = "contaminated"
    dte = "dte"


def split(y: np.ndarray, protocol: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of train and test rows: half of the normal rows to train, the other half and all anomalies to test.

    `clean` shuffles first, and takes 10,000 rows of a longer table. Of `contaminated` a tenth of the train
    rows are anomalies, which are then not among those to test; at most half of all are. `dte` (Livernoche et al. 2024,
    arXiv:2305.18593) keeps file order; it takes 50,000 rows of a longer table, and draws 1,000 *with replacement* from
    one below 1,000, so that test rows have copies among the train rows there.
    """
    rng, n = np.random.default_rng(seed), len(y)
    if protocol in (Protocol.clean, Protocol.contaminated):
        rows = rng.permutation(n)[:CLEAN_CAP]
    elif n < DTE_FLOOR:
        rows = rng.choice(n, DTE_FLOOR, replace=True)
    else:
        rows = rng.choice(n, DTE_CAP, replace=False) if n > DTE_CAP else np.arange(n)
    normal, anomalous = rows[y[rows] == 0], rows[y[rows] != 0]
    half = len(normal) // 2
    among = min(len(anomalous) // 2, half // 9) if protocol == Protocol.contaminated else 0
    return np.concatenate([normal[:half], anomalous[:among]]), np.concatenate([normal[half:], anomalous[among:]])


def detect_planted(seed: int, method: str, factory: Factory) -> list[Line]:
    """One line a kind of anomaly, of a detector on the table of mixed columns."""
    from mixed_table import KINDS, trial

    line: Line = {"seed": seed, "method": method}
    try:
        with one_thread():
            return [line | result | ranking(y, score) for result, y, score in trial(seed, factory(seed))]
    except Exception as error:
        return [line | {"kind": kind} | failure(error) for kind in KINDS]


def detect(path: Path, protocol: str, seed: int, method: str, factory: Factory) -> list[Line]:
    """One line: a detector fitted and scored on a table; `protocol` may end in `+nan` or `+mean` for gaps."""
    line: Line = {"protocol": protocol, "table": path.stem, "seed": seed, "method": method}
    try:
        with np.load(path) as table:
            X, y = table["X"].astype(np.float64), (table["y"] != 0).astype(int)
        rule, _, gaps = protocol.partition("+")
        train_rows, test_rows = split(y, rule, seed)
        train, test = X[train_rows], X[test_rows]
        if gaps:
            train, test = import_module("mixed_table").with_gaps(train, test, GAPS, seed, filled=gaps == "mean")
        line |= {"rows_train": len(train), "rows_test": len(test)}
        with one_thread():
            detector = factory(seed)
            _, fit_seconds = timed(lambda: detector.fit(train))
            score, score_seconds = timed(lambda: detector.anomaly_score(test))
            if hasattr(detector, "p_values"):
                p = detector.p_values(test[y[test_rows] == 0])
                line |= {f"alarms_{percent}": f"{(p <= percent / 100).mean():.6f}" for percent in (1, 5)}
        seconds = {"fit_seconds": round(fit_seconds, 4), "score_seconds": round(score_seconds, 4)}
        return [line | ranking(y[test_rows], score) | seconds]
    except Exception as error:
        return [line | failure(error)]


def detect_told(path: Path, seed: int, method: str) -> list[Line]:
    """One line a kind and number of known anomalies."""
    from few_labels import LEARNERS, trials

    with np.load(path) as table:
        X, y = table["X"].astype(np.float64), (table["y"] != 0).astype(int)
    lines = []
    for (kind, known), (rows, labels, new, anomalous) in trials(X, y, *split(y, "clean", seed), seed).items():
        line: Line = {"table": path.stem, "seed": seed, "method": method, "kind": kind, "known": known}
        if known or method in ("AutoencoderDetector", "KnownAnomalies"):
            try:
                with one_thread():
                    lines.append(line | ranking(anomalous, LEARNERS[method](rows, labels, new, seed)))
            except Exception as error:
                lines.append(line | failure(error))
    return lines


def on_tables(
    data: Path, names: str | None, protocols: Sequence[str], seeds: int, methods: dict[str, Factory]
) -> list[Job]:
    paths = {path.stem: path for path in sorted(data.glob("*.npz"))}
    wanted = listed(names) or list(paths)
    if not wanted or {*wanted} - {*paths}:
        raise typer.BadParameter(f"{data} has the tables {list(paths)}, however: asked for {wanted}.")
    return [
        ({(protocol, table, str(seed), name)}, partial(detect, paths[table], protocol, seed, name, factory))
        for table in wanted
        for seed in range(seeds)
        for protocol in protocols
        for name, factory in methods.items()
    ]


# --- labelled series -------------------------------------------------------------------------------------------------


def series_of(data: Path, suite: Suite, wanted: str | None = None) -> list[Series]:
    """Series of a suite, or those that are `wanted`, as a,b; there must be some."""
    tables = [
        one for one in sensor_protocols.READERS[suite](data / suite) if one.name in (listed(wanted) or [one.name])
    ]
    if not tables:
        raise typer.BadParameter(f"{data / suite} has no series {wanted or ''}. See `sensor_protocols` for its files.")
    return tables


def detect_series(suite: str, tables: Sequence[Series], seed: int, method: str, factory: Factory) -> list[Line]:
    """Lines of a detector on series of a suite, see `sensor_protocols`."""
    try:
        with one_thread():
            return sensor_protocols.run(suite, tables, seed, method, factory, timed)
    except Exception as error:
        line: Line = {"suite": suite, "seed": seed, "method": method} | failure(error)
        return [line | {"series": name} for name in sensor_protocols.names(suite, tables)]


# --- the shell -------------------------------------------------------------------------------------------------------

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

Data = Annotated[
    Path, typer.Option(envvar="ANOMALY_AE_BENCH", help="Folder of labelled tables.", exists=True, file_okay=False)
]
Output = Annotated[Path, typer.Option(help="CSV file of results; what it has already is kept.", dir_okay=False)]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")]
Tables = Annotated[str | None, typer.Option(help="Tables, as a,b; all by default.")]
Methods = Annotated[str | None, typer.Option(help=f"Some of {', '.join(METHODS)}, as a,b.")]
Configs = Annotated[
    list[Path] | None, typer.Option(help="YAML file of a detector, under the file's name; may be given again.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes at a time, each on one thread.")]


@app.command()
def tabular(
    data: Data,
    output: Output,
    protocol: Annotated[Protocol, typer.Option(help="How to divide a table.")] = Protocol.clean,
    seeds: Seeds = 5,
    tables: Tables = None,
    methods: Methods = None,
    config: Configs = None,
    jobs: Jobs = 1,
) -> None:
    """Every method on every table and seed: AUROC, average precision, seconds."""
    methods_ = chosen(methods, config or [], METHODS)
    measure(on_tables(data, tables, [protocol.value], seeds, methods_), output, TABULAR, 4, jobs)


@app.command()
def summary(
    results: Annotated[Path, typer.Argument(help="CSV file that `tabular` wrote.", exists=True)],
    against: Annotated[str | None, typer.Option(help="Peers to compare with, as a,b; all by default.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Means over tables, and each of ours against each peer, over what all methods finished."""
    for protocol, lines in pd.read_csv(results).groupby("protocol"):
        cells = complete(lines)
        names = list(lines["method"].unique())
        if strange := [name for name in listed(against) if name not in names]:
            raise typer.BadParameter(f"{results} has {', '.join(names)}, not {strange}.")
        peers = listed(against) or [name for name in names if name in PEERS]
        typer.echo(
            f"{protocol}: {cells['table'].nunique()} of {lines['table'].nunique()} tables, "
            f"{cells['seed'].nunique()} of {lines['seed'].nunique()} seeds finished by all {len(names)} methods\n"
        )
        if cells.empty:
            continue
        show(means(cells), markdown)
        show(duels(cells, [name for name in names if name not in PEERS], peers), markdown)


@app.command()
def speed(
    rows: Annotated[int, typer.Option(min=3)] = 50_000,
    columns: Annotated[int, typer.Option(min=2)] = 30,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Of all methods in turn; the median counts.")] = 1,
    methods: Methods = None,
    config: Configs = None,
) -> None:
    """Seconds to fit, rows scored a second and memory, each method in a process of its own, and its bare net."""
    import multiprocessing

    spawn = multiprocessing.get_context("spawn")  # nothing of one method in another's memory
    lines = []
    for name, factory in [*chosen(methods, config or [], [*OURS, "PyOD-AutoEncoder", "PyOD-VAE"]).items()] * rounds:
        results = spawn.SimpleQueue()
        child = spawn.Process(target=clock, args=(rows, columns, threads, factory, results))
        child.start()
        child.join()
        if child.exitcode:
            raise typer.Exit(1)
        lines.append({"method": name} | results.get())
    table = pd.DataFrame(lines).groupby("method", sort=False).median().reset_index()
    if "rows/s bare net" in table:
        table["scored/bare"] = table["rows/s scored"] / table["rows/s bare net"]
    if (table["method"] == YARDSTICK).any():
        peer = table[table["method"] == YARDSTICK].iloc[0]
        table["fit, times faster"] = peer["fit seconds"] / table["fit seconds"]
        table["scored, times faster"] = table["rows/s scored"] / peer["rows/s scored"]
        typer.echo(f"{rows} rows of {columns} columns, {threads} threads; times faster than {YARDSTICK}\n")
    show(table)


@app.command()
def series_speed(
    rows: Annotated[int, typer.Option(min=1000)] = 100_000,
    channels: Annotated[int, typer.Option(min=1)] = 25,
    epochs: Annotated[int, typer.Option(min=1, help="Of the nets of rows.")] = 50,
    data: Annotated[Path | None, typer.Option(help="A folder with TSB-AD's series, `tsb`.", exists=True)] = None,
) -> None:
    """A series in one pass and window by window, rows that come one by one, and a fit beside TSB-AD's autoencoder."""
    from speeds import of_a_fit, of_a_pass, of_rows

    tables = [] if data is None else series_of(data, Suite.tsb)
    show(pd.DataFrame(of_a_pass(rows, channels)))
    show(pd.DataFrame(of_rows(channels)))
    if tables:
        show(pd.DataFrame(of_a_fit(tables, epochs)))


@app.command()
def mixed(output: Output, seeds: Seeds = 5, methods: Methods = None, config: Configs = None, jobs: Jobs = 1) -> None:
    """Eight kinds of anomalies planted in a table of mixed columns: AUROC, and how often the right column is blamed."""
    from mixed_table import KINDS

    todo = [
        ({(str(seed), name, kind) for kind in KINDS}, partial(detect_planted, seed, name, factory))
        for seed in range(seeds)
        for name, factory in chosen(methods, config or [], MIXED_DEFAULT).items()
    ]
    measure(todo, output, MIXED, 3, jobs)
    results = pd.read_csv(output)
    for value in results[["auroc", "right_column"]].dropna(axis=1, how="all"):
        typer.echo(f"{value}, mean over seeds\n")
        show(results.pivot_table(index="kind", columns="method", values=value, sort=False).reset_index())


@app.command("csv")
def csv_(
    folder: Annotated[Path, typer.Option(help="Where to make the tables (4 GB) and write scores.", file_okay=False)],
    rows: Annotated[int, typer.Option(min=4)] = 4_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="Processes a measurement; the least time counts.")] = 2,
    pyod_rows: Annotated[int, typer.Option(min=0, help="Rows of the script with PyOD; 0 leaves it out.")] = 400_000,
) -> None:
    """Scoring from CSV and Parquet: marginal seconds a million rows and memory, beside the floor and PyOD."""
    from csv_speed import compare

    show(pd.DataFrame(compare(folder, rows, repeats, pyod_rows)))


@app.command()
def missing(
    data: Data,
    output: Output,
    seeds: Seeds = 5,
    tables: Tables = None,
    methods: Methods = None,
    config: Configs = None,
    jobs: Jobs = 1,
) -> None:
    """Clean tables without 30 % of their cells: as they are against filled with train means, and against whole."""
    protocols = ["clean", "clean+nan", "clean+mean"]
    measure(on_tables(data, tables, protocols, seeds, chosen(methods, config or [], OURS)), output, TABULAR, 4, jobs)
    results = pd.read_csv(output)
    by = results.pivot_table(index=["method", "table", "seed"], columns="protocol", values="auroc")
    by = by.reindex(columns=protocols).dropna()
    typer.echo(f"AUROC, mean over tables of the mean over seeds: {len(by)} finished by all three\n")
    auroc = by.groupby(["method", "table"]).mean().groupby("method").mean()
    auroc["drop+nan"], auroc["drop+mean"] = (auroc["clean"] - auroc[name] for name in protocols[1:])
    show(auroc.reset_index())


@app.command()
def labels(
    data: Data,
    output: Output,
    seeds: Seeds = 3,
    tables: Tables = None,
    methods: Annotated[str | None, typer.Option(help="Some of the learners of few_labels.py, as a,b.")] = None,
    jobs: Jobs = 1,
) -> None:
    """Clean tables and a few known anomalies: of the kinds that are judged, or of others."""
    from few_labels import KINDS, KNOWN, LEARNERS, table

    paths = [path for path in sorted(data.glob("*.npz")) if not tables or path.stem in listed(tables)]
    todo: list[Job] = [
        (
            {(path.stem, str(seed), method, kind, str(known)) for kind in KINDS for known in KNOWN},
            partial(detect_told, path, seed, method),
        )
        for path in paths
        for seed in range(seeds)
        for method in listed(methods) or LEARNERS
    ]
    measure(todo, output, LABELS, 5, jobs)
    show(table(pd.read_csv(output)))


@app.command()
def sensor(
    data: Data,
    output: Output,
    suite: Annotated[Suite, typer.Option(help="Which set, in a folder of DATA of that name.")],
    seeds: Seeds = 1,
    series: Annotated[str | None, typer.Option(help="Series, as a,b; all by default.")] = None,
    methods: Annotated[str | None, typer.Option(help=f"Some of {', '.join(SERIES_METHODS)}, as a,b.")] = None,
    config: Configs = None,
    jobs: Jobs = 1,
) -> None:
    """Series with labelled ranges, each by its protocol and never point-adjusted; the table compares the methods."""
    tables = series_of(data, suite, series)
    methods_, absent = chosen_for_series(methods, config or [], short=suite in (Suite.ucr, Suite.nab))
    for name, reason in absent.items():
        typer.echo(f"left out {name}: {reason}", err=True)
    todo = [
        (
            {(suite.value, one, str(seed), name) for one in sensor_protocols.names(suite, group)},
            partial(detect_series, suite.value, group, seed, name, factory),
        )
        for group in sensor_protocols.grouped(suite, tables)
        for seed in range(seeds)
        for name, factory in methods_.items()
    ]
    measure(todo, output, sensor_protocols.SENSOR, 4, jobs)
    show(sensor_protocols.table(suite, pd.read_csv(output)))


if __name__ == "__main__":
    app()
