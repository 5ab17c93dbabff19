"""Live: rows as they come have the scores that they would have together; and the pipe around it."""

import gc
import json
import re
import signal
import subprocess
import sys
import tracemalloc
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from test_series import QUICK, plant, table
from typer.testing import CliRunner

from anomaly_ae import (
    AutoencoderDetector,
    Events,
    Mahalanobis,
    Neighbours,
    PrincipalComponents,
    SeriesDetector,
    View,
    load,
)
from anomaly_ae.cli import app
from anomaly_ae.cli.ending import Ending
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import Draft
from anomaly_ae.errors import ConfigError, DataError, OutputError
from anomaly_ae.ops import watch as watching
from anomaly_ae.ops.series_plot import plot
from anomaly_ae.ops.watch import told_watch, watch
from anomaly_ae.series.events import Unfolding

VIEWS = [*QUICK, View(PrincipalComponents(keep=0.9), window=20), View(Neighbours(k=2, exact=1, sample=100), window=5)]


@pytest.fixture(scope="module")
def causal():
    return SeriesDetector(views=VIEWS, reduce="last", random_state=0).fit(plant())


@pytest.mark.parametrize("pieces", [[1] * 60, [3] * 20, [1, 7, 30, 22], [60]], ids=["ones", "threes", "mixed", "all"])
@pytest.mark.parametrize("smoothing", [1, 4])
def test_a_stream_says_what_batch_says(smoothing, pieces):
    det = SeriesDetector(views=VIEWS, reduce="last", smoothing=smoothing, random_state=0).fit(plant(600))
    X = plant(60, seed=1)
    X[20:30, 2] = X[20, 2]  # stands still
    X[40, 1] = np.nan
    stream, ends = det.stream(), np.cumsum([0, *pieces])
    told = [stream.assess(X[first:last]) for first, last in pairwise(ends)]
    batch = det.assess(X)
    assert np.allclose(np.concatenate([one.anomaly_score for one in told]), batch.anomaly_score, atol=1e-6, rtol=1e-6)
    assert np.allclose(np.concatenate([one.contributions for one in told]), batch.contributions, atol=1e-6, rtol=1e-5)
    assert (np.concatenate([one.is_anomaly for one in told]) == batch.is_anomaly).all()


@pytest.mark.parametrize(("smoothing", "on_duplicate"), [(1, "keep"), (4, "keep"), (1, "first")])
def test_rows_may_be_scored_alone_and_explained_later(smoothing, on_duplicate):
    options = {"smoothing": smoothing, "on_duplicate": on_duplicate, "time": "time", "random_state": 0}
    det = SeriesDetector(views=VIEWS, reduce="last", **options).fit(table(600))
    X = table(40, seed=1)
    X.loc[31, "time"] = X.loc[30, "time"]  # a duplicate, explained by the one before, which was not
    stream, batch = det.stream(), det.assess(X)
    for i in range(40):
        if i % 31:
            assert stream.update(X[i : i + 1]) == pytest.approx(batch.anomaly_score[i], rel=1e-6)
        else:
            told = stream.assess(X[i : i + 1])
            assert np.allclose(told.contributions, batch.contributions[i], atol=1e-6, rtol=1e-5)
            assert told.anomaly_score == pytest.approx(batch.anomaly_score[i], rel=1e-6)


def test_a_net_says_so_too():
    inner = AutoencoderDetector(max_epochs=2, steps_per_epoch=5)
    det = SeriesDetector(inner, window=8, reduce="last", random_state=0).fit(plant(400))
    X = plant(30, seed=1)
    stream = det.stream()
    assert np.allclose(np.concatenate([stream.update(row) for row in X]), det.anomaly_score(X), atol=1e-6)


def test_a_detector_of_means_streams_as_its_causal_twin(causal):
    mean = SeriesDetector(views=VIEWS, reduce="mean", random_state=0).fit(plant())
    X = plant(100, seed=1)
    assert np.allclose(mean.stream().update(X), causal.anomaly_score(X))
    assert (mean.stream().assess(X).p_value == causal.p_values(X)).all()


def test_groups_and_gaps_in_a_stream_are_those_of_batch():
    X = pd.concat([table(500).assign(pump="a"), table(500, seed=5).assign(pump="b")])
    det = SeriesDetector(views=VIEWS, reduce="last", time="time", group="pump", random_state=0).fit(X)
    a, b = table(60, seed=6).assign(pump="a"), table(60, seed=7).assign(pump="b").drop(index=range(30, 40))
    new = pd.concat([a, b]).sort_values("time", kind="stable").reset_index(drop=True)
    stream = det.stream()
    scores = np.concatenate([stream.update(new[i : i + 1]) for i in range(len(new))])
    assert np.allclose(scores, det.anomaly_score(new), atol=1e-6)
    with pytest.raises(DataError, match="in order of time"):
        stream.update(new[:1])


