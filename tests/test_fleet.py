"""Several machines in one file: which of them it is that something is said of."""

import os
import re
import warnings
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from test_series import QUICK, table
from typer.testing import CliRunner

from anomaly_ae import Events, Mahalanobis, SeriesDetector, View, load
from anomaly_ae.cli import app
from anomaly_ae.config import dumps
from anomaly_ae.errors import BadRowsError, DataError
from anomaly_ae.monitoring.drift import LEVEL, alarms_by_chance, can_tell
from anomaly_ae.ops import series
from anomaly_ae.ops.check import check
from anomaly_ae.ops.monitoring import monitor
from anomaly_ae.ops.pictures import score_histogram
from anomaly_ae.ops.series_picture import draw, machines_of
from anomaly_ae.ops.series_summary import told_fit, told_score
from anomaly_ae.ops.series_times import laid, told_begun
from anomaly_ae.ops.watch import watch

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
    assert heads[:4] == ["", "machine or group", "start", "end"]
    assert re.findall(r"What sensors measured[^<]*", page) == ["What sensors measured: P-102"]  # who had an event
    drawn = page[page.index("What sensors measured") :]
    assert ">sensor_2</text>" in drawn[: drawn.index("</svg>")]
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
    with pytest.raises(BadRowsError, match=r"2 of 600 \(the first: .*row 7, .*column 'unit': names no group\)"):
        series.score(model, odd, tmp_path / "o.csv", on_bad_row="fail")
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


def test_a_watch_tells_once_of_a_machine_that_no_fit_has_seen_and_refuses_rows_of_none(model, tmp_path):
    new = fleet(20, seed=7, units=("P-101", "P-103")).sort_values("time", kind="stable").reset_index(drop=True)
    new.loc[7, "unit"] = None
    lines, records, sentences = new.to_csv(index=False).splitlines(keepends=True), [], []
    for some in (lines[:21], [lines[0], *lines[21:]]):
        watch(model, some, records.append, sentences.append, state=tmp_path / "state.json")
    assert sentences == ["unseen at fit, so that what is normal there is a guess: P-103"]
    bad = [record for record in records if "error" in record]
    assert [record["row"] for record in bad] == [8]
    assert "needs a group in 'unit', however: it names none" in bad[0]["error"]
    with pytest.raises(DataError, match="need a group in 'unit', however: row 1 names none"):
        load(model).stream().update(new[7:8])


def test_groups_of_all_types_are_known_by_their_names_and_kept(tmp_path):
    X = fleet(200, units=(2, 10))
    for units in (X["unit"], X["unit"].astype(str), X["unit"].astype("category")):
        det = SeriesDetector(views=QUICK, time="time", group="unit", random_state=0).fit(X.assign(unit=units))
        assert det.groups_ == ["10", "2"]
    assert load(det.save(tmp_path / "m")).groups_ == ["10", "2"]
    assert SeriesDetector(views=QUICK, time="time", random_state=0).fit(table(200)).groups_ is None


# --- what a check finds of times and machines -------------------------------------------------------------------------


def later(times):
    return (pd.to_datetime(times) + pd.Timedelta("1h")).dt.strftime("%Y-%m-%dT%H:%M:%SZ")


