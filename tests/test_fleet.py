"""Several machines in one file: which of them it is that something is said of."""

import re
import warnings

import pandas as pd
import pytest
from test_series import QUICK, table
from typer.testing import CliRunner

from anomaly_ae import SeriesDetector, load
from anomaly_ae.cli import app
from anomaly_ae.config import dumps
from anomaly_ae.errors import DataError
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


# --- machines that are not told apart --------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [True, False])
def test_several_machines_without_a_group_are_asked_after_before_anything_else(interleaved):
    X = fleet(200).drop(columns="unit")
    X = X.sort_values("time", kind="stable") if interleaved else X
    with pytest.raises(DataError, match=r"however: .*\. Several machines in one file\? Name their column with --group"):
        SeriesDetector(views=QUICK, time="time").fit(X)


def test_of_one_machine_nothing_is_asked():
    X = table(200)
    with pytest.raises(DataError, match=r"\(1 such rows\)\. Choose on_duplicate"):
        SeriesDetector(views=QUICK, time="time").fit(X.iloc[[*range(100), *range(99, 200)]])
    with pytest.raises(DataError, match=r"than the one before\. Sort them"):
        SeriesDetector(views=QUICK, time="time").fit(X[::-1])


def test_rows_that_are_left_out_as_duplicates_are_told_of(tmp_path):
    fleet(300).sort_values("time", kind="stable").to_csv(tmp_path / "X.csv", index=False)
    config = tmp_path / "c.yaml"
    config.write_text(dumps(SeriesDetector(views=QUICK, time="time", on_duplicate="first", random_state=0)))
    fit = run("fit", config, "--data", tmp_path / "X.csv", "--exclude", "unit", "--model", tmp_path / "m", "--no-track")
    told = r"note      300 of 600 rows left out: they have the time of another .*Name their column with --group\n"
    assert re.search(told, fit.stderr), fit.stderr
    job = ["score", tmp_path / "m", tmp_path / "X.csv", "--output", tmp_path / "o.csv", "--no-track"]
    assert re.search(told, run(*job).stderr)
    once = table(100, seed=3)
    once.iloc[[*range(50), *range(49, 100)]].to_csv(tmp_path / "X.csv", index=False)
    done = run(*job, "--overwrite")
    assert 'note      1 of 101 rows left out: they have the time of another (on_duplicate="first")\n' in done.stderr


def test_rows_that_name_no_machine_are_refused_with_their_place(model, odd, tmp_path):
    X = pd.read_csv(odd)
    X.loc[[6, 350], "unit"] = None
    X.to_csv(odd, index=False)
    words = r"new.csv: Rows need a group in 'unit', however: row 7 names none \(2 such rows\)\. Say which"
    with pytest.raises(DataError, match=words):
        series.score(model, odd, tmp_path / "o.csv")
    with pytest.raises(DataError, match=words):
        series.fit(odd, tmp_path / "m", time_column="time", group="unit")
    with pytest.raises(DataError, match="row 7 names none"):
        load(model).assess(X)


def test_rows_in_no_order_are_refused_without_a_guess_at_their_step(model):
    """Which would be of shuffled rows: hundreds of times as far apart as at fit."""
    X = fleet(300, seed=5).sample(frac=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="in order of time"):
            load(model).assess(X)


@pytest.mark.parametrize("unit", ["P-103", 7])
def test_a_machine_that_no_fit_has_seen_is_told_of(model, tmp_path, unit):
    new = fleet(100, seed=7, units=("P-101", unit))
    new.to_csv(tmp_path / "new.csv", index=False)
    job = ["score", model, tmp_path / "new.csv", "--output", tmp_path / "o.csv", "--no-track"]
    assert f"note      unseen at fit, so that what is normal there is a guess: {unit}\n" in run(*job).stderr
    new[new["unit"] == "P-101"].to_csv(tmp_path / "new.csv", index=False)
    assert "unseen at fit" not in run(*job, "--overwrite").stderr
    assert "groups       2: P-101, P-102" in run("info", model).stdout


def test_groups_of_all_types_are_known_by_their_names_and_kept(tmp_path):
    X = fleet(200, units=(2, 10))
    for units in (X["unit"], X["unit"].astype(str), X["unit"].astype("category")):
        det = SeriesDetector(views=QUICK, time="time", group="unit", random_state=0).fit(X.assign(unit=units))
        assert det.groups_ == ["10", "2"]
    assert load(det.save(tmp_path / "m")).groups_ == ["10", "2"]
    assert SeriesDetector(views=QUICK, time="time", random_state=0).fit(table(200)).groups_ is None