@pytest.mark.parametrize("on_gap", ["split", "fill"])
def test_what_is_missing_is_split_or_filled_as_in_batch(on_gap):
    det = SeriesDetector(views=VIEWS, reduce="last", time="time", on_gap=on_gap, window=8, random_state=0)
    det.fit(table(600))
    new = table(100, seed=1).drop(index=[20, *range(50, 55)]).reset_index(drop=True)
    stream = det.stream()
    scores = np.concatenate([stream.update(new[i : i + 1]) for i in range(len(new))])
    assert np.allclose(scores, det.anomaly_score(new), atol=1e-6)


def test_a_stream_goes_on_where_it_was_saved(causal, tmp_path):
    X = plant(100, seed=1)
    first = causal.stream()
    first.update(X[:37])
    first.save(tmp_path / "state.json")
    again = causal.stream().restore(tmp_path / "state.json")
    assert (again.update(X[37:]) == first.update(X[37:])).all()
    other = SeriesDetector(views=QUICK, reduce="last", random_state=0).fit(plant(300))
    with pytest.raises(DataError, match="of its own model"):
        other.stream().restore(tmp_path / "state.json")
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(DataError, match="a state that it saved"):
        causal.stream().restore(tmp_path / "none.json")


def test_memory_does_not_grow(causal):
    X, stream = plant(3000, seed=1), causal.stream()
    stream.update(X[:500])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for row in X[500:2500]:
        stream.update(row)
    gc.collect()  # Python keeps up to 2,000 tuples that it has freed
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 50_000


def test_duplicates_cannot_be_taken_back():
    det = SeriesDetector(views=QUICK, time="time", on_duplicate="last", random_state=0).fit(table(300))
    with pytest.raises(ConfigError, match="cannot take back a row"):
        det.stream()


@pytest.mark.parametrize("on_gap", ["split", "fill"])
@pytest.mark.parametrize(
    ("rows", "ahead"),
    [([50], "10min"), ([50], "3650D"), (range(50, 70), "3650D"), ([50, 51], None), ([0], "3650D")],
    ids=["a little", "far", "far for long", "twice", "at first"],
)
def test_a_clock_that_jumps_ahead_and_back_costs_the_rows_that_it_was_wrong_in(on_gap, rows, ahead, tmp_path):
    det = SeriesDetector(views=VIEWS, reduce="last", time="time", on_gap=on_gap, window=16, random_state=0)
    det.fit(table(600))
    right = table(120, seed=1)
    new, rows = right.copy(), list(rows)
    jumps = pd.to_timedelta(["3650D", "7300D"] if ahead is None else [ahead] * len(rows))
    new.loc[rows, "time"] = (pd.to_datetime(right["time"][rows]) + jumps).astype(str)
    stream, scores = det.stream(), []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for at in range(120):
            scores += [*stream.update(new[at : at + 1])]
            stream = det.stream().restore(stream.save(tmp_path / "state.json"))
    assert ["look at the clock" in str(one.message) for one in told] == [True]
    np.testing.assert_allclose(np.delete(scores, rows), det.anomaly_score(right.drop(index=rows)), atol=1e-6)


def test_a_row_that_is_late_is_not_the_clock():
    det = SeriesDetector(views=QUICK, time="time", random_state=0).fit(table(600))
    new = table(200, seed=1)
    for first in ([*range(50), 100, 101], [*range(50), 100]):  # a gap that the next row agrees with, or that is short
        stream = det.stream()
        stream.update(new.iloc[first])
        with pytest.raises(DataError, match=r"this row is .* earlier"):
            stream.update(new[90:91])
    with pytest.raises(DataError, match="row 2 of these is 1 steps earlier"):
        stream.update(new.iloc[[101, 100]])


@pytest.mark.parametrize(
    ("unit", "every", "said"),
    [(1000, 1, "about 1000 times"), (1, 10, "about 10 times"), (1 / 60, 1, "about 0.01667 times"), (1, 1, None)],
    ids=["milliseconds", "each tenth", "minutes", "right"],
)
def test_a_stream_of_another_unit_or_rate_is_warned_of_once(unit, every, said, tmp_path):
    det = SeriesDetector(views=QUICK, time="time", random_state=0).fit(table(600))
    new = table(400, seed=1)[::every]
    new["time"] = pd.to_datetime(new["time"]).map(lambda time: time.timestamp() * unit)
    stream, heard = det.stream(), []
    for at in range(40):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            stream.update(new[at : at + 1])
        heard += [(at, str(one.message)) for one in told]
        if at == 4:
            stream = det.stream().restore(stream.save(tmp_path / "state.json"))
    assert [(at, said in sentence) for at, sentence in heard] == ([(10, True)] if said else [])
    stream = det.stream().restore(stream.save(tmp_path / "state.json"))  # the next day
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        stream.update(new[39:40].assign(time=new["time"][39 * every] + 60 * unit * every))
    assert len(told) == bool(said)


