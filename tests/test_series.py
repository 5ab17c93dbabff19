"""Series: rows in order of time in, one score a row out, whatever stands between them."""

import re
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.signal import lfilter
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from anomaly_ae import (
    TCN,
    AutoencoderDetector,
    Conformal,
    Events,
    KLScore,
    Mahalanobis,
    Neighbours,
    Preprocessing,
    PrincipalComponents,
    PrincipalNeighbours,
    Quantile,
    ReconstructionError,
    SeriesDetector,
    StandardizedError,
    StandardNormal,
    VAEDetector,
    View,
    load,
)
from anomaly_ae.config import dumps, loads
from anomaly_ae.errors import AnomalyError, ConfigError, DataError
from anomaly_ae.ops import series
from anomaly_ae.series.tails import Tails
from anomaly_ae.series.timeline import Timeline, usual_step
from anomaly_ae.series.views import usual_views
from anomaly_ae.series.windows import automatic, by_thirds, dominant_period, ending, kinds_in_time, once

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "sample_data"))
QUICK = [View(Mahalanobis(), window=8, channels=1)]
CONTEXT = {  # what scikit-learn checks of rows that know nothing of each other
    "check_methods_sample_order_invariance": "a row's score depends on the rows before it",
    "check_methods_subset_invariance": "a row's score depends on the rows around it",
    "check_outliers_train": "alarms are stretches of rows; of stretches that were learned from none need be one",
    "check_outliers_fit_predict": "alarms are stretches of rows; of stretches that were learned from none need be one",
}


