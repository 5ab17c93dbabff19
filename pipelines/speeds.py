"""How quick detectors are: on tables, beside their bare nets, and on series, window by window and row by row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from peers import Factory
from sensor_protocols import Series

Line = dict[str, Any]
BLOCK = 8192  # rows a bare forward pass
WINDOW = 128  # rows
CELLS = 2**20  # of windows a bare forward pass
UPDATES = 300
REPEATS = 9  # of which the median counts


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


# --- tables ----------------------------------------------------------------------------------------------------------


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # the portable way counts, on Linux, what the parent held when the child began
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def clock(rows: int, columns: int, threads: int, factory: Factory, results: Any) -> None:
    """Put seconds to fit, rows scored a second, by the bare nets too, the model's size and MiB into a queue."""
    import torch

    torch.set_num_threads(threads)
    X, detector = import_module("mixed_table").factors(rows, columns), factory(0)
    factory(0).fit(X[:500])  # what a first fit imports and sets up
    before = peak_mib()
    factory(0).fit(X[:5000])  # what a machine compiles at first use
    _, fit_seconds = timed(lambda: detector.fit(X))
    score_seconds = np.median([timed(lambda: detector.anomaly_score(X))[1] for _ in range(REPEATS)])
    peak = peak_mib()
    line = {"fit seconds": fit_seconds, "rows/s scored": rows / score_seconds}
    if hasattr(detector, "folds_"):
        line["rows/s bare net"] = rows / np.median([timed(lambda: forward(detector, X))[1] for _ in range(REPEATS)])
        line["MB of the model"] = saved_mb(detector)
    results.put(line | {"MiB at start": before, "MiB at peak": peak})


def saved_mb(detector: Any) -> float:
    """Megabytes of the model folder of a fitted detector."""
    with TemporaryDirectory() as folder:
        return sum(file.stat().st_size for file in detector.save(Path(folder) / "model").iterdir()) / 1e6


def forward(detector: Any, X: np.ndarray) -> None:
    """The nets of a fitted detector on rows of theirs, and nothing else: no scaling, checking or scoring."""
    import torch

    from anomaly_ae.nn.core import Batch

    with torch.inference_mode():
        for fold in detector.folds_:
            rows = torch.as_tensor(X).to(next(fold.net.parameters()))
            for start in range(0, len(rows), BLOCK):
                fold.net(Batch(rows[start : start + BLOCK]))


# --- series ----------------------------------------------------------------------------------------------------------


def plant(rows: int, channels: int) -> np.ndarray:
    """Channels that swing, each with a period and phase of its own, and noise: `(rows, channels)`."""
    rng = np.random.default_rng(0)
    swings = np.sin(np.arange(rows)[:, None] / rng.uniform(5, 50, channels) + rng.uniform(0, 6, channels))
    return swings + rng.normal(0, 0.1, (rows, channels))


def net_alone(epochs: int, window: int | str = "auto") -> Any:
    """A detector of series that has the eye of a causal net, and no other."""
    from anomaly_ae import TCN, AutoencoderDetector, SeriesDetector, StandardizedError, View

    net = AutoencoderDetector(backbone=TCN(), max_epochs=epochs)
    return SeriesDetector(net, views=[View(StandardizedError(shrinkage=0.5))], window=window, random_state=0)


def of_a_pass(rows: int, channels: int) -> Iterator[Line]:
    """Scores of each row by the windows of a net, by one pass over the series and by a pass of the net a window."""
    import torch

    from anomaly_ae.nn.core import Batch

    X = plant(rows, channels)
    detector = net_alone(2, WINDOW).fit(X[:4000])
    net, dtype = detector.fold_.net, detector.fold_.dtype
    one_pass = min(timed(lambda: detector.anomaly_score(X))[1] for _ in range(3))

    def window_by_window() -> None:
        windows = torch.as_tensor(X, dtype=dtype).unfold(0, WINDOW, 1)
        with torch.inference_mode():
            for some in windows.split(CELLS // (WINDOW * channels)):
                net(Batch(some))

    by_windows = timed(window_by_window)[1]
    yield {
        "rows": rows,
        "channels": channels,
        "scored by one pass, s": one_pass,
        "bare net, window by window, s": by_windows,
        "times faster": by_windows / one_pass,
    }


def of_rows(channels: int) -> Iterator[Line]:
    """Milliseconds that a row takes as it comes: its score (`update`), and what each channel contributes (`assess`)."""
    from anomaly_ae import Mahalanobis, PrincipalComponents, SeriesDetector, View

    X = plant(4000 + UPDATES, channels)
    detectors = {
        "Mahalanobis, 32 rows (configs/pump.yaml)": SeriesDetector(
            views=[View(Mahalanobis(), window=32, channels=1)], random_state=0
        ),
        "PrincipalComponents, 24 rows (configs/process.yaml)": SeriesDetector(
            views=[View(PrincipalComponents(keep=0.9, inside=False), window=24, channels=5)], random_state=0
        ),
        "TCN": net_alone(2, WINDOW),
        "default": SeriesDetector(random_state=0),
    }
    for name, detector in detectors.items():
        _, fitting = timed(lambda one=detector: one.fit(X[:4000]))
        line = {"view": name, "fit of 4,000 rows, s": fitting}
        for way in ("update", "assess"):
            stream = detector.stream()
            stream.update(X[3500:4000])
            told = getattr(stream, way)
            spent = [timed(partial(told, row))[1] for row in X[4000:]]
            line[f"{way}, median ms a row"] = 1e3 * np.median(spent)
        yield line


def of_a_fit(tables: Sequence[Series], epochs: int) -> Iterator[Line]:
    """Seconds to fit on the first rows of each of TSB-AD's series and to score all, beside that library's autoencoder.

    Its net sees rows; ours of the same kind does too.
    """
    from sensor_peers import TSBAutoEncoder

    from anomaly_ae import AutoencoderDetector, SeriesDetector, StandardizedError, View

    def rows(epochs: int) -> Any:
        net = AutoencoderDetector(max_epochs=epochs, patience=None)
        return SeriesDetector(net, views=[View(StandardizedError(shrinkage=0.5))], window=1, random_state=0)

    makes = {
        "default": lambda epochs: SeriesDetector(random_state=0),
        "net of rows": rows,
        "TSB-AD": lambda epochs: TSBAutoEncoder(0, epochs),
    }
    spent = {}
    for name, make in makes.items():
        try:
            make(epochs).fit(tables[0].train)  # what a first fit sets up, if the library is there
        except ImportError:
            continue
        spent[name] = np.array(
            [
                timed(lambda of=series, make=make: make(epochs).fit(of.train).anomaly_score(of.test))[1]
                for series in tables
            ]
        )
    for name, seconds in spent.items():
        line: Line = {"detector": name, "epochs": 0 if name == "default" else epochs, "fit and score, s": seconds.sum()}
        if "TSB-AD" in spent:
            line["series faster than TSB-AD"] = f"{(seconds < spent['TSB-AD']).sum()} of {len(tables)}"
        yield line