# --- the pipe -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch") / "model"
    SeriesDetector(views=VIEWS, reduce="last", time="time", random_state=0).fit(table(1200)).save(folder)
    return folder


def watched(model, lines, **options):
    records, sentences = [], []
    summary = watch(model, lines, records.append, sentences.append, **options)
    return summary, records, sentences


def rows(n=120):
    new = table(n, seed=1)
    new.loc[60:79, "sensor_2"] += 4
    return new


def test_a_line_that_no_parser_takes_is_a_bad_row(model):
    lines = [json.dumps(row) + "\n" for row in rows(3).to_dict("records")]
    summary, records, _ = watched(model, [lines[0], "[" * 100_000 + "\n", *lines[1:]])
    assert (summary.rows, summary.bad_rows) == (4, 1)
    assert "needs JSON" in records[1]["error"]


@pytest.mark.parametrize(
    "note", [{"alerts": {"": {"strange": 1}}}, {"ends": 3}, {"rows": "many"}, {"alerts": []}], ids=str
)
def test_a_state_with_another_note_is_refused(model, tmp_path, note):
    lines = rows(30).to_csv(index=False).splitlines(keepends=True)
    watched(model, lines, state=tmp_path / "state.json")
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(state | {"note": note}))
    with pytest.raises(DataError, match=r"a state that it saved.*another note.*Begin anew"):
        watched(model, lines, state=tmp_path / "state.json")


def test_a_watch_that_knows_all_of_its_rows_says_so(model, tmp_path):
    lines = rows(30).to_csv(index=False).splitlines(keepends=True)
    watched(model, lines, state=tmp_path / "state.json")
    summary, _, _ = watched(model, lines, state=tmp_path / "state.json")
    assert (summary.rows, summary.seen) == (0, 30)
    assert "none of them was new" in told_watch(summary)


def test_csv_and_json_lines_say_what_batch_says(model):
    new = rows()
    lines = new.to_csv(index=False).splitlines(keepends=True)
    objects = [json.dumps(row) + "\n" for row in new.to_dict("records")]
    for some in (lines, objects):
        summary, records, sentences = watched(model, some)
        assert np.allclose([record["anomaly_score"] for record in records], load(model).anomaly_score(new), atol=1e-6)
        assert summary.rows == 120
        assert summary.events == 1
        assert "is confirmed at row" in sentences[0]
        assert "sensor_2" in sentences[0]
        assert [record["time"] for record in records] == new["time"].tolist()
        assert max(records[70]["blamed"], key=records[70]["blamed"].get) == "sensor_2"
        events = [record["event"] for record in records]
        assert events.index("opens") in range(60, 70)


def test_a_bad_row_is_told_of_and_does_not_stop_the_watch(model):
    lines = rows(40).to_csv(index=False).splitlines(keepends=True)
    lines[5] = lines[5].replace("Z,", "Z,oops", 1)
    lines[9] = "one,two\n"
    summary, records, _ = watched(model, lines)
    assert summary.bad_rows == 2
    assert "oops" in records[4]["error"]
    assert "5 fields" in records[8]["error"]
    assert "anomaly_score" in records[39]


def test_a_state_that_could_not_be_saved_is_refused_before_any_row(model, tmp_path):
    lines, state = rows(4).to_csv(index=False).splitlines(), tmp_path / "missing" / "state.json"
    with pytest.raises(OutputError, match="folder that can be written"):
        watch(model, lines, pytest.fail, pytest.fail, state=state)


def test_a_watch_goes_on_where_it_stopped(model, tmp_path):
    lines = rows(100).to_csv(index=False).splitlines(keepends=True)
    _, whole, _ = watched(model, lines)
    _, first, _ = watched(model, lines[:51], state=tmp_path / "state.json")
    _, second, _ = watched(model, [lines[0], *lines[51:]], state=tmp_path / "state.json")
    assert [record["anomaly_score"] for record in first + second] == [record["anomaly_score"] for record in whole]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_watch_as_the_end_of_its_input_does(model, tmp_path, number, code):
    lines, state = rows(60).to_csv(index=False).splitlines(keepends=True), tmp_path / "state.json"
    command = [sys.executable, "-c", "from anomaly_ae.cli import app; app()", "watch", model, "--state", state]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
    process.stdin.writelines(lines[:41])
    process.stdin.flush()
    first = [json.loads(process.stdout.readline()) for _ in range(40)]
    process.send_signal(number)  # it waits for the next row
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "watched   40 rows" in said
    assert "error" not in said
    _, second, _ = watched(model, [lines[0], *lines[41:]], state=state)
    assert first + second == watched(model, lines)[1]