ASIDE = -3  # a bad row is set aside, or ends the job by 3
ODD_TIMES = {  # what changes, what a check calls it, and how scoring ends
    "shuffled": (lambda X: X.sample(frac=1, random_state=0), "time order", 2),
    "one row back": (lambda X: X.iloc[[0, 2, 1, *range(3, 600)]], "time order", 2),
    "twice": (lambda X: X.iloc[[*range(50), *range(49, 600)]], "duplicate time", 2),
    "day first": (lambda X: X.assign(time=X["time"].str.replace("2026-01-01", "01/01/2026")), "unreadable time", 3),
    "a word": (lambda X: X.assign(time=X["time"].mask(X.index == 7, "noon")), "unreadable time", ASIDE),
    "no time": (lambda X: X.assign(time=X["time"].mask(X.index == 7)), "missing time", ASIDE),
    "no machine": (lambda X: X.assign(unit=X["unit"].mask(X.index == 7)), "missing group", ASIDE),
    "another machine": (lambda X: X.assign(unit=X["unit"].replace("P-101", "P-1")), "unseen group", 0),
    "milliseconds": (lambda X: X.assign(time=60_000.0 * np.tile(np.arange(300), 2)), "step", 0),
    "a word among numbers": (
        lambda X: X.assign(time=pd.Series(np.tile(60 * np.arange(300), 2)).astype(object).mask(X.index == 7, "noon")),
        "unreadable time",
        ASIDE,
    ),
    "hours": (lambda X: X.assign(time=[*pd.date_range("2026", periods=300, freq="h")] * 2), "step", 0),
    "an hour's gap": (lambda X: X.assign(time=X["time"].mask(X.index % 300 > 99, later(X["time"]))), "gap", 0),
}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("change", ODD_TIMES)
def test_a_check_finds_what_scoring_refuses_sets_aside_or_begins_anew_at(model, tmp_path, change, ending):
    changed, kind, code = ODD_TIMES[change]
    if (change, ending) == ("a word among numbers", "parquet"):
        code = 3  # all are words
    new = changed(fleet(300, seed=5))
    path = tmp_path / f"new.{ending}"
    if ending == "csv":
        new.to_csv(path, index=False)
    else:
        new.astype({"time": str} if change == "a word among numbers" else {}).to_parquet(path)
    found = [finding for finding in check(model, path).findings if finding.kind != "range"]
    assert [finding.kind for finding in found] == [kind]
    assert found[0].sentence.startswith(f"{found[0].column}: ")
    job = run("score", model, path, "--output", tmp_path / "o.csv", "--no-track")
    assert job.exit_code == max(code, 0), job.output
    if code == ASIDE:
        assert "bad rows  1 of 600" in job.output
        strict = run("score", model, path, "--output", tmp_path / "p.csv", "--no-track", "--on-bad-row", "fail")
        assert strict.exit_code == 3
    gate = kind.replace(" ", "-")
    assert run("check", model, path, "--fail-on", gate).exit_code == 4
    fleet(300, seed=5).to_csv(tmp_path / "good.csv", index=False)
    assert run("check", model, tmp_path / "good.csv", "--fail-on", gate).exit_code == 0


def test_odd_times_are_told_with_how_many_and_the_first(model, tmp_path):
    new = fleet(300, seed=5)
    new["time"] = new["time"].mask(new.index % 300 > 99, later(new["time"]))
    new.loc[[6, 9], "time"] = "noon"
    new.to_csv(tmp_path / "new.csv", index=False)
    told = [f.sentence for f in check(model, tmp_path / "new.csv").findings if f.kind in ("unreadable time", "gap")]
    assert told == [
        "time: 2 of 600 rows neither a number nor ISO 8601 (first in row 7: 'noon')",
        "time: 2 of 600 rows after a gap of more than 3.5 steps (first in row 101); the longest is 61 steps",
    ]
    new.assign(time=60_000 * np.tile(np.arange(300), 2)).to_csv(tmp_path / "new.csv", index=False)
    (told,) = [f.sentence for f in check(model, tmp_path / "new.csv").findings if f.kind == "step"]
    assert told == "time: rows are 60000 apart, 60 at fit: another unit of time, or another rate"