def plant(n=1200, seed=0, d=4):
    """Channels that follow two slow states, and noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    states = np.column_stack([np.sin(2 * np.pi * t / 40), np.sin(2 * np.pi * t / 97 + 1)])
    mix = np.random.default_rng(9).normal(size=(2, d))
    return states @ mix + 0.1 * rng.normal(size=(n, d))


def table(n=1200, seed=0, start="2026-01-01T00:00Z", freq="min"):
    X = pd.DataFrame(plant(n, seed), columns=[f"sensor_{j}" for j in range(4)])
    X.insert(0, "time", pd.date_range(start, periods=n, freq=freq).strftime("%Y-%m-%dT%H:%M:%SZ"))
    return X


@pytest.fixture(scope="module")
def fitted():
    return {
        reduce: SeriesDetector(views=QUICK, reduce=reduce, random_state=0).fit(plant()) for reduce in ("mean", "last")
    }


BOTH = pytest.mark.parametrize("reduce", ["mean", "last"])


@parametrize_with_checks([SeriesDetector()], expected_failed_checks=lambda estimator: CONTEXT)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# --- what is promised of scores ---------------------------------------------------------------------------------------


@BOTH
def test_signs_shapes_and_agreement(fitted, reduce):
    det, X = fitted[reduce], plant(300, seed=1)
    X[100:110, 2] += 3
    score = det.anomaly_score(X)
    verdict = det.assess(X)
    assert score.shape == (300,)
    assert (score == -det.score_samples(X)).all()
    assert ((det.predict(X) == -1) == (score > det.threshold_.value_)).all()
    assert (verdict.is_anomaly == (det.decision_function(X) < 0)).all()
    assert ((det.p_values(X) > 0) & (det.p_values(X) <= 1)).all()
    assert np.allclose(verdict.contributions.sum(axis=1), score)
    assert (verdict.contributions >= 0).all()
    assert verdict.contributions[100:110].argmax(axis=1).tolist() == [2] * 10
    assert score[100:110].min() > np.quantile(score[:90], 0.99)


def test_rows_at_uneven_steps_are_warned_of_and_a_few_gaps_are_not():
    rng, X = (
        np.random.default_rng(0),
        pd.DataFrame(np.random.default_rng(1).normal(size=(1500, 3)), columns=list("abc")),
    )
    uneven, even = rng.exponential(60, 1500), np.where(rng.random(1500) < 0.01, 600, 60)
    with pytest.warns(UserWarning, match=r"needs rows at about even steps, however: \d+% of them come more than 3.5"):
        SeriesDetector(time="t", random_state=0).fit(X.assign(t=uneven.cumsum()))
    with warnings.catch_warnings(record=True) as told:
        SeriesDetector(time="t", random_state=0).fit(X.assign(t=even.cumsum()))
        SeriesDetector(time="t", on_gap="fill", random_state=0).fit(X.assign(t=uneven.cumsum()))
    assert not [one for one in told if "even steps" in str(one.message)]


def test_a_net_in_closed_form_learns_from_all_of_a_long_series():
    rng, t = np.random.default_rng(0), np.arange(18_000)
    x = np.where(t < 9000, np.sin(t / 5), np.sign(np.sin(t / 9))) + 0.05 * rng.normal(size=len(t))
    net = AutoencoderDetector(effort="fast")
    det = SeriesDetector(net, window=8, views=[View(StandardizedError())], random_state=0).fit(x[:, None])
    score = det.anomaly_score(x[:, None])
    assert 0.2 < score[100:8900].mean() / score[9100:].mean() < 5


def test_last_knows_nothing_of_what_comes_and_mean_does(fitted):
    X = plant(200, seed=1)
    later = X.copy()
    later[120:] += 5
    assert (fitted["last"].anomaly_score(X)[:120] == fitted["last"].anomaly_score(later)[:120]).all()
    before = fitted["mean"].anomaly_score(later)[113:120] > fitted["mean"].anomaly_score(X)[113:120]
    assert before.all()
    assert np.allclose(fitted["mean"].anomaly_score(X)[:113], fitted["mean"].anomaly_score(later)[:113])


@BOTH
def test_the_mean_and_the_last_are_those_of_the_windows(fitted, reduce):
    """Against a loop over windows, by what the one view says of each."""
    det, X = fitted[reduce], plant(60, seed=2)
    fold = det.fold_
    raw = fold.raw(X, reduce).views[0].columns
    encoded, _ = fold.channels.encode(X)
    eye = fold.eyes[0]
    each = np.array(
        [fold._judge(eye, fold._over(encoded, eye, np.array([start])), True).columns[0] for start in range(60 - 7)]
    )
    if reduce == "last":
        assert np.allclose(raw[7:], each)
    else:
        rows = [each[max(0, row - 7) : min(row, 52) + 1].mean(axis=0) for row in range(60)]
        assert np.allclose(raw, rows)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
@BOTH
def test_a_series_shorter_than_the_window_has_scores(fitted, reduce, n):
    usual = np.quantile(fitted[reduce].calibration_scores_, 0.9)
    score = fitted[reduce].anomaly_score(plant(300, seed=3)[:n])
    assert score.shape == (n,)
    assert np.isfinite(score).all()
    assert score.max() < 20 * usual


def test_where_a_series_begins_windows_are_its_mirror_image():
    assert ending(0, 3, 4).tolist() == [[0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 1, 2]]
    for seen in range(1, 12):
        for length in range(1, 9):
            padded = np.pad(np.arange(seen), (max(0, length - seen), 0), mode="symmetric")[-length:]
            assert (ending(seen - 1, 1, length)[0] == padded).all()


@BOTH
def test_no_window_reaches_over_a_gap(reduce):
    """What comes before the gap changes nothing after it, and the other way round."""
    X = table(1200)
    det = SeriesDetector(views=QUICK, reduce=reduce, time="time", random_state=0).fit(X)
    new = table(200, seed=1)
    new["time"] = [*new["time"][:100], *table(100, start="2026-01-01T09:00Z")["time"]]
    changed = new.copy()
    changed.iloc[:100, 1:] += 7
    assert (det.anomaly_score(new)[100:] == det.anomaly_score(changed)[100:]).all()
    assert (det.anomaly_score(new)[:100] != det.anomaly_score(changed)[:100]).all()
    alone = det.anomaly_score(new.iloc[100:])
    assert (det.anomaly_score(new)[100:] == alone).all()
    assert (det.anomaly_score(new[100:].reset_index(drop=True)) == alone).all()


@pytest.mark.slow
@BOTH
def test_where_series_begin_normal_rows_alarm_no_more_often_and_strange_ones_do(reduce):
    t, rng = np.arange(4000)[:, None], np.random.default_rng(0)
    X = np.sin(2 * np.pi * t / [50, 50, 40] + np.arange(3)) + rng.normal(0, 0.05, (4000, 3))
    det = SeriesDetector(reduce=reduce, random_state=0).fit(X[:2000])
    for length in (1, 5, 20, 60):
        pieces = [X[first : first + length].copy() for first in range(2000, 3900, 80)]
        assert np.mean([(det.predict(piece) == -1).mean() for piece in pieces]) < 3 * 0.05
        for piece in pieces:
            piece[-1, 0] += 4
        assert all((det.predict(piece) == -1).any() for piece in pieces)


def test_a_column_that_looks_like_the_times_is_asked_after_and_makes_no_alarms():
    rows, later = table(400), table(300, seed=1)
    later["time"] = pd.to_datetime(later["time"]) + pd.Timedelta(days=300)
    rows["time"] = pd.to_datetime(rows["time"])
    with pytest.warns(UserWarning, match=r"'time' rises from row to row, and time is None\. Set time='time'"):
        det = SeriesDetector(views=QUICK, random_state=0).fit(rows)
    assert (det.predict(later) == -1).mean() < 0.3


@pytest.mark.parametrize("period", [13, 47])
def test_until_the_first_window_is_full_waves_alarm_no_more_often(period):
    def waves(n, seed):
        rng = np.random.default_rng(seed)
        turns = (np.arange(n) + rng.integers(0, 10_000)) / period
        return np.sin(2 * np.pi * turns[:, None] + np.arange(3)) + rng.normal(0, 0.15, (n, 3))

    det = SeriesDetector(views=[View(PrincipalComponents(), window=100)], reduce="last", random_state=0)
    det.fit(waves(2000, 0))
    alarms = np.mean([det.predict(waves(100, 100 + seed)) == -1 for seed in range(40)], axis=0)
    assert alarms.reshape(10, 10).mean(axis=1).max() < 0.1


@pytest.mark.parametrize("lengths", [[4], [1, 1, 2], [1] * 40, [2] * 30], ids=str)
def test_few_rows_and_groups_of_one_row_can_be_learned_from(lengths):
    X = np.random.default_rng(0).normal(size=(sum(lengths), 2))
    rows = pd.DataFrame(X, columns=["a", "b"]).assign(unit=np.repeat(np.arange(len(lengths)), lengths))
    scores = SeriesDetector(group="unit", random_state=0).fit(rows).anomaly_score(rows)
    assert scores.shape == (len(X),)
    assert np.isfinite(scores).all()


def test_long_windows_of_many_channels_can_be_learned():
    t, rng = np.arange(3000)[:, None], np.random.default_rng(0)
    X = np.sin(2 * np.pi * t / 200 + np.arange(8)) + rng.normal(0, 0.1, (3000, 8))
    det = SeriesDetector(random_state=0).fit(X)  # whose matrices MKL's LU on two threads failed to invert
    assert det.window_ == 200
    assert np.isfinite(det.explain(X[:400])).all()


def test_fewer_rows_than_there_are_kinds_of_them_are_refused():
    with pytest.raises(DataError, match="SeriesDetector needs 4 rows or more, however: 3"):
        SeriesDetector().fit(pd.DataFrame({"a": [1.0, 2.0, 3.0]}))


@BOTH
def test_no_window_reaches_over_a_group_and_rows_may_lie_in_any_order_of_groups(reduce):
    X = pd.concat([table(600).assign(pump="a"), table(600, seed=5).assign(pump="b")])
    det = SeriesDetector(views=QUICK, reduce=reduce, time="time", group="pump", random_state=0).fit(X)
    a, b = table(80, seed=6).assign(pump="a"), table(80, seed=7).assign(pump="b")
    together = pd.concat([a, b]).sort_values("time", kind="stable").reset_index(drop=True)
    score = det.anomaly_score(together)
    assert (score[(together.pump == "a").to_numpy()] == det.anomaly_score(a)).all()
    assert (score[(together.pump == "b").to_numpy()] == det.anomaly_score(b)).all()


@pytest.mark.parametrize("validate", [True, False])
def test_kinds_of_rows_are_blocks_in_time_and_fit_rows_keep_their_distance(validate):
    bounds = np.array([[0, 1200], [1200, 3000]])
    turns, last = by_thirds(validate)
    for pattern in (once(3000), *turns, last):
        kinds = kinds_in_time(bounds, pattern)
        rows = [np.concatenate([np.arange(*run) for run in runs] + [np.empty(0)]) for runs in kinds]
        assert sorted(np.concatenate(rows).tolist()) == list(range(3000))
        assert np.allclose([len(some) / 3000 for some in rows], [pattern.count(k) / len(pattern) for k in "fvc"])
        assert all(not (first < 1200 < last) for runs in kinds for first, last in runs)
        spaced = kinds.spaced(bounds, 60)
        assert all((one == other).all() for one, other in zip(kinds[1:], spaced[1:], strict=True))
        learned = np.concatenate([np.arange(*run) for run in spaced.fit])
        assert len(rows[0]) - 15 * 2 * len(spaced.fit) <= len(learned) <= len(rows[0])
        for begin, end in bounds:  # each series by itself
            mine, held_out = (some[(begin <= some) & (some < end)] for some in (learned, np.concatenate(rows[1:])))
            if len(held_out):
                assert np.abs(mine[:, None] - held_out[None]).min() > 15
        assert (kinds.spaced(bounds, 1000).fit == kinds.fit).all()  # too few rows to keep so far away
    assert [once(3000).count(kind) / len(once(3000)) for kind in "fvc"] == [0.6, 0.2, 0.2]
    assert [last.count(kind) / len(last) for kind in "fvc"] == ([5 / 6, 1 / 6, 0] if validate else [1, 0, 0])
    runs = [run for pattern in turns for run in kinds_in_time(bounds, pattern).calibrate]
    assert sorted(np.concatenate([np.arange(*run) for run in runs]).tolist()) == list(range(3000))


@pytest.mark.parametrize(
    ("scorer", "learns"),
    [
        (PrincipalComponents(inside=False), True),
        (PrincipalNeighbours(), True),
        (Mahalanobis(ridge=0.1), True),
        (Mahalanobis(), False),
    ],
)
def test_views_that_need_no_validation_learn_from_all_rows(scorer, learns):
    X = plant(1200)
    other = X.copy()
    other[700:720, 1] += 4  # rows that would validate
    one, two = (
        SeriesDetector(views=[View(scorer)], window=16, random_state=0).fit(rows).fold_.eyes[0].scorer
        for rows in (X, other)
    )
    assert scorer.needs_validate != learns
    assert (not torch.equal(one.mean, two.mean)) == learns


def test_long_series_are_learned_as_densely_at_each_turn_as_at_last():
    """Else what was held out looks more normal than what is new, and alarms come too often."""
    rng, mix = np.random.default_rng(1), np.random.default_rng(9).normal(size=(4, 4))
    X = lfilter([1], [1, -0.95], rng.normal(size=(10_500, 4)), axis=0)[500:] @ mix
    det = SeriesDetector(views=[View(PrincipalComponents(inside=False)), View(PrincipalNeighbours())], random_state=0)
    p = det.fit(X[:4000]).assess(X[4000:]).p_value
    assert (p <= 0.05).mean() <= 0.05
    assert (p <= 0.01).mean() <= 0.01


def test_relations_are_looked_at_where_several_channels_are_measured():
    X = plant(600)
    alone = np.column_stack([X[:, 0], np.arange(600) // 30 % 2, np.zeros(600)])  # a flag, a constant
    for rows, related, cells in ((X, True, 4), (X[:, :1], False, 1), (alone, False, 2)):
        det = SeriesDetector(random_state=0).fit(rows)
        assert any(isinstance(view.scorer, Mahalanobis) and view.of != "all" for view in det.views_) == related
        assert repr(det.views_) == repr(usual_views(*((4, 4) if related else (1, cells)), 600))


@pytest.mark.parametrize(("rows", "sees"), [(559, False), (560, True)])
def test_flags_are_looked_at_where_rows_are_enough_for_their_relations(rows, sees):
    """Ten for each cell of 8 rows of a number, a flag, and a word's three levels and two: a constant has none."""
    X = pd.DataFrame({"x": plant(rows)[:, 0], "up": np.arange(rows) // 40 % 2, "trip": 0, "made": "in series"})
    X["mode"] = np.array(["idle", "run", "stop"])[np.arange(rows) // 20 % 3]
    X["door"] = np.where(np.arange(rows) % 80 < 5, "open", "shut")
    det = SeriesDetector(random_state=0).fit(X)
    assert sum(view.of == "all" for view in det.views_) == 2 * sees


def test_the_window_is_the_period_where_one_shows():
    t = np.arange(3000)
    rng = np.random.default_rng(0)
    wave = np.sin(2 * np.pi * t / 150)[:, None] + 0.3 * rng.normal(size=(3000, 2))
    whole = np.array([[0, 3000]])
    assert abs(dominant_period(wave, whole, 250) - 150) <= 2
    assert dominant_period(rng.normal(size=(3000, 2)), whole, 250) is None
    assert abs(automatic(wave, whole, 3000) - 150) <= 2
    for unit in (1e-200, 1e200):  # whatever the units, and beside a constant
        other = np.column_stack([unit * wave, np.full(3000, 0.1)])
        assert automatic(other, whole, 3000) == automatic(wave, whole, 3000)
    assert automatic(rng.normal(size=(3000, 2)), whole, 3000) == 128
    assert automatic(rng.normal(size=(400, 2)), np.array([[0, 400]]), 400) == 50


# --- times ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [60, 1 / 60, 1e9])
def test_times_in_another_unit_are_told_of(unit):
    det = SeriesDetector(views=QUICK, time="time", random_state=0).fit(table(600))
    new = table(100, seed=1).assign(time=unit * 60 * np.arange(100))
    with pytest.warns(UserWarning, match=re.escape(f"{unit:.4g} times as far")):
        det.anomaly_score(new)


def test_events_are_of_the_same_types_where_there_are_none():
    det = SeriesDetector(views=QUICK, random_state=0).fit(plant())
    odd = plant(200, seed=1)
    odd[100:120] += 9
    some, none = det.events(odd), det.events(plant(20, seed=1))
    assert len(some) > len(none) == 0
    told = ["rows", "severity", "channel_1_share"]
    assert (some[told].dtypes == none[told].dtypes).all()


def test_what_is_set_after_a_fit_is_not_what_was_fitted(tmp_path):
    rows = table(600)
    det = SeriesDetector(views=QUICK, time="time", reduce="last", smoothing=2, random_state=0).fit(rows)
    before = det.anomaly_score(rows)
    back = load(det.set_params(smoothing=9).save(tmp_path / "model"))
    for one in (det, back):
        np.testing.assert_array_equal(one.anomaly_score(rows), before)
    det.set_params(reduce="mean")
    for method in (det.predict, det.recalibrate):
        with pytest.raises(ConfigError, match='reduce is "mean" now'):
            method(rows)


MISPLACED = {  # where times are that are no column of the name, and what to do
    "an index of the name": (lambda X: X.set_index("time"), r"The index is named so: give X.reset_index\(\)\."),
    "dates of the name": (
        lambda X: X.assign(time=pd.to_datetime(X["time"])).set_index("time"),
        r"The index is named so: give X.reset_index\(\)\.",
    ),
    "dates without a name": (
        lambda X: X.set_index(pd.DatetimeIndex(X.pop("time")).rename(None)),
        r"The index has dates: leave time out, or give X.reset_index\(names='time'\)\.",
    ),
    "another case": (lambda X: X.rename(columns={"time": "Time"}), r"Did you mean 'Time'\?"),
    "nowhere": (lambda X: X.drop(columns="time"), r"is not there\. Give a table that has them\."),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_times_that_are_in_the_index_are_asked_for_as_a_column(case):
    move, said = MISPLACED[case]
    detector, X = SeriesDetector(views=QUICK, time="time", random_state=0), move(table(100))
    with pytest.raises(DataError, match=said):
        detector.fit(X)
    if "X.reset_index" in said:
        names = {"names": "time"} if "names" in said else {}
        assert detector.fit(X.reset_index(**names)).step_ == 60


def test_times_of_all_kinds_say_the_same():
    X, new = table(800), table(100, seed=1)
    scores = []
    for make in (
        lambda X: X,
        lambda X: X.assign(time=pd.to_datetime(X.time)),
        lambda X: X.assign(time=pd.to_datetime(X.time).dt.tz_convert("Europe/Berlin")),
        lambda X: X.assign(time=np.arange(len(X)) * 60.0),
        lambda X: X.assign(time=pd.to_timedelta(np.arange(len(X)), unit="min")),
    ):
        det = SeriesDetector(views=QUICK, time="time", random_state=0).fit(make(X))
        assert det.step_ == 60
        scores.append(det.anomaly_score(make(new)))
    indexed = SeriesDetector(views=QUICK, random_state=0).fit(X.set_index(pd.to_datetime(X.time)).drop(columns="time"))
    scores.append(indexed.anomaly_score(new.set_index(pd.to_datetime(new.time)).drop(columns="time")))
    scores.append(SeriesDetector(views=QUICK, random_state=0).fit(X.iloc[:, 1:]).anomaly_score(new.iloc[:, 1:]))
    for score in scores[1:]:
        assert (score == scores[0]).all()


def test_clocks_that_are_set_back_are_told_of_and_offsets_help():
    local = pd.date_range("2026-10-25T00:00", periods=300, freq="min", tz="UTC").tz_convert("Europe/Berlin")
    det = SeriesDetector(views=QUICK, time="time", random_state=0).fit(table(800))
    new = table(300, seed=1)
    with pytest.raises(DataError, match=r"row 61 is earlier .* times in UTC or with their offset"):
        det.predict(new.assign(time=local.tz_localize(None)))
    assert len(det.predict(new.assign(time=local))) == 300
    assert len(det.predict(new.assign(time=[moment.isoformat() for moment in local]))) == 300


def test_gaps_split_fill_or_refuse():
    X = table(800)
    new = table(100, seed=1).drop(index=range(50, 56)).reset_index(drop=True)
    split, fill, error = (
        SeriesDetector(views=QUICK, time="time", on_gap=on_gap, random_state=0).fit(X)
        for on_gap in ("split", "fill", "error")
    )
    assert len(split.anomaly_score(new)) == len(fill.anomaly_score(new)) == 94
    assert (split.anomaly_score(new)[50:] == split.anomaly_score(new[50:].reset_index(drop=True))).all()
    gone = table(100, seed=1)
    gone.iloc[50:56, 1:] = np.nan
    assert np.allclose(fill.anomaly_score(new), split.anomaly_score(gone)[[*range(50), *range(56, 100)]])
    with pytest.raises(DataError, match=r"row 51 are 7 steps .* on_gap"):
        error.predict(new)
    jittered = table(100, seed=1).drop(index=[50]).reset_index(drop=True)  # one row is missing: no gap
    assert len(error.predict(jittered)) == 99


def test_duplicates_are_refused_or_one_is_kept():
    X, new = table(800), table(100, seed=1)
    twice = new.loc[[*range(50), 49, *range(50, 100)]].reset_index(drop=True)
    twice.iloc[50, 1:] += 9
    score = {}
    for which in ("first", "last", "keep"):
        det = SeriesDetector(views=QUICK, time="time", on_duplicate=which, random_state=0).fit(X)
        score[which] = det.anomaly_score(twice)
        assert len(score[which]) == 101
    assert (np.delete(score["first"], 50) == det.anomaly_score(new)).all()
    assert score["first"][49] == score["first"][50]
    assert score["last"][49] == score["last"][50] > score["first"][49]
    with pytest.raises(DataError, match=r"row 51 has the time of the one before \(1 such rows\)"):
        clone(det).set_params(on_duplicate="error").fit(X).predict(twice)


def test_the_usual_step_is_that_within_groups():
    times, groups = np.array([0.0, 0, 1, 1, 2, 2, 9]), np.array(list("abababa"))
    assert usual_step(times, groups) == 1
    line = Timeline.lay(7, times, groups, 1.0)
    assert line.source.tolist() == [0, 2, 4, 6, 1, 3, 5]
    assert line.bounds.tolist() == [[0, 3], [3, 4], [4, 7]]
    assert (line.source[line.place] == np.arange(7)).all()


# --- channels -------------------------------------------------------------------------------------------------------


def test_flags_do_not_drown_what_is_measured():
    rng = np.random.default_rng(0)
    X = plant()
    flags = (rng.random((1200, 20)) < 0.5).astype(float)
    plain = SeriesDetector(views=QUICK, random_state=0).fit(X)
    flagged = SeriesDetector(views=QUICK, random_state=0).fit(np.column_stack([X, flags]))
    new = plant(200, seed=1)
    some = np.column_stack([new, rng.random((200, 20)) < 0.5])
    assert np.allclose(plain.anomaly_score(new), flagged.anomaly_score(some))
    only = SeriesDetector(views=[View(Neighbours(k=1, exact=1))], window=4, random_state=0).fit(flags)
    assert len(np.unique(only.anomaly_score(some[:, 4:]))) > 10  # all are flags: then they are looked at


@pytest.mark.parametrize(
    "kind", [pytest.param(float, marks=pytest.mark.slow), pytest.param(bool, marks=pytest.mark.slow), "text"]
)
def test_a_flag_that_does_not_go_with_the_rest_is_strange_and_blamed(kind):
    def table(X, wrong=slice(0)):
        on = X[:, 0] > 0.3
        on[wrong] = ~on[wrong]
        made = np.where(on, "on", "off") if kind == "text" else on.astype(kind)
        return pd.DataFrame(X).add_prefix("x").assign(pump=made)

    wrong, new = slice(200, 260), plant(400, seed=1)
    views = [View(Mahalanobis(ridge=1e-3), window=8, channels=1)]
    blind = SeriesDetector(views=views, random_state=0).fit(table(plant(3000)))
    assert (blind.anomaly_score(table(new, wrong)) == blind.anomaly_score(table(new))).all()
    det = SeriesDetector(random_state=0).fit(table(plant(3000)))
    told = det.assess(table(new, wrong))
    strange = told.anomaly_score > det.events_.level_
    assert strange[wrong].mean() > 0.3  # not where it is about to change anyway
    assert (told.contributions[wrong][strange[wrong]].argmax(axis=1) == det.contract_.names.index("pump")).mean() > 0.8
    assert det.events(table(new, wrong))["channel_1"].tolist() == ["pump"]


@pytest.mark.parametrize("kind", [float, pytest.param("text", marks=pytest.mark.slow)])
@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_what_a_flag_held_a_few_times_is_no_event(kind, times):
    """No row held out says what is usual of it."""

    def table(X, *begins):
        up = np.isin(np.arange(len(X)), np.add.outer(begins, np.arange(15)))
        busy = np.arange(len(X)) // 50 % 2
        lamp = np.where(up, "on", "off") if kind == "text" else up.astype(kind)
        return pd.DataFrame(X).add_prefix("x").assign(lamp=lamp, busy=busy)

    X = table(plant(6000), *np.linspace(1500, 4500, times).astype(int))
    det = SeriesDetector(random_state=0).fit(X)
    assert [det.contract_.names[j] for j in det.fold_.unseen] == ["lamp"]
    assert sum(view.of == "all" for view in det.views_) == 2
    assert not len(det.events(table(plant(900, seed=1), 200, 450, 700)))


@pytest.mark.parametrize(("flag", "other"), [("trip", 1), ("run", 7), ("valve", "stuck"), ("run", None)])
def test_what_a_flag_never_held_is_charged_to_it(flag, other):
    def flagged(X):
        turn = np.arange(len(X)) // 100 % 2
        return pd.DataFrame(X).add_prefix("x").assign(trip=0, run=turn, valve=np.where(turn, "open", "closed"))

    det = SeriesDetector(views=QUICK, random_state=0).fit(flagged(plant()))
    new = flagged(plant(300, seed=1))
    odd = new.assign(**{flag: new[flag].astype(object)})
    odd.loc[100:149, flag] = other
    one, two = det.assess(new), det.assess(odd if isinstance(other, str) else odd.astype({flag: float}))
    at = det.contract_.names.index(flag)
    lasted = np.arange(1, 51)
    beyond = (lasted > 1) & (other is None)  # no gap lasted for two rows
    most = det.fold_.channels.most(lasted, beyond)  # the longer, the more, up to a window
    assert most[0] < most[7] == most[-1]
    np.testing.assert_allclose(two.anomaly_score[100:150] - one.anomaly_score[100:150], most)
    np.testing.assert_allclose(two.contributions[100:150, at], most)
    rest = np.r_[0:100, 150:300]
    np.testing.assert_array_equal(two.anomaly_score[rest], one.anomaly_score[rest])


def test_a_sensor_that_stands_still_is_strange_and_blamed():
    det = SeriesDetector(views=QUICK, reduce="last", random_state=0).fit(plant())
    new = plant(300, seed=1)
    new[100:160, 3] = new[100, 3]
    verdict = det.assess(new)
    assert verdict.is_anomaly[115:160].all()
    assert (verdict.contributions[120:160].argmax(axis=1) == 3).all()


@pytest.mark.parametrize(
    ("gaps_at_fit", "channels"), [(False, 1), pytest.param(True, 4, marks=pytest.mark.slow), (False, 4)]
)
def test_a_sensor_that_is_lost_for_long_makes_an_event_and_is_blamed(gaps_at_fit, channels):
    X = plant(2000)[:, :channels]
    if gaps_at_fit:
        for first in range(0, 2000, 150):
            X[first : first + 4, 0] = np.nan
    det = SeriesDetector(random_state=0).fit(X)
    new = plant(1200, seed=1)[:, :channels]
    assert not det.events(new)["start"].between(300, 1000).any()
    new[500:900, 0] = np.nan
    events = det.events(new)
    (event,) = events[events["start"].between(300, 1000)].to_dict("records")
    assert 495 <= event["start"] <= 600
    assert 895 <= event["end"] <= 1000
    assert event["channel_1"] == "x0"
    channels = det.fold_.channels
    surprise = channels.encode(new)[0].surprise
    assert surprise.max() == pytest.approx(3 * np.log(channels.encoding.state["rows"][0] + 1))  # and no more and more


def test_of_gaps_that_are_ignored_a_long_one_costs_nothing_either():
    X, new = plant(), plant(300, seed=1)
    X[::50, 0] = np.nan
    new[100:250, 0] = np.nan
    for missing, costs in (("ignore", False), ("score", True)):
        net = AutoencoderDetector(preprocessing=Preprocessing(missing=missing))
        det = SeriesDetector(net, views=QUICK, random_state=0).fit(X)
        assert (det.fold_.channels.encode(new)[0].surprise[100:250, 0] > 0).any() == costs


@pytest.mark.parametrize(("period", "noise", "rows"), [(50, 0.001, 5000), (50, 0.01, 8000), (36, 0.002, 6000)])
def test_cycles_nearly_without_noise_raise_few_alarms(period, noise, rows):
    """Windows that are learned from must show all parts of a cycle, whatever number of them is taken."""
    turn = np.arange(rows + 2000) % period / period
    shape = turn if noise < 0.01 else np.where(turn < 0.3, turn / 0.3, np.where(turn < 0.8, 1, 0.3))
    X = shape[:, None] + np.random.default_rng(2).normal(0, noise, (len(turn), 1))
    det = SeriesDetector(random_state=0).fit(X[:rows])
    told = det.assess(X[rows:])
    assert told.is_anomaly.mean() < 0.1
    assert len(det.events(X[rows:])) <= 1


def test_a_constant_channel_that_changes_is_strange():
    X = np.column_stack([plant(), np.full(1200, 3.0)])
    det = SeriesDetector(views=QUICK, random_state=0).fit(X)
    new = X[:200].copy()
    new[100:, 4] = 3.5
    assert (det.predict(new)[100:] == -1).all()
    assert (det.explain(new)[100:].argmax(axis=1) == 4).all()


def test_missing_values_are_told_by_the_mask_and_cost_little():
    X = plant()
    X[np.random.default_rng(0).random(X.shape) < 0.05] = np.nan
    det = SeriesDetector(random_state=0).fit(X)
    new = plant(300, seed=1)
    holes = new.copy()
    holes[np.random.default_rng(1).random(new.shape) < 0.05] = np.nan
    assert np.isfinite(det.anomaly_score(holes)).all()
    assert (det.predict(holes) == -1).mean() < (det.predict(new) == -1).mean() + 0.1
    stretch = new.copy()
    stretch[100:200] = np.nan
    assert np.isfinite(det.anomaly_score(stretch)).all()


@pytest.mark.parametrize("d", [1, pytest.param(500, marks=pytest.mark.slow)])
def test_one_channel_and_five_hundred(d):
    rng = np.random.default_rng(0)
    X = np.sin(np.arange(600) / 7)[:, None] * rng.normal(size=d) + 0.1 * rng.normal(size=(600, d))
    det = SeriesDetector(random_state=0).fit(X[:500])
    score = det.anomaly_score(np.vstack([X[500:], X[500:] + 3]))
    assert score[130:].min() > score[:90].max()


def test_units_that_change_by_a_thousand_are_pointed_out():
    det = SeriesDetector(views=QUICK, time="time", random_state=0).fit(table(1200))
    new = table(200, seed=1)
    new["sensor_2"] *= 1000
    event = det.events(new).iloc[0]
    assert event.channel_1 == "sensor_2"
    assert event.rows == 200


def test_a_table_of_all_kinds_of_columns():
    X = table(900)
    X["state"] = np.where(np.arange(900) % 100 < 50, "run", "idle")
    X["ready"] = True
    det = SeriesDetector(time="time", random_state=0).fit(X)
    new = X[:100].copy()
    new.loc[50:60, "sensor_1"] += 9
    assert det.explain(new)[55].argmax() == 1
    assert det.expected(new).shape == (100, 6)


# --- compositions ---------------------------------------------------------------------------------------------------

TRAINED = {"max_epochs": 2, "steps_per_epoch": 10}


@pytest.mark.parametrize(
    "inner",
    [
        AutoencoderDetector(**TRAINED),
        AutoencoderDetector(backbone=TCN(), **TRAINED),
        VAEDetector(backbone=TCN(), **TRAINED),
        VAEDetector(scorer=ReconstructionError() + 0.1 * KLScore(), **TRAINED),
        AutoencoderDetector(effort="fast", calibration="cross", **TRAINED),
    ],
    ids=["dense", "tcn", "vae", "sum", "cross"],
)
def test_the_parts_of_both_detectors_work_on_windows(inner, tmp_path):
    det = SeriesDetector(inner, window=16, random_state=0).fit(plant(600))
    assert len(det.views_) == len(usual_views(4, 4, 600)) + 1
    new = plant(200, seed=1)
    new[100:120, 1] += 4
    score = det.anomaly_score(new)
    assert score[100:120].min() > np.quantile(score[:80], 0.9)
    assert len(det.history_) >= 2
    det.save(tmp_path / "model")
    assert (load(tmp_path / "model").anomaly_score(new) == score).all()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("window", 4), ("stride", 5), ("reduce", "last"), ("smoothing", 5)],
)
def test_every_parameter_moves_the_score(parameter, value):
    views = [View(Mahalanobis()), View(Neighbours(k=1, exact=1, sample=50))]
    usual = SeriesDetector(views=views, window=16, random_state=0)
    new = plant(200, seed=1)
    other = clone(usual).set_params(**{parameter: value})
    assert not np.allclose(usual.fit(plant()).anomaly_score(new), other.fit(plant()).anomaly_score(new))


def test_the_threshold_is_a_parameter_of_its_own_and_defaults_are_reached_into():
    det = SeriesDetector(views=QUICK, random_state=0)
    det.set_params(threshold__alpha=0.2, event_rule__shortest=7)
    assert det.detector is None  # no net for the sake of a threshold
    assert (det.threshold.alpha, det.event_rule.shortest) == (0.2, 7)
    det.fit(plant())
    assert np.mean(det.calibration_scores_ > det.threshold_.value_) == pytest.approx(0.2, abs=0.01)
    quantile = clone(det).set_params(threshold=Quantile(0.5)).fit(plant())
    assert quantile.threshold_.value_ < det.threshold_.value_
    assert SeriesDetector(detector=AutoencoderDetector(threshold=Quantile(0.5))).parts()["threshold"].level == 0.5


def test_a_view_may_look_at_a_share_of_the_window():
    X = plant(600)
    share, rows = (
        SeriesDetector(views=[View(Mahalanobis(), window=window)], window=24, random_state=0).fit(X)
        for window in (0.5, 12)
    )
    assert share.fold_.length == 12
    np.testing.assert_array_equal(share.anomaly_score(X), rows.anomaly_score(X))


@pytest.mark.parametrize("how", ["fit", "recalibrate"])
@pytest.mark.parametrize("on_gap", ["split", "fill"])
@pytest.mark.parametrize("reduce", ["mean", "last"])
def test_held_out_rows_are_read_across_gaps_as_new_ones_are(how, on_gap, reduce):
    """Of every 25 rows four are missing; alarms of new rows of that kind are as rare as promised."""
    X = pd.DataFrame(plant(6000), index=pd.date_range("2026-03-01", periods=6000, freq="min"))
    gappy = X[np.arange(6000) % 25 < 21]
    det = SeriesDetector(views=QUICK, on_gap=on_gap, reduce=reduce, random_state=0)
    det = det.fit(gappy[:3000]) if how == "fit" else det.fit(X[:1500]).recalibrate(gappy[1260:3000])
    assert 0.01 < np.mean(det.predict(gappy[3000:]) == -1) < 0.15
    if how == "recalibrate" and reduce == "mean":
        np.testing.assert_allclose(det.calibration_scores_, np.sort(det.anomaly_score(gappy[1260:3000])), rtol=1e-9)


def test_a_timeline_finds_runs_again_across_what_it_filled_in():
    times = np.array([0, 1, 2, 5, 6, 7, 40, 41, 42, 43.0])
    line = Timeline.lay(10, times, None, 1.0, "fill", longest_fill=5)
    assert line.source.tolist() == [0, 1, 2, -1, -1, 3, 4, 5, 6, 7, 8, 9]
    whole = Timeline.lay(10, times, None, 1.0, "fill")  # the same without what is filled in: a run ends at each gap
    assert line.over(whole.bounds).tolist() == [[0, 8], [8, 12]]
    assert line.over(np.array([[1, 3], [4, 6], [7, 9]])).tolist() == [[1, 3], [6, 8], [9, 11]]
    assert whole.over(whole.bounds).tolist() == whole.bounds.tolist()


def test_recalibrating_heeds_a_threshold_that_was_set_since():
    det = SeriesDetector(views=QUICK, random_state=0).fit(plant())
    det.set_params(threshold__alpha=0.3).recalibrate(plant(900, seed=5))
    assert np.mean(det.calibration_scores_ > det.threshold_.value_) == pytest.approx(0.3, abs=0.01)


def test_defaults_are_those_of_what_is_set_beside_them():
    det = SeriesDetector().set_params(threshold__level=0.5, detector=AutoencoderDetector(threshold=Quantile(0.9)))
    assert det.threshold.level == 0.5
    with pytest.raises(ValueError, match="threshold"):
        SeriesDetector(views=QUICK, threshold=Mahalanobis()).fit(plant(300))


def test_tails_of_few_independent_rows_fall_as_fast_as_those_of_all_columns():
    rng = np.random.default_rng(0)
    scores = np.exp(rng.exponential(size=(4000, 3)) * [0.1, 0.5, 1.0])
    own, pooled = Tails.learn(scores), Tails.learn(scores, dependence=4000)
    np.testing.assert_allclose(own.excess, [0.1, 0.5, 1.0], rtol=0.2)
    np.testing.assert_allclose(pooled.excess, pooled.excess.mean(), rtol=0.02)
    np.testing.assert_allclose(pooled.excess.mean(), own.excess.mean(), rtol=0.05)
    np.testing.assert_array_equal(own.knots, pooled.knots)
    alone = [Tails.learn(scores[:, [0]], dependence=one).excess for one in (1, 4000)]
    np.testing.assert_allclose(*alone)  # a column without others has its own


def test_what_rows_cost_by_themselves_is_bounded_by_how_many_windows_were_seen():
    X = plant(600)
    costs = []
    for window in (4, 32):
        det = SeriesDetector(views=[View(Mahalanobis(), window=window)], random_state=0).fit(X)
        new = X.copy()
        new[300] = 50.0
        surprise = det.fold_.channels.encode(new)[0].surprise
        rows = det.fold_.channels.encoding.state["rows"][0]
        costs.append(surprise.max())
        assert surprise.max() == pytest.approx(np.log(rows / window + 1))
    assert costs[1] < costs[0]


def test_a_channel_that_is_always_noisy_is_not_blamed_for_it():
    rng = np.random.default_rng(0)
    X = np.column_stack([np.sin(np.arange(1200) / 9), rng.standard_t(3, size=1200)]) + rng.normal(0, 0.02, (1200, 2))
    det = SeriesDetector(views=[View(PrincipalComponents(0.5), window=8)], random_state=0).fit(X)
    shares = det.explain(X)
    shares = shares.sum(axis=0) / shares.sum()
    assert 0.3 < shares[1] < 0.7
    new = X.copy()
    new[600:620, 0] += 4.0
    assert (det.explain(new)[604:616].argmax(axis=1) == 0).all()


@pytest.fixture(scope="module", params=["split", "fill"])
def over_gaps(request):
    return SeriesDetector(time="time", on_gap=request.param, random_state=0).fit(table(1500))


@pytest.mark.parametrize(("first", "last"), [(0, 40), (300, 301), (300, 340), (560, 600), (0, 600)])
def test_an_event_has_its_own_edges_wherever_it_lies(over_gaps, first, last):
    new = table(600, seed=1).drop(index=range(200, 205)).reset_index(drop=True)  # a gap
    row = new["time"].isin(table(600)["time"][first:last]).to_numpy()
    new.loc[row, "sensor_1"] += 3.0
    _, events, rows = over_gaps.assess_events(new)
    strange = np.concatenate(rows)
    assert len(np.unique(strange)) == len(strange)
    assert row[strange].mean() > 0.9
    assert np.isin(np.flatnonzero(row), strange).mean() > 0.9
    assert set(events["channel_1"]) == {"sensor_1"}
    assert (events["rows"] == [len(some) for some in rows]).all()
    assert (pd.to_datetime(events["start"]) <= pd.to_datetime(events["peak"])).all()
    assert (pd.to_datetime(events["peak"]) <= pd.to_datetime(events["end"])).all()


@pytest.mark.parametrize("reduce", ["mean", "last"])
def test_an_event_says_what_was_measured_and_what_was_expected(fitted, reduce):
    new = plant(600, seed=1)
    odd = new.copy()
    odd[300:340, 1] += 3
    (event,) = fitted[reduce].events(odd).to_dict("records")
    held, low, high = re.fullmatch(r"x1 (\S+), expected (\S+) to (\S+)", event["reason"]).groups()
    assert float(held) == pytest.approx(odd[event["peak"], 1], abs=0.01)
    assert float(low) - 0.3 < new[event["peak"], 1] < float(high) + 0.3
    assert 0.1 < float(high) - float(low) < 1  # noise of .1


def test_an_event_says_for_how_long_a_sensor_stood_still_or_was_lost():
    det = SeriesDetector(random_state=0).fit(plant(3000))
    odd = plant(900, seed=1)
    odd[200:320, 1], odd[600:720, 2] = odd[200, 1], np.nan
    still, lost = det.events(odd).to_dict("records")
    assert still["reason"] == f"x1 {odd[200, 1]:.4f} for {still['end'] - 199} rows"
    assert lost["reason"] == f"x2 missing for {lost['end'] - 599} rows"


def test_an_event_says_what_word_it_was_that_no_row_had():
    def words(X, word):
        return pd.DataFrame(X).add_prefix("x").assign(valve=np.where(np.arange(len(X)) % 200 < 100, "open", word))

    det = SeriesDetector(views=QUICK, random_state=0).fit(words(plant(), "shut"))
    events = det.events(words(plant(300, seed=1), "stuck"))
    assert events["reason"].tolist() == ["valve stuck"]


def test_an_event_amid_rows_that_were_filled_in_is_one():
    det = SeriesDetector(time="time", on_gap="fill", random_state=0).fit(table(1500))
    events = det.events(table(900, seed=1).drop(index=range(300, 490)))
    assert (events["rows"] > 0).all()


@pytest.mark.parametrize("memory", [0, 0.9, 0.97])
@pytest.mark.parametrize("every", [1000, 5000])
def test_about_one_event_is_false_in_as_many_normal_rows_as_asked(every, memory):
    """However long strange rows are together; of every fourth calibrate row as well, if with more care."""
    rng = np.random.default_rng(0)

    def scores(n):
        noise = rng.normal(size=(n + 1000, 2))
        state = lfilter([(1 - memory**2) ** 0.5], [1, -memory], noise, axis=0)[1000:]
        return np.exp(0.5 * np.abs(state).max(axis=1))

    runs, new = [scores(4000) for _ in range(5)], scores(400_000)
    rule = Events(every=every, shortest=1 if memory == 0 else 3)
    found = []
    for step in (1, 4):
        thinned = [run[::step] for run in runs]
        rule.fit(np.concatenate(thinned), rule.together(thinned, step))
        found.append(len(rule.spans(new)) * every / len(new))
    assert 0.3 < found[0] < 1.5
    assert 0.05 < found[1] < 1.5


@pytest.mark.parametrize(
    ("rule", "fewer"),
    [(Events(every=10**9), True), (Events(shortest=50), True), (Events(merge=0), False), (Events(hysteresis=1), False)],
)
def test_every_parameter_of_the_event_rule_moves_events(rule, fewer):
    new = plant(600, seed=1)
    for start in (100, 130, 300):
        new[start : start + 8, 1] += 1.0
    new[420:460, 1] += np.interp(np.arange(40), [0, 20, 39], [0, 1, 0])  # which comes and goes slowly
    usual = SeriesDetector(views=QUICK, random_state=0).fit(plant()).events(new)
    other = SeriesDetector(views=QUICK, event_rule=rule, random_state=0).fit(plant()).events(new)
    assert not other.equals(usual)
    if fewer:
        assert len(other) < len(usual)


def test_the_threshold_is_the_detector_s():
    detector = AutoencoderDetector(threshold=Conformal(alpha=0.2))
    det = SeriesDetector(detector, views=QUICK, random_state=0).fit(plant())
    assert det.threshold_.alpha == 0.2
    assert abs((det.predict(plant(4000, seed=2)) == -1).mean() - 0.2) < 0.06


def test_false_alarms_are_about_as_many_as_asked():
    rates = [
        (
            SeriesDetector(views=QUICK, reduce="last", random_state=0).fit(plant(2000, s)).predict(plant(2000, 50 + s))
            == -1
        ).mean()
        for s in range(6)
    ]
    assert 0.01 < np.mean(rates) < 0.08


def test_a_model_is_the_same_to_the_bit_after_saving(fitted, tmp_path):
    det, new = fitted["mean"], plant(200, seed=1)
    det.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert (again.anomaly_score(new) == det.anomaly_score(new)).all()
    assert (again.explain(new) == det.explain(new)).all()
    assert again.events(new).equals(det.events(new))
    assert (again.stream().update(new) == det.stream().update(new)).all()
    assert repr(again) == repr(det)


def test_what_is_expected_is_what_the_others_say():
    rng = np.random.default_rng(0)
    one = np.cumsum(rng.normal(size=2000)) * 0.1
    X = np.column_stack([one, 2 * one, -one]) + 0.01 * rng.normal(size=(2000, 3))
    det = SeriesDetector(views=QUICK, random_state=0).fit(X[:1500])
    new = X[1500:].copy()
    new[:, 1] += 5
    assert np.abs(det.expected(new)[:, 1] - X[1500:, 1]).mean() < 0.2


BAD = {
    "unsorted": (lambda X: X.iloc[::-1], "in order of time"),
    "a time that is none": (lambda X: X.assign(time=["soon", *X.time[1:]]), "'soon' in row 1"),
    "a channel missing": (lambda X: X.drop(columns="sensor_1"), "sensor_1"),
    "no time": (lambda X: X.drop(columns="time"), "time"),
    "no rows": (lambda X: X[:0], "0 sample|a row or more"),
    "infinity": (lambda X: X.assign(sensor_0=np.inf), "infinity|finite"),
    "an array": (lambda X: X.iloc[:, 1:].to_numpy(), "DataFrame"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_with_their_place(case):
    det = SeriesDetector(views=QUICK, time="time", random_state=0).fit(table(600))
    change, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        det.predict(change(table(50, seed=1)))


@pytest.mark.parametrize(
    ("views", "words"),
    [([], "needs views"), ([Mahalanobis()], "needs views"), ([View()], "needs a scorer"),
     ([View(Mahalanobis(), window=0)], "a window of 1"), ([View(Mahalanobis(), window=1.5)], "a share"),
     ([View(Mahalanobis(), window="auto")], "a share"), ([View(Mahalanobis(), window=True)], "a share"),
     ([View(Mahalanobis(), channels="some")], "channels"), ([View(Mahalanobis(), of="flags")], "of="),
     ([View(StandardizedError(), of="all")], "does not read the net"),
     ([View(Mahalanobis(ridge=-1))], "ridge"), ([View(PrincipalComponents(keep=2))], "keep"),
     ([View(PrincipalNeighbours(k=0))], "needs k to be an int"), ([View(PrincipalNeighbours(epsilon=0))], "epsilon"),
     ([View(PrincipalNeighbours(components=0))], "components"), ([View(PrincipalNeighbours(sample=0))], "sample"),
     ([View(KLScore())], "KLScore needs a latent with a posterior")],
)  # fmt: skip
def test_views_that_cannot_work_are_refused(views, words):
    with pytest.raises(AnomalyError, match=words):
        SeriesDetector(views=views).fit(plant(300))


def test_globals_are_left_alone(fitted):
    before = torch.get_num_threads(), torch.random.get_rng_state()
    fitted["mean"].predict(plant(100))
    SeriesDetector(views=QUICK, random_state=0).fit(plant(300))
    assert torch.get_num_threads() == before[0]
    assert (torch.random.get_rng_state() == before[1]).all()


def test_set_params_reaches_into_the_detector():
    det = SeriesDetector(VAEDetector()).set_params(detector__divergence__beta=4, window=8)
    assert det.detector.divergence.beta == 4
    with pytest.raises(ConfigError):
        SeriesDetector(views=QUICK, event_rule=Events(every=0)).fit(plant(300))


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        ({"learning_rate": -1}, "learning_rate"),
        ({"calibration": "nonsense"}, "calibration"),
        ({"members": 3}, "trains one net.*members=3. Leave members at 1"),
        ({"warm_start": True}, "warm_start=True"),
        ({"corruption": StandardNormal()}, r"on their own axes.*corruption StandardNormal\(\)"),
    ],
    ids=str,
)
def test_what_the_detector_inside_cannot_be_is_refused(inner, said):
    with pytest.raises(ValueError, match=said):
        SeriesDetector(AutoencoderDetector(**inner)).fit(plant(300))


def test_a_view_by_the_net_has_its_window():
    views = [View(StandardizedError(), window=8)]
    with pytest.raises(ConfigError, match="window=None where its scorer reads the net"):
        SeriesDetector(AutoencoderDetector(), views).fit(plant(300))


def test_what_is_set_later_is_checked_when_it_is_used():
    det = SeriesDetector(views=QUICK, random_state=0).fit(plant(300)).set_params(stride=0)
    with pytest.raises(ValueError, match="stride"):
        det.predict(plant(100))


@pytest.mark.parametrize("names", [("Time", "Machine"), ("Gaussian", "Dense"), ("Date", "KL")])
def test_columns_may_be_named_like_parts(names, tmp_path):
    time, group = names
    X = pd.DataFrame(plant(300)).add_prefix("x").assign(**{time: range(300), group: "a"})
    det = SeriesDetector(views=QUICK, time=time, group=group, random_state=0).fit(X)
    np.testing.assert_array_equal(load(det.save(tmp_path / "model")).anomaly_score(X), det.anomaly_score(X))
    assert repr(loads(dumps(det))) == repr(det)


def test_no_stride_leaves_rows_without_a_score():
    det = SeriesDetector(views=QUICK, stride=1000, random_state=0).fit(plant())
    assert (det.anomaly_score(plant(300, seed=1)) > 0).all()


def test_what_is_not_there_cannot_be_reached_into():
    with pytest.raises(ConfigError, match="needs a detector before detector__max_epochs can be set"):
        SeriesDetector().set_params(detector__max_epochs=3)


# --- jobs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_job_copies_channels_as_numbers_and_other_columns_as_they_are_written(tmp_path, ending):
    """Groups, too: 01 and 1 are two, whose times may be the same."""
    X = pd.DataFrame(plant(400)).add_prefix("x").assign(unit=["01"] * 200 + ["1"] * 200, t=[*range(200)] * 2)
    config = tmp_path / "series.yaml"
    config.write_text(dumps(SeriesDetector(views=QUICK, time="t", group="unit", random_state=0)))
    (X.to_csv if ending == "csv" else X.to_parquet)(tmp_path / f"X.{ending}", index=False)
    batch = [f"{number:03d}" for number in range(400)]
    X.assign(batch=batch).to_csv(tmp_path / "new.csv", index=False)
    series.fit(tmp_path / f"X.{ending}", tmp_path / "model", config)
    series.score(tmp_path / "model", tmp_path / "new.csv", tmp_path / "out.parquet", keep=["batch", "x1"])
    told = pd.read_parquet(tmp_path / "out.parquet")
    assert told["batch"].tolist() == batch
    assert told["unit"].tolist() == X["unit"].tolist()
    np.testing.assert_array_equal(told["x1"], X["x1"])
    np.testing.assert_array_equal(told["anomaly_score"], load(tmp_path / "model").anomaly_score(X))


@pytest.mark.parametrize(
    ("ending", "read"),
    [("csv", pd.read_csv), ("jsonl", partial(pd.read_json, lines=True)), ("parquet", pd.read_parquet)],
)
def test_events_are_written_in_every_format_of_an_output(tmp_path, ending, read):
    SeriesDetector(views=QUICK, random_state=0).fit(table(600).drop(columns="time")).save(tmp_path / "model")
    new = table(300, seed=1).drop(columns="time")
    new.loc[100:119, "sensor_2"] += 9
    new.to_csv(tmp_path / "new.csv", index=False)
    done = series.score(tmp_path / "model", tmp_path / "new.csv", tmp_path / "o.csv", tmp_path / f"events.{ending}")
    events = read(tmp_path / f"events.{ending}")
    assert len(events) == len(done.events) >= 1
    assert events["channel_1"][0] == "sensor_2"


def test_a_run_has_the_table_of_events_where_it_was_asked_for_and_no_value_of_a_row(here):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    SeriesDetector(views=QUICK, time="time", random_state=0).fit(table(600)).save("model")
    new = table(300, seed=1)
    new.loc[100:119, "sensor_2"] = 77.125
    new.to_csv("new.csv", index=False)
    for events in ("events.parquet", None):
        done = series.score("model", "new.csv", "o.csv", events, track=True, overwrite=True)
        client = mlflow.MlflowClient(done.tracking_uri)
        files = {one.path for one in client.list_artifacts(done.run_id)}
        assert ("events.csv" in files) == (events is not None)
        if events is not None:
            told = Path(client.download_artifacts(done.run_id, "events.csv", "."))
            there = pd.read_csv(told)
            assert there["channel_1"].tolist() == pd.read_parquet(events)["channel_1"].tolist() != []
            assert "77.125" not in told.read_text()
            assert "sensor_2 77.12 for " in str(pd.read_parquet(events)["reason"].tolist())
        told = Path(client.download_artifacts(done.run_id, "summary.json", "."))
        assert "sensor_2" in told.read_text()
        assert "77.1" not in told.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("gaps", [0.15, 0.3])
def test_complete_rows_are_as_normal_to_a_detector_that_learned_from_rows_with_gaps(gaps):
    """What fills gaps is what the others let expect: were it what leaves the least, whole rows would be strange."""
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(2, 4))

    def told(n):
        drive = rng.normal(size=(n + 100, 2))
        for t in range(1, len(drive)):
            drive[t] = 0.9 * drive[t - 1] + 0.44 * drive[t]
        return drive[100:] @ mix + 0.1 * rng.normal(size=(n, 4))

    fitted, new, fault = told(2000), told(800), told(800)
    fault[400:440, 0] += 4
    det = SeriesDetector(random_state=0).fit(np.where(rng.random(fitted.shape) < gaps, np.nan, fitted))
    assert (det.predict(new) < 0).mean() < 0.15
    gappy = np.where(rng.random(new.shape) < gaps, np.nan, new)
    assert (det.predict(gappy) < 0).mean() < 0.15
    assert (det.predict(fault)[400:440] < 0).mean() > 0.9


def test_recalibration_by_rows_that_were_learned_from_is_told(recwarn):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(2000, 3))
    told = lambda: any("no fit has seen" in str(warning.message) for warning in recwarn)  # noqa: E731
    SeriesDetector(random_state=0).fit(rows).recalibrate(rng.normal(size=(1000, 3)))
    assert not told()
    SeriesDetector(random_state=0).fit(rows).recalibrate(rows)
    assert told()


def test_a_window_longer_than_what_there_is_is_refused():
    with pytest.raises(ConfigError, match="window of 500 rows needs as many"):
        SeriesDetector(window=500).fit(np.random.default_rng(0).normal(size=(300, 2)))