def test_a_signal_ends_lines_between_two_of_them():
    """At once where there is nothing to finish: before the first, or where it comes again."""
    given = []

    def lines(at):
        for number in range(4):
            if number == at:
                signal.raise_signal(signal.SIGTERM)
            yield number

    with Ending(lines(2)) as some:
        given = list(some)
    assert (given, some.exit_code) == ([0, 1], 143)
    with Ending(lines(0)) as some, pytest.raises(typer.Exit):
        list(some)
    with Ending(lines(9)) as some:
        for line in some:
            signal.raise_signal(signal.SIGINT)
            given.append(line)
            with pytest.raises(typer.Exit):
                signal.raise_signal(signal.SIGINT)
    assert (given, some.exit_code) == ([0, 1, 0], 130)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_state_is_saved_by_and_by_and_where_an_event_opens_or_closes(model, tmp_path, monkeypatch, seconds):
    """What is killed at once goes on from there."""
    monkeypatch.setattr(watching, "SAVE_EVERY", seconds)
    monkeypatch.setattr(watching, "PATIENCE", 0.0)
    state, seen = tmp_path / "state.json", []

    def lines():
        for line in rows(120).to_csv(index=False).splitlines(keepends=True):
            yield line
            seen.append(json.loads(state.read_text())["note"]["rows"] if state.exists() else 0)

    _, records, _ = watched(model, lines(), state=state)
    after = seen[1:]  # each row
    if seconds:
        assert set(after) == {0, *(record["row"] for record in records if record["event"] in ("opens", "closes"))}
    else:
        assert after == list(range(1, 121))


def test_rows_that_cannot_all_be_taken_are_none(model):
    det = load(model)
    new = rows(30)
    one, two = det.stream(), det.stream()
    one.update(new[:10]), two.update(new[:10])
    with pytest.raises(DataError, match="order of time"):
        two.update(new.iloc[[10, 11, 3]])
    np.testing.assert_array_equal(one.update(new[10:]), two.update(new[10:]))


def test_a_row_may_be_a_mapping_or_a_series(model):
    new, streams = rows(20), [load(model).stream() for _ in range(3)]
    for at in range(20):
        row = new.iloc[at]
        frame, series, mapping = (
            one.update(X) for one, X in zip(streams, (new[at : at + 1], row, row.to_dict()), strict=True)
        )
        np.testing.assert_array_equal(frame, series)
        np.testing.assert_array_equal(frame, mapping)


def test_an_event_goes_on_where_a_watch_was_stopped_within_it(model, tmp_path):
    lines = rows(120).to_csv(index=False).splitlines(keepends=True)
    _, whole, told = watched(model, lines)
    opened = next(record["row"] for record in whole if record["event"] == "opens")
    cut, state = opened + 3, tmp_path / "state.json"
    _, first, before = watched(model, lines[: 1 + cut], state=state)
    _, second, after = watched(model, [lines[0], *lines[1 + cut :]], state=state)
    assert first + second == whole  # with the same numbers of rows, blame and events
    assert before + after == told


@given(
    levels=st.lists(st.sampled_from([0.1, 0.7, 0.7, 2.0, 2.0]), max_size=40),
    shortest=st.integers(1, 4),
    merge=st.integers(0, 5),
    hysteresis=st.sampled_from([0.5, 1.0]),
)
def test_events_that_unfold_row_by_row_are_those_of_all_rows(levels, shortest, merge, hysteresis):
    rule = Events(shortest=shortest, merge=merge, hysteresis=hysteresis)
    rule.level_, rule.closes_ = 1.0, hysteresis
    expected = [None] * len(levels)
    for first, last in rule.spans(np.array(levels)):
        opens = first + np.flatnonzero(np.array(levels[first:last]) > 1)[shortest - 1]
        for row in range(opens, min(len(levels), last + merge + 1)):  # until nothing can be merged with it any more
            expected[row] = "opens" if row == opens else "closes" if row == last + merge else "goes on"
    unfolding = Unfolding()
    assert [unfolding.add(rule, score) for score in levels] == expected


