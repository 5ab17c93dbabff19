"""How long scoring of a long table takes, beside the floor: pyarrow reading the same rows and writing three columns.

Each measurement is a process of its own; what counts is the marginal time, from half of the rows to all of them, for
which start-up and imports are the same.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

COLUMNS = 30
TRAIN = 50_000  # rows
PYOD_TRAIN = 5_000  # for what a fit takes is not asked, and varies by seconds
AT_A_TIME = 250_000  # rows, when tables are made


def batches(rows: int) -> Iterator[Any]:
    """Arrow batches of correlated rows with six decimals."""
    import pyarrow as pa
    from mixed_table import factors

    table = factors(min(rows, AT_A_TIME), COLUMNS).round(6)
    for start in range(0, rows, AT_A_TIME):
        some = np.roll(table, start // AT_A_TIME, axis=0)[: rows - start]
        yield pa.record_batch(list(some.T), names=[f"c{j}" for j in range(COLUMNS)])


def make(folder: Path, rows: int, ending: str, dirt: float = 0.0) -> Path:
    """A table of so many rows, of which a share has no number in one cell; kept for the next time."""
    import pyarrow.csv
    import pyarrow.parquet

    path = folder / f"{rows}{'-dirty' if dirt else ''}.{ending}"
    if path.exists():
        return path
    part = path.with_suffix(".part")
    first = next(batches(1)).schema
    writer = (pyarrow.csv.CSVWriter if ending == "csv" else pyarrow.parquet.ParquetWriter)(part, first)
    with writer:
        for batch in batches(rows):
            writer.write_batch(batch)
    if dirt:
        lines = part.read_bytes().splitlines(keepends=True)
        for number in np.random.default_rng(0).choice(rows, int(dirt * rows), replace=False) + 1:
            lines[number] = b"x" + lines[number]
        part.write_bytes(b"".join(lines))
    part.rename(path)
    return path


def train(folder: Path, effort: str) -> Path:
    """A model of rows of the same kind; kept for the next time."""
    import pandas as pd
    from mixed_table import factors

    from anomaly_ae import AutoencoderDetector

    model = folder / f"model-{effort}"
    if not model.exists():
        normal = pd.DataFrame(factors(TRAIN, COLUMNS), columns=[f"c{j}" for j in range(COLUMNS)])
        AutoencoderDetector(effort=effort, random_state=0).fit(normal).save(model)
    return model


def floor(source: Path, target: Path) -> None:
    """Read all columns with pyarrow, write three of them."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    three = pa.schema([("row", pa.int64()), ("c0", pa.float64()), ("c1", pa.float64())])
    done = 0
    if source.suffix == ".csv":
        reader: Any = pyarrow.csv.open_csv(source)
        writer = pyarrow.csv.CSVWriter(target, three)
    else:
        reader = pyarrow.parquet.ParquetFile(source).iter_batches(8192)
        writer = pyarrow.parquet.ParquetWriter(target, three)
    with writer:
        for batch in reader:
            rows = pa.array(np.arange(done, done := done + batch.num_rows))
            writer.write_batch(pa.record_batch([rows, batch.column("c0"), batch.column("c1")], schema=three))


def ours(model: Path, source: Path, target: Path) -> None:
    """The job, as the shell runs it."""
    from anomaly_ae import score_file

    print(score_file(model, source, target, overwrite=True).rows)


class Cost(NamedTuple):
    """Least seconds and least seconds of all cores, and MiB at the peak, of a process."""

    seconds: float
    cpu_seconds: float
    peak: float


def measure(folder: Path, what: str, source: Path, repeats: int) -> Cost:
    """What it costs to have a process do it."""
    target = folder / f"out{source.suffix}"
    seconds, cpu, peak = np.inf, np.inf, 0.0
    for _ in range(repeats):
        for left in folder.glob("*out.*"):
            left.unlink()
        started = time.perf_counter()
        command = [sys.executable, __file__, what, str(source), str(target)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = min(seconds, time.perf_counter() - started)
        used, mib = map(float, done.stdout.split()[-2:])
        cpu, peak = min(cpu, used), max(peak, mib)
    return Cost(float(seconds), float(cpu), peak)


def main() -> None:
    """One measurement: what, from where, to where."""
    from speeds import peak_mib

    what, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "floor":
        floor(source, target)
    elif what == "pyod":
        script = Path(__file__).with_name("pyod_script.py")
        sys.argv = [str(script), str(source.parent / f"train{source.suffix}"), str(source), str(target)]
        runpy.run_path(str(script), run_name="__main__")
    else:
        ours(Path(what), source, target)
    print(time.process_time(), peak_mib())


def compare(folder: Path, rows: int, repeats: int, pyod_rows: int) -> list[dict[str, Any]]:
    """Marginal seconds a million rows of the floor, of both efforts and of PyOD, from CSV and from Parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    models = {effort: str(train(folder, effort)) for effort in ("fast", "default")}
    for ending in ("csv", "parquet"):
        whole, half, quarter = (make(folder, n, ending) for n in (rows, rows // 2, rows // 4))
        train_on = folder / f"train.{ending}"
        if not train_on.exists():
            os.link(make(folder, PYOD_TRAIN, ending), train_on)
        jobs: list[tuple[str, str, Path, Path, Callable[[], Path] | None]] = [
            ("floor", "floor", whole, half, None),
            ("fast", models["fast"], whole, half, lambda quarter=quarter: quarter),  # type: ignore[misc]
            ("default", models["default"], whole, half, None),
        ]
        if ending == "csv":
            dirty = [make(folder, n, ending, 0.001) for n in (rows, rows // 2)]
            jobs.append(("fast, 0.1 % bad rows", models["fast"], *dirty, None))
        if pyod_rows:
            long, short = make(folder, pyod_rows, ending), make(folder, pyod_rows // 2, ending)
            jobs.append(("pandas + PyOD", "pyod", long, short, None))
        for name, what, long, short, smallest in jobs:
            more, less = measure(folder, what, long, repeats), measure(folder, what, short, repeats)
            million = (int(long.stem.split("-")[0]) - int(short.stem.split("-")[0])) / 1e6
            line = {
                "input": ending,
                "method": name,
                "s/M rows": (more.seconds - less.seconds) / million,
                "CPU s/M rows": (more.cpu_seconds - less.cpu_seconds) / million,
                "MiB at peak": more.peak,
            }
            if smallest is not None:
                line["MiB at a quarter"] = measure(folder, what, smallest(), 1).peak
            lines.append(line)
            print(line, file=sys.stderr, flush=True)
        base, spent = (
            {line["method"]: line[value] for line in lines if line["input"] == ending}
            for value in ("s/M rows", "CPU s/M rows")
        )
        for line in lines:
            if line["input"] == ending:
                line["times the floor"] = line["s/M rows"] / base["floor"]
                line["times the floor, CPU"] = line["CPU s/M rows"] / spent["floor"]
                line["times faster than PyOD"] = base.get("pandas + PyOD", np.nan) / line["s/M rows"]
    return lines


if __name__ == "__main__":
    main()