# --- when a batch was -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_batch_stands_at_its_last_date_unless_it_is_told_another(model, tmp_path, ending):
    """Files that are copied are all written now."""
    ends = []
    for day, zone in ((3, "Z"), (2, "+01:00")):
        new = fleet(100, seed=day)
        new["time"] = new["time"].str.replace("2026-01-01", f"2026-01-0{day}").str.replace("Z", zone)
        path = tmp_path / f"{day}.{ending}"
        new.to_csv(path, index=False) if ending == "csv" else new.assign(time=pd.to_datetime(new.time)).to_parquet(path)
        ends += [found["event_time"] for found in monitor(model, path, state=tmp_path / "m.json").batches]
        done = series.score(model, path, tmp_path / "o.csv", overwrite=True)
        assert done.monitoring["event_time"] == ends[-1]
    assert ends == ["2026-01-03T01:39:00+00:00", "2026-01-02T00:39:00+00:00"]
    asked = monitor(model, path, state=tmp_path / "n.json", event_time=datetime(2025, 12, 1, tzinfo=UTC)).batches
    assert asked[0]["event_time"] == "2025-12-01T00:00:00+00:00"


def test_of_times_that_are_numbers_it_stands_where_its_file_was_written(tmp_path):
    X = table(200).assign(time=60 * np.arange(200))
    X.to_csv(tmp_path / "X.csv", index=False)
    os.utime(tmp_path / "X.csv", (0, 86400))
    SeriesDetector(views=QUICK, time="time", random_state=0).fit(X).save(tmp_path / "m")
    (found,) = monitor(tmp_path / "m", tmp_path / "X.csv", state=tmp_path / "m.json").batches
    assert found["event_time"] == "1970-01-02T00:00:00+00:00"


def test_a_sample_of_scores_is_of_all_machines_though_their_rows_take_turns(model, tmp_path, monkeypatch):
    monkeypatch.setattr(series, "SAMPLE", 200)  # of 400 rows each second one
    new = fleet(200, seed=5)
    new.loc[new["unit"] == "P-102", "sensor_2"] += 9
    seen = []
    for name, rows in (("apart", new), ("turns", new.sort_values("time", kind="stable").reset_index(drop=True))):
        det = load(model)
        evidence = series.evidence(det, rows, det.assess(rows), laid(det, rows).order)
        assert evidence.alarms > 150
        assert 0.4 < (evidence.scores > det.threshold_.value_).mean() < 0.6
        seen.append(evidence)
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
        series.score(model, tmp_path / f"{name}.csv", tmp_path / "o.csv", overwrite=True, report=tmp_path / "r.html")
        words = r"(\d+) in a sample of 200 from 400 rows beyond"
        assert int(re.search(words, (tmp_path / "r.html").read_text())[1]) > 75
    np.testing.assert_array_equal(seen[0].scores, seen[1].scores)
    np.testing.assert_array_equal(seen[0].counts.cells, seen[1].counts.cells)


def test_a_profile_is_that_of_the_machines_whether_or_not_their_rows_take_turns():
    X = fleet(300)
    X.loc[X["unit"] == "P-102", "sensor_1"] += 9  # row by row it would be to and fro
    det = SeriesDetector(views=QUICK, time="time", group="unit", random_state=0)
    apart, turns = (clone(det).fit(rows) for rows in (X, X.sort_values("time", kind="stable").reset_index(drop=True)))
    np.testing.assert_array_equal(apart.profile_.time, turns.profile_.time)
    apart.recalibrate(X)
    turns.recalibrate(X.sort_values("time", kind="stable").reset_index(drop=True))
    np.testing.assert_array_equal(apart.profile_.time, turns.profile_.time)


# --- what nobody looked at --------------------------------------------------------------------------------------------


def test_rows_without_a_window_blame_nobody_and_are_told_of(odd, tmp_path):
    views = [View(Mahalanobis(), window=32, channels=1)]
    det = SeriesDetector(views=views, reduce="last", time="time", group="unit", random_state=0).fit(fleet())
    model = det.save(tmp_path / "model")
    job = ["score", model, odd, "--output", tmp_path / "o.csv", "--no-track"]
    told = run(*job).stderr
    assert (
        "note      62 rows, where 2 stretches begin, have no full window of 32 rows behind them and count for less"
        in told
    )
    scores = pd.read_csv(tmp_path / "o.csv")
    nothing = scores["anomaly_score"] == 0
    assert nothing[0]
    assert not nothing.all()
    for column in ("top_1", "top_1_share", "top_3", "top_3_share"):
        assert (scores[column].isna() == nothing).all()
    table(1, seed=5).assign(unit="P-101").to_csv(odd, index=False)
    told = run(*job, "--overwrite", "--report", tmp_path / "r.html").stderr
    assert "note      all 1 rows have no full window of 32 rows behind them" in told
    assert "drift     too few rows to tell\n" in told
    assert "Too few rows to tell" in (tmp_path / "r.html").read_text()
    assert "too few rows to tell\n" in run("monitor", model, odd, "--state", tmp_path / "s.json", "--no-track").stdout