def test_two_bursts_make_the_event_of_a_watch_that_they_make_in_a_file(tmp_path):
    """Neither has the three strange rows that an event takes; what lies between is quiet, and not for long."""
    folder = tmp_path / "model"
    view = [View(Mahalanobis(), window=1)]
    det = SeriesDetector(views=view, reduce="last", event_rule=Events(merge=10), random_state=0).fit(plant(1200))
    X = plant(60, seed=1)
    for row in (20, 21, 26, 27):
        X[row] += 9
    (event,) = det.events(X).to_dict("records")
    assert (event["start"], event["end"]) == (20, 27)
    det.save(folder)
    lines = pd.DataFrame(X, columns=det.contract_.names).to_csv(index=False).splitlines(keepends=True)
    summary, records, _ = watched(folder, lines)
    assert summary.events == 1
    assert [record["row"] for record in records if record["event"] in ("opens", "closes")] == [27, 39]


def test_a_watch_says_of_an_event_what_a_table_says(tmp_path):
    """Since when, while it goes on; from when to when and how severe, in the end, also where it was stopped within."""
    view = [View(Mahalanobis(), window=1)]
    det = SeriesDetector(views=view, reduce="last", time="time", event_rule=Events(merge=10), random_state=0)
    det.fit(table(1200))
    new, state = table(200, seed=1), tmp_path / "state.json"
    new.loc[20:21, "sensor_2"] += 9
    new.loc[26:28, "sensor_2"] += 12
    new.loc[100:103, "sensor_2"] += 9  # until rows are missing
    new = new.drop(index=range(104, 110)).reset_index(drop=True)
    found, folder = det.events(new), det.save(tmp_path / "model")
    lines = new.to_csv(index=False).splitlines(keepends=True)
    records, sentences = [], []
    for first, last in ((0, 24), (24, 102), (102, len(new))):
        watch(folder, [lines[0], *lines[first + 1 : last + 1]], records.append, sentences.append, state=state)
    closed = pd.DataFrame([record for record in records if record["event"] == "closes"])
    assert closed["event_number"].tolist() == [1, 2]
    blamed = [next(iter(shares.items())) for shares in closed["blamed"]]  # of all rows, not of the one that closes it
    assert [name for name, _ in blamed] == found["channel_1"].tolist()
    np.testing.assert_allclose([share for _, share in blamed], found["channel_1_share"], atol=0.05)
    assert all(f"; {found['channel_1'][k // 2]} " in sentence for k, sentence in enumerate(sentences))
    assert closed[["start", "end"]].equals(found[["start", "end"]])
    np.testing.assert_allclose(closed["severity"], found["severity"])
    assert closed["reason"].tolist() == found["reason"].tolist()
    assert all(f"; {found['reason'][k // 2].partition(',')[0]}" in sentences[k] for k in (1, 3))
    for record in records:
        if record["event"]:
            assert record["since"] == found["start"][record["event_number"] - 1]
    start, end = found["start"], found["end"]
    assert f"event 1, since {start[0]}, is confirmed at row 27, {new['time'][26]}" in sentences[0]
    assert f"event 1 closes at row 40, {new['time'][39]}: {start[0]} to {end[0]}, severity" in sentences[1]
    assert f"event 2 closes before row 105, for rows are missing: {start[1]} to {end[1]}" in sentences[3]


def test_a_stream_says_of_a_row_what_stood_still_was_lost_or_never_seen():
    X = table(1200).assign(mode=np.resize(np.repeat(["idle", "run"], 30), 1200))
    det = SeriesDetector(views=QUICK, time="time", random_state=0).fit(X)
    new, stream = table(100, seed=1).assign(mode=np.resize(np.repeat(["idle", "run"], 30), 100)), det.stream()
    with pytest.raises(ConfigError, match="none has come yet"):
        stream.reason("mode")
    new.loc[60:, "sensor_0"], new.loc[70:, "sensor_1"], new.loc[99, "mode"] = 0.5, np.nan, "boost"
    for row in range(100):
        stream.update(new.iloc[[row]])
    assert stream.reason("sensor_0") == "sensor_0 0.5 for 40 rows"
    assert stream.reason("sensor_1") == "sensor_1 missing for 30 rows"
    assert stream.reason("mode") == "mode boost"
    held = f"{new['sensor_2'][99]:.4g}"[:4]
    assert re.fullmatch(rf"sensor_2 {held}\d*, (odd .+ \()?expected -?[\d.]+ to -?[\d.]+\)?", stream.reason("sensor_2"))


def test_one_process_goes_on_from_a_state(model, tmp_path):
    state = tmp_path / "state.json"
    with Draft(state), pytest.raises(OutputError, match="another process"):
        watch(model, table(40).to_csv(index=False).splitlines(keepends=True), lambda record: None, print, state=state)
    assert not state.exists()


