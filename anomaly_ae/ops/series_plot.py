"""The job of `anomaly-ae plot`: a picture of a series, as a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from anomaly_ae.data.contract import listed
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import write_whole
from anomaly_ae.data.tables import Table
from anomaly_ae.errors import ConfigError, MissingExtraError
from anomaly_ae.ops.arguments import Progress, tell
from anomaly_ae.ops.series import loaded, new_output
from anomaly_ae.ops.series_picture import draw, machines_of
from anomaly_ae.ops.series_reading import read
from anomaly_ae.series.detector import SeriesDetector

ENDINGS = (".png", ".svg", ".pdf")


def plot(
    model: str | Path,
    input: str | Path,
    output: str | Path,
    channels: Sequence[str] = (),
    overwrite: bool = False,
    dialect: Dialect | None = None,
    progress: Progress | None = None,
    groups: Sequence[str] = (),
) -> tuple[Path, pd.DataFrame]:
    """Draw a file as a model sees it, to PNG, SVG or PDF by the output's ending; returns the file and the events drawn.

    Several machines stand side by side, those of `groups` or the strangest; events have their numbers among all.

    Raises
    ------
    AnomalyError
        When model, table or output are not what they must be; nothing is then written.
    """
    target = new_output(output, overwrite)
    if target.suffix.lower() not in ENDINGS:
        raise ConfigError(f"A plot needs a name that ends in {', '.join(ENDINGS)}, however: {target}. Rename it.")
    try:
        import matplotlib as mpl  # an extra: only pictures need it
    except ImportError as error:
        raise MissingExtraError(
            'plot needs matplotlib, however: it is not installed. Install it with pip install "anomaly-ae[plot]".'
        ) from error
    detector = loaded(model)
    if unknown := [name for name in channels if name not in detector.contract_.names]:
        raise ConfigError(
            f"--channel needs columns of the model, however: {unknown}. It has {detector.contract_.names}."
        )
    X, _ = read(detector, Table.open(input, dialect), progress=progress)
    asked = _asked(detector, X, groups, str(input))
    machines, left_out = machines_of(detector, X, detector.assess_events(X), asked)
    tell(progress, 0.9, "drawing")
    events = pd.concat([machine.events for machine in machines]).sort_index()
    title = f"{Path(input).name}, {len(events)} events"
    if left_out:
        title += f" ({left_out} machines not drawn: choose with --group-value)"
    with mpl.rc_context({"svg.hashsalt": "anomaly-ae", "font.size": 9}):
        figure = draw(detector, machines, channels, title)
        picture = io.BytesIO()
        figure.savefig(picture, format=target.suffix[1:].lower(), dpi=120)
    write_whole(target, picture.getvalue())
    return target, events


def _asked(detector: SeriesDetector, X: pd.DataFrame, groups: Sequence[str], file: str) -> list[str]:
    """The groups to draw as they were asked for, if any were."""
    if groups and detector.group is None:
        raise ConfigError(
            f"--group-value needs a model that was fitted with --group, however: this one was not. Leave out "
            f"{listed(groups, 8)}."
        )
    known = [] if detector.group is None else [str(group) for group in X[detector.group].unique()]
    if unknown := [group for group in groups if group not in known]:
        raise ConfigError(
            f"--group-value needs groups of {file}, however: {listed(unknown, 8)}. It has {listed(known, 20)}."
        )
    return list(dict.fromkeys(groups))