def test_of_means_rows_of_short_series_have_no_full_window(tmp_path):
    det = SeriesDetector(views=QUICK, time="time", random_state=0).fit(table(300))
    notes = {n: told_begun(det, laid(det, table(n))) for n in (7, 8)}
    assert notes == {7: ["all 7 rows have no full window of 8 rows and count for less"], 8: []}


def test_rows_can_tell_where_all_of_them_could_cross_a_gate():
    told = [can_tell(rows, 0.05, 500) for rows in (1, 2, 3, 4)]
    assert (
        told == [alarms_by_chance(rows, rows, 0.05, 500) < LEVEL for rows in (1, 2, 3, 4)] == [False, False, True, True]
    )
    assert [can_tell(rows, None, 500) for rows in (3, 4)] == [False, True]
    assert not can_tell(50, 0.05, 500, time=20)


# --- why there is no event --------------------------------------------------------------------------------------------


def test_many_alarms_without_an_event_are_explained(tmp_path):
    rule = Events(every=100_000)
    det = SeriesDetector(views=QUICK, time="time", event_rule=rule, random_state=0).fit(table(400))
    det.save(tmp_path / "m")
    new = table(300, seed=5)
    new.iloc[50:250, 1:] += 0.12 * np.random.default_rng(0).normal(size=(200, 4))
    new.to_csv(tmp_path / "new.csv", index=False)
    done = series.score(tmp_path / "m", tmp_path / "new.csv", tmp_path / "o.csv", report=tmp_path / "r.html")
    assert done.alarm_rate > 0.3
    assert done.events == []
    highest = pd.read_csv(tmp_path / "o.csv")["anomaly_score"].max()
    level = det.events_.level_
    share = highest / level
    told = (
        f"no event: the highest score {highest:.3g} is {share:.2g} of the level {level:.3g} at which one opens; lower "
    )
    assert f"note      {told}`every` of the event rule" in told_score(done)
    assert told in (tmp_path / "r.html").read_text()
    new.loc[100, "sensor_1"] += 99
    new.to_csv(tmp_path / "new.csv", index=False)
    det.set_params(event_rule__shortest=50).fit(table(400)).save(tmp_path / "m", overwrite=True)
    done = series.score(tmp_path / "m", tmp_path / "new.csv", tmp_path / "o.csv", overwrite=True)
    assert "; fewer rows than `shortest` of the event rule, 50, are together" in told_score(done)
    table(300, seed=5).to_csv(tmp_path / "new.csv", index=False)
    assert "no event" not in told_score(
        series.score(tmp_path / "m", tmp_path / "new.csv", tmp_path / "o.csv", overwrite=True)
    )


@pytest.mark.parametrize(("every", "guessed"), [(10_000, True), (100, False)])
def test_a_fit_tells_where_events_open_by_a_guess(tmp_path, every, guessed):
    table(400).to_csv(tmp_path / "X.csv", index=False)
    (tmp_path / "c.yaml").write_text(
        dumps(SeriesDetector(views=QUICK, time="time", event_rule=Events(every=every), random_state=0))
    )
    done = series.fit(tmp_path / "X.csv", tmp_path / "m", tmp_path / "c.yaml")
    rows = len(load(tmp_path / "m").calibration_scores_)
    told = f"note      that one event in 10,000 normal rows is false is a guess from {rows:,} held-out rows; "
    assert (told in told_fit(done)) == guessed


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(model):
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    new = fleet(300, seed=5).drop(index=range(100, 160)).reset_index(drop=True)
    new.loc[340:359, "sensor_2"] += 9
    det, new = load(model), new.sort_values("time", kind="stable").reset_index(drop=True)
    machines, left_out = machines_of(det, new, det.assess_events(new))
    assert left_out == 0
    return det, machines, draw(det, machines, ["sensor_2", "sensor_0"], "a $ and b $")