@pytest.mark.parametrize("copies", [2, 3])
def test_a_row_that_comes_again_counts_once_towards_an_event(tmp_path, copies):
    """As in a file: two strange rows are none, however often they come."""
    det = SeriesDetector(
        views=[View(Mahalanobis(), window=1)], reduce="last", time="time", on_duplicate="first", random_state=0
    ).fit(table(1200))
    new = table(120, seed=1)
    new.loc[20:21, "sensor_2"] += 9
    new.loc[60:63, "sensor_2"] += 9
    twice = new.loc[np.sort([*range(120), *[20, 21, 60, 61] * (copies - 1)])]
    found = det.events(twice)
    assert found["rows"].tolist() == [4]
    summary, records, _ = watched(det.save(tmp_path / "model"), twice.to_csv(index=False).splitlines(True))
    assert summary.events == 1
    assert summary.alarms == det.assess(twice).is_anomaly.sum()
    opens = next(record for record in records if record["event"] == "opens")
    assert opens["time"] == new.loc[62, "time"]


@pytest.mark.parametrize("quiet", [0, 40])
def test_no_event_of_a_watch_reaches_over_a_gap(tmp_path, quiet):
    """As in a file; rows on its other side may be strange at once, or not at all."""
    view = [View(Mahalanobis(), window=1)]
    det = SeriesDetector(views=view, reduce="last", time="time", random_state=0).fit(table(1200))
    new = table(120, seed=1)
    new.loc[20:29, "sensor_2"] += 9
    new.loc[30 + quiet : 39, "sensor_2"] += 9
    new.loc[30:, "time"] = table(120, start="2026-01-02T00:00Z")["time"][30:]
    spans = det.events(new)
    assert len(spans) == (1 if quiet else 2)
    summary, records, sentences = watched(det.save(tmp_path / "model"), new.to_csv(index=False).splitlines(True))
    assert summary.events == len(spans)
    assert records[30]["event"] == "closes"
    assert any("closes before row 31" in sentence for sentence in sentences)
    assert [record["row"] for record in records if record["event"] == "opens"] == ([23] if quiet else [23, 33])


def test_a_file_that_grows_may_be_given_again(model, tmp_path):
    """Each day all rows so far: those of the days before are left out, damaged ones among them as well."""
    lines, state = rows(100).to_csv(index=False).splitlines(keepends=True), tmp_path / "state.json"
    _, whole, _ = watched(model, lines)
    job = ["watch", str(model), "--state", str(state)]
    days = []
    for last in (41, 41, 75, 101):
        done = CliRunner().invoke(app, job, input="".join(lines[:last]))
        assert done.exit_code == 0, done.output
        assert len(done.stderr.splitlines()) < 4
        days += [json.loads(line) for line in done.stdout.splitlines()]
    assert "26 rows" in done.stderr
    assert "74 rows already seen, for the state ends at " + whole[73]["time"] in done.stderr
    assert days == whole
    damaged = [*lines[:20], "one,two\n", lines[20].replace("Z,", "Z,oops", 1), lines[20].replace("2026", "yester")]
    done = CliRunner().invoke(app, job, input="".join([*damaged, *lines[20:]]))
    assert (done.exit_code, done.stdout) == (0, "")
    done = CliRunner().invoke(app, job, input="".join([*lines, "one,two\n"]))
    assert done.exit_code == 3
    assert "row 101: A row needs 5 fields" in done.stdout


@pytest.mark.filterwarnings("ignore:A stream needs a clock")
@pytest.mark.parametrize("late", ["2036-01-01", "2026-01-02"])
def test_a_wrong_stamp_in_a_file_that_grows_is_known_as_well(model, tmp_path, late):
    """A row that is right and far ahead is not."""
    new, state = rows(60), tmp_path / "state.json"
    new.loc[20, "time"] = f"{late}T12:00Z"
    new.loc[50:, "time"] = table(60, start="2026-01-04T00:00Z")["time"][50:]
    lines = new.to_csv(index=False).splitlines(keepends=True)
    for last, seen in ((40, 0), (50, 40), (51, 50), (60, 51)):
        summary, records, _ = watched(model, lines[: last + 1], state=state)
        assert (summary.seen, summary.rows, summary.bad_rows) == (seen, last - seen, 0)
        assert [record["row"] for record in records] == list(range(seen + 1, last + 1))


