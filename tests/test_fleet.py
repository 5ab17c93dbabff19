"""Several machines in one file: which of them it is that something is said of."""

import re

import pandas as pd
import pytest
from test_series import QUICK, table
from typer.testing import CliRunner

from anomaly_ae import SeriesDetector
from anomaly_ae.cli import app
from anomaly_ae.ops import series
from anomaly_ae.ops.series_summary import told_score

UNITS = ("P-101", "P-102")


def fleet(n=600, seed=0, units=UNITS):
    """Machines one below the other, each with a row a minute at the same times."""
    return pd.concat([table(n, seed + k).assign(unit=unit) for k, unit in enumerate(units)], ignore_index=True)


def run(*command):
    return CliRunner().invoke(app, [str(part) for part in command])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    det = SeriesDetector(views=QUICK, reduce="last", time="time", group="unit", random_state=0).fit(fleet())
    return det.save(tmp_path_factory.mktemp("fleet") / "model")


@pytest.fixture
def odd(tmp_path):
    """The second machine's sensor_2 is wrong for twenty minutes."""
    new = fleet(300, seed=5)
    new.loc[400:419, "sensor_2"] += 9
    new.to_csv(tmp_path / "new.csv", index=False)
    return tmp_path / "new.csv"


def test_every_event_is_told_of_its_machine(model, odd, tmp_path):
    done = series.score(model, odd, tmp_path / "o.csv", report=tmp_path / "r.html")
    assert {event["group"] for event in done.events} == {"P-102"}
    start = done.events[0]["start"]
    assert f"\n  P-102  {start} to " in told_score(done)
    page = (tmp_path / "r.html").read_text()
    heads = re.findall(r"<th(?: [^>]*)?>(.*?)</th>", page[page.index("Events") :])
    assert heads[:3] == ["machine or group", "start", "end"]
    assert re.search(rf"P-102</td>\s*<td[^>]*>{re.escape(start)}", page)


def test_a_model_that_is_not_there_is_said_to_be_so_whatever_is_asked_of_it(odd, tmp_path):
    job = ["score", tmp_path / "no_model", odd, "--output", tmp_path / "o.csv"]
    plain, events = run(*job), run(*job, "--events", tmp_path / "e.csv")
    assert (plain.exit_code, events.exit_code) == (2, 2)
    assert events.stderr == plain.stderr
    assert "no_model" in plain.stderr
    assert "--events" not in plain.stderr