def test_machines_stand_side_by_side_each_with_its_own_rows_and_events(drawn):
    det, machines, figure = drawn
    assert [len(machine.score) for machine in machines] == [240, 300]
    assert [len(machine.events) for machine in machines] == [0, 1]
    assert machines[1].events["channel_1"].tolist() == ["sensor_2"]
    assert (machines[1].score[machines[1].spans[0]] > det.threshold_.value_).all()
    panels = np.array(figure.axes).reshape(3, 2)
    assert [panel.get_title(loc="left") for panel in panels[0]] == ["P-101", "P-102"]
    shaded = [[len(panel.patches) for panel in row] for row in panels]
    assert shaded == [[0, 1]] * 3


def test_lines_end_where_rows_are_missing(drawn):
    _, machines, figure = drawn
    for row in np.array(figure.axes).reshape(3, 2):
        first, second = (panel.lines[0].get_ydata() for panel in row)
        assert (len(first), np.flatnonzero(np.isnan(first)).tolist()) == (241, [100])
        assert not np.isnan(second).any()
        assert (np.diff(row[0].lines[0].get_xdata()) >= np.timedelta64(0)).all()
    assert np.unique(machines[0].run).tolist() == [1, 2]


def test_no_name_is_a_formula(drawn):
    _, _, figure = drawn
    panels = np.array(figure.axes).reshape(3, 2)
    texts = [figure._suptitle, panels[0, 0].yaxis.label, panels[0, 0]._left_title]
    assert not any(text.get_parse_math() for text in texts)
    assert score_histogram(np.ones(3), 0.5, "$a$").axes[0].get_title().startswith(r"\$a\$")


def test_of_many_machines_the_strangest_are_drawn_or_those_that_are_asked_for(model, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    new = fleet(100, seed=5, units=[f"P-{number}" for number in range(6)])
    for number in (1, 2, 4, 5):
        new.loc[100 * number + 50 : 100 * number + 60 + number, "sensor_2"] += 9 + number
    new.to_csv(tmp_path / "new.csv", index=False)
    det = load(model)
    machines, left_out = machines_of(det, new, det.assess_events(new))
    assert (sorted(machine.name for machine in machines), left_out) == (["P-1", "P-2", "P-4", "P-5"], 2)
    machines, left_out = machines_of(det, new, det.assess_events(new), ["P-4", "P-0"])
    assert ([machine.name for machine in machines], left_out) == (["P-4", "P-0"], 0)
    assert machines[0].events.index.tolist() == [3]  # as score numbers them
    job = ["plot", model, tmp_path / "new.csv", "--output", tmp_path / "p.svg", "--overwrite"]
    assert "drawn     4 events in" in run(*job).stderr
    assert "(2 machines not drawn: choose with " in (tmp_path / "p.svg").read_text()
    assert "drawn     1 events in" in run(*job, "--group-value", "P-4").stderr
    done = run(*job, "--group-value", "P-9")
    assert done.exit_code == 2
    assert "however: P-9. It has P-0, P-1, P-2" in done.stderr
    SeriesDetector(views=QUICK, time="time", random_state=0).fit(table(200)).save(tmp_path / "m")
    table(100).to_csv(tmp_path / "new.csv", index=False)
    done = run("plot", tmp_path / "m", tmp_path / "new.csv", "--output", tmp_path / "p.png", "--group-value", "P-4")
    assert done.exit_code == 2
    assert "--group-value needs a model that was fitted with --group" in done.stderr