def test_what_a_state_knows_is_known_of_each_group(tmp_path):
    X = pd.concat([table(500).assign(pump="a"), table(500, seed=5).assign(pump="b")])
    det = SeriesDetector(views=QUICK, time="time", group="pump", random_state=0).fit(X)
    folder, state = det.save(tmp_path / "model"), tmp_path / "state.json"
    new = pd.concat([table(30, seed=6).assign(pump="a"), table(30, seed=7).assign(pump="b")])
    first = pd.concat([new[:20], new[30:35]]).to_csv(index=False).splitlines(keepends=True)
    watched(folder, first, state=state)
    summary, records, _ = watched(folder, new.to_csv(index=False).splitlines(keepends=True), state=state)
    assert (summary.seen, summary.rows, summary.bad_rows) == (25, 35, 0)
    assert [record["pump"] for record in records] == ["a"] * 10 + ["b"] * 25


def test_a_row_that_goes_back_in_time_is_named(model, tmp_path):
    lines = rows(60).to_csv(index=False).splitlines(keepends=True)
    watched(model, lines[:31], state=tmp_path / "state.json")
    summary, records, _ = watched(model, [lines[0], *lines[31:51], lines[40]], state=tmp_path / "state.json")
    assert (summary.rows, summary.bad_rows, summary.seen) == (21, 1, 0)
    assert records[-1]["error"].startswith("row 51: Rows need to be in order of time, however: this row is 10 steps")


def test_with_a_state_a_line_that_is_being_written_is_left_for_the_next_call(model, tmp_path):
    whole = rows(40).to_csv(index=False)
    job = ["watch", str(model), "--state", str(tmp_path / "state.json")]
    first = CliRunner().invoke(app, job, input=whole[: len(whole) - 5])
    second = CliRunner().invoke(app, job, input=whole)
    assert "the last line has no end yet and is left for the next call" in first.stderr
    told = [json.loads(line) for done in (first, second) for line in done.stdout.splitlines()]
    straight = [json.loads(line) for line in CliRunner().invoke(app, job[:2], input=whole).stdout.splitlines()]
    assert [row["row"] for row in told] == list(range(1, 41))
    assert [row["anomaly_score"] for row in told] == pytest.approx([row["anomaly_score"] for row in straight])


def test_dates_without_signs_between_their_parts_are_no_count(model, tmp_path):
    new = rows(40)
    new["time"] = pd.to_datetime(new["time"]).dt.strftime("%Y%m%d%H%M%S").astype(np.int64)
    with pytest.raises(DataError, match="need to be ISO 8601 or a count, as of seconds, however: 'time' has '20"):
        load(model).predict(new)


def test_a_watch_of_another_unit_says_so_in_the_end_as_well(model):
    new = rows(40)
    seconds = pd.to_datetime(new["time"]).map(lambda time: time.timestamp())
    for unit, gaps in ((1, 0), (1000, 39)):
        lines = new.assign(time=seconds * unit).to_csv(index=False)
        done = CliRunner().invoke(app, ["watch", str(model)], input=lines)
        assert done.exit_code == 0, done.output
        assert ("warning: A stream needs rows about as far apart" in done.stderr) == bool(gaps)
        assert ("39 began the series anew" in done.stderr) == bool(gaps)
        assert ("not as far apart as at fit" in done.stderr) == bool(gaps)
        assert sum("begins_anew" in json.loads(line) for line in done.stdout.splitlines()) == gaps


@pytest.mark.filterwarnings("ignore:A stream needs a clock")
def test_one_wrong_stamp_does_not_end_a_watch_nor_the_next_one(model, tmp_path):
    new, state = table(200, seed=1), tmp_path / "state.json"
    new.loc[99, "time"] = "2036-01-01T00:00Z"
    lines = new.to_csv(index=False).splitlines(True)
    for first, last in ((0, 100), (100, 150), (150, 200)):  # the first day ends with it
        summary, records, _ = watched(model, [lines[0], *lines[first + 1 : last + 1]], state=state)
        assert summary.bad_rows == 0
        assert len(records) == last - first


@pytest.mark.filterwarnings("ignore:A stream needs a clock")
def test_an_event_does_not_reach_from_a_wrong_clock_to_the_right_one(tmp_path):
    view = [View(Mahalanobis(), window=1)]
    det = SeriesDetector(views=view, reduce="last", time="time", random_state=0).fit(table(1200))
    new = table(60, seed=1)
    new.loc[20:30, "time"] = table(60, start="2036-01-01T00:00Z")["time"][20:31]
    new.loc[20:32, "sensor_2"] += 9
    _, records, sentences = watched(det.save(tmp_path / "model"), new.to_csv(index=False).splitlines(True))
    assert [record["event"] for record in records[22:32]] == ["opens", *["goes on"] * 8, "closes"]
    assert any("closes before row 32" in sentence for sentence in sentences)


def test_a_state_of_another_fit_of_the_same_columns_is_refused(model, tmp_path):
    lines = rows(20).to_csv(index=False).splitlines(keepends=True)
    watched(model, lines, state=tmp_path / "state.json")
    other = SeriesDetector(views=VIEWS, reduce="last", time="time", random_state=0).fit(table(1200, seed=5))
    with pytest.raises(DataError, match="of another"):
        watched(other.save(tmp_path / "other"), lines, state=tmp_path / "state.json")


FOREIGN = ["--delimiter", ";", "--decimal", ",", "--encoding", "latin-1", "--missing", "aus"]


@pytest.fixture
def abroad(tmp_path):
    """A model, and rows as they are written elsewhere: the same as CSV is written here, but for a gap."""
    X = table(400).rename(columns={"sensor_1": "dr\xfcck"})
    det = SeriesDetector(views=VIEWS, reduce="last", time="time", random_state=0).fit(X)
    det.save(tmp_path / "model")
    new = table(60, seed=1).rename(columns={"sensor_1": "dr\xfcck"})
    new.loc[7, "sensor_2"] = np.nan
    new.to_csv(tmp_path / "new.csv", index=False, sep=";", decimal=",", na_rep="aus", encoding="latin-1")
    return tmp_path, det.anomaly_score(new)


def test_a_watch_reads_what_is_written_otherwise(abroad):
    place, scores = abroad
    given = (place / "new.csv").read_bytes()
    done = CliRunner().invoke(app, ["watch", str(place / "model"), *FOREIGN], input=given)
    assert done.exit_code == 0, done.output
    told = [json.loads(line)["anomaly_score"] for line in done.stdout.splitlines()]
    assert np.allclose(told, scores, atol=1e-6)
    done = CliRunner().invoke(app, ["watch", str(place / "model"), "--delimiter", ";"], input=given)
    assert (done.exit_code, "dr\\udcffck" in done.stderr) == (2, True)  # no text in UTF-8


def test_a_row_that_is_no_text_is_told_of(model):
    lines = rows(5).to_csv(index=False).splitlines(keepends=True)
    damaged = "".join([*lines[:3], lines[3].replace("2026", "\xff026"), *lines[4:]]).encode("latin-1")
    done = CliRunner().invoke(app, ["watch", str(model)], input=damaged)
    assert done.exit_code == 3
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in record for record in records] == [False, False, True, False, False]
    assert "--encoding" in records[2]["error"]


def test_a_plot_reads_what_is_written_otherwise_and_says_how_far_it_is(abroad):
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    place, _ = abroad
    job = ["plot", str(place / "model"), str(place / "new.csv"), "--output", str(place / "picture.svg")]
    assert CliRunner().invoke(app, job).exit_code == 2
    done = CliRunner().invoke(app, [*job, *FOREIGN])
    assert done.exit_code == 0, done.output
    heard, dialect = [], Dialect(";", ",", "latin-1", ("aus",))
    plot(place / "model", place / "new.csv", place / "2.png", [], False, dialect, lambda *told: heard.append(told))
    assert [what for _, what in heard] == ["reading", "scoring", "drawing"]
    assert sorted(heard) == heard


def test_a_line_says_in_a_watch_what_it_says_in_a_file(tmp_path):
    """Times that are numbers, gaps in flags and measurements; lines that no parser takes cost a row, not the watch."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(plant(400)).add_prefix("x").assign(t=10 * np.arange(400), mode=rng.choice(["a", "b", None], 400))
    X.loc[rng.random(400) < 0.1, "x1"] = np.nan
    det = SeriesDetector(views=QUICK, reduce="last", time="t", random_state=0).fit(X[:300])
    folder, new = det.save(tmp_path / "model"), X[300:]
    lines = new.to_csv(index=False).splitlines(keepends=True)
    _, records, _ = watched(folder, lines)
    np.testing.assert_allclose([record["anomaly_score"] for record in records], det.anomaly_score(new), rtol=1e-6)
    broken = [lines[0], '"' + 200_000 * "x" + '",1,2,3\n', f"1,2,{'9' * 401},3000,a\n", lines[1]]
    summary, records, _ = watched(folder, broken)
    assert (summary.rows, summary.bad_rows) == (3, 2)
    number = {"x0": 10**400, "x1": 1, "x2": 1, "t": 5, "mode": "a"}
    assert watched(folder, [json.dumps(number) + "\n"])[0].bad_rows == 1


def test_a_header_that_lacks_a_column_is_refused(model):
    with pytest.raises(DataError, match="lacks"):
        watched(model, ["time,sensor_0\n", "2026-01-01T00:00Z,1\n"])
    with pytest.raises(DataError, match="Did you mean 'Time '"):
        watched(model, ["Time ,sensor_0\n", "2026-01-01T00:00Z,1\n"])
    with pytest.raises(DataError, match="has none"):
        watched(model, [])
