"""How good a detector is: figures against scikit-learn, intervals against simulation, codes, spoilt rows, the shell."""

import json
import re
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from anomaly_ae import AutoencoderDetector, Mahalanobis, SeriesDetector, View, load, save
from anomaly_ae.cli import app
from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.evaluation import (
    cluster_agreement,
    dci,
    evaluate,
    evaluate_events,
    evaluate_scores,
    mcc,
    mig,
    robustness_curves,
    sap,
)
from anomaly_ae.evaluation.detection import Promise
from anomaly_ae.evaluation.intervals import Z, of_auroc, of_average_precision, rate
from anomaly_ae.evaluation.surface import VUSPR, ranges

SAMPLE = Path(__file__).parents[1] / "sample_data"


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "of"), [(0, 10), (3, 10), (10, 10), (40, 1000)])
def test_rates_have_the_interval_of_the_beta_distribution(hits, of):
    found = rate(hits, of)
    low = stats.beta.ppf(0.025, hits, of - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, of - hits) if hits < of else 1.0
    assert (found.value, found.low, found.high) == pytest.approx((hits / of, low, high), abs=1e-9)
    assert rate(0, 0) is None


@pytest.mark.parametrize("area", [0.0, 0.02, 0.5, 0.9, 1.0])
def test_bounds_of_an_area_are_where_it_would_just_be_likely(area):
    m, n = 30, 200
    found = of_auroc(area, m, n)
    assert found.low <= area <= found.high
    assert found.low < found.high
    each = (m + n) / 2 - 1
    for bound in (found.low, found.high):
        if 0 < bound < 1:
            noise = bound * (1 - bound) / (m * n) * (1 + each * ((1 - bound) / (2 - bound) + bound / (1 + bound)))
            assert abs(area - bound) == pytest.approx(Z * np.sqrt(noise), rel=1e-6)
    turned = of_auroc(1 - area, m, n)
    assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)


@pytest.mark.parametrize(
    ("shift", "m", "n"),
    [
        pytest.param(0.0, 20, 200, marks=pytest.mark.slow),
        (1.5, 20, 200),
        pytest.param(2.5, 40, 40, marks=pytest.mark.slow),
    ],
)
def test_intervals_hold_what_is_true_as_often_as_they_say(shift, m, n):
    rng = np.random.default_rng(0)
    truth = np.repeat([True, False], [m, n])
    score = rng.normal(size=(400, m + n)) + shift * truth
    area = stats.norm.cdf(shift / np.sqrt(2))
    many = np.repeat([True, False], [m * 2000, n * 2000])
    precision = average_precision_score(many, rng.normal(size=len(many)) + shift * many)
    held = []
    for one in score:
        of_area = of_auroc(roc_auc_score(truth, one), m, n)
        of_precision = of_average_precision(average_precision_score(truth, one), m)
        held.append((of_area.low <= area <= of_area.high, of_precision.low <= precision <= of_precision.high))
    assert (np.mean(held, axis=0) > [0.92, 0.9]).all()


# --- rows ------------------------------------------------------------------------------------------------------------


def problem(seed=0, normal=950, anomalies=50):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(normal + anomalies, 3))
    X[normal:, 0] += 3
    return X, np.repeat([1, -1], [normal, anomalies])


@pytest.fixture(scope="module")
def detector():
    return AutoencoderDetector(effort="fast", random_state=0).fit(np.random.default_rng(1).normal(size=(1500, 3)))


def test_figures_are_those_of_scikit_learn_for_any_outlier_detector(detector):
    X, y = problem()
    forest = IsolationForest(random_state=0).fit(X[y == 1])
    for one in (detector, forest):
        found, alarm, score = evaluate(one, X, y), one.predict(X) == -1, -one.decision_function(X)
        assert found.auroc.value == roc_auc_score(y == -1, score)
        assert found.average_precision.value == average_precision_score(y == -1, score)
        precision, recall, f1, _ = precision_recall_fscore_support(y == -1, alarm, average="binary")
        assert (found.precision.value, found.recall.value, found.f1) == pytest.approx((precision, recall, f1))
        assert found.false_alarm_rate.value == pytest.approx(alarm[y == 1].mean())
    assert found.promised is None  # a forest promises nothing, and has no p-values
    assert found.keeps_promise is None
    assert found.operating_points == []


def test_rows_without_a_label_count_for_nothing(detector):
    X, y = problem()
    hidden = np.where(np.arange(len(y)) % 3 == 0, 0, y)
    with_them, without = evaluate(detector, X, hidden), evaluate(detector, X[hidden != 0], y[hidden != 0])
    assert with_them.unlabelled == (hidden == 0).sum()
    assert with_them.auroc == without.auroc
    assert with_them.operating_points == without.operating_points
    assert evaluate(detector, X, y == -1) == evaluate(detector, X, y)  # booleans are true of an anomaly


@pytest.mark.parametrize("y", [np.repeat(["a", "b"], 500), np.repeat([2, -1], 500)])
def test_labels_of_another_kind_are_refused(detector, y):
    with pytest.raises(ConfigError, match="booleans"):
        evaluate(detector, problem()[0], y)
    for one_kind in (np.full(1000, -1), np.ones(1000), np.repeat([0, 1], 500)):
        with pytest.raises(DataError, match="anomalies and normal rows"):
            evaluate(detector, problem()[0], one_kind)
    mixed = np.array([True] * 10 + [False] * 990, dtype=object)
    assert evaluate(detector, problem()[0], mixed).anomalies == 10


def test_an_operating_point_at_the_threshold_is_what_the_detector_does(detector):
    X, y = problem()
    found = evaluate(detector, X, y)
    point = next(point for point in found.operating_points if point.alpha == detector.threshold_.alpha)
    assert (point.recall, point.false_alarm_rate) == (found.recall.value, found.false_alarm_rate.value)
    assert point.precision == pytest.approx(found.precision.value)
    told = pd.DataFrame([vars(point) for point in found.operating_points])
    assert (told[["alarms", "recall", "false_alarm_rate"]].diff().dropna() >= 0).all().all()


def test_precision_to_expect_follows_the_share_of_anomalies(detector):
    X, y = problem()
    seen = evaluate(detector, X, y)
    false = max(seen.false_alarm_rate.value, detector.threshold_.alpha)  # no fewer are counted on than were asked for
    same = evaluate(detector, X, y, prevalence=0.05).expected_precision
    assert same.value == pytest.approx(0.05 * seen.recall.value / (0.05 * seen.recall.value + 0.95 * false))
    assert same.low < same.value < same.high
    rare = evaluate(detector, X, y, prevalence=1e-4)
    assert rare.expected_precision.value < 0.01
    recall = seen.recall.value
    assert rare.expected_precision.value == pytest.approx(1e-4 * recall / (1e-4 * recall + (1 - 1e-4) * false))
    assert all(point.precision <= 1e-4 / point.alpha for point in rare.operating_points)
    with pytest.raises(ConfigError, match="prevalence"):
        evaluate(detector, X, y, prevalence=1.0)


def test_that_no_false_alarm_is_seen_does_not_mean_there_will_be_none():
    y, p = np.repeat([1, -1], [60, 10]), np.repeat([0.5, 0.005], [60, 10])
    promise = Promise(0.05, 400, alpha=0.05)
    told, alone = (evaluate_scores(y, 1 - p, p <= 0.05, p, prevalence=0.001, promise=one) for one in (promise, None))
    assert told.false_alarm_rate.value == 0
    assert told.expected_precision.value == pytest.approx(0.001 / (0.001 + 0.999 * 0.05))
    assert alone.expected_precision.value == pytest.approx(0.001 / (0.001 + 0.999 * 0.5 / 60))


def test_a_pipeline_is_judged_by_its_last_step(detector):
    X, y = problem()
    whole = make_pipeline(StandardScaler(), AutoencoderDetector(effort="fast", random_state=0)).fit(X[y == 1])
    found = evaluate(whole, X, y)
    assert found.promised == 0.1 or found.promised == 0.05
    assert found.auroc.value == roc_auc_score(y == -1, -whole.decision_function(X))
    assert found.operating_points


@pytest.mark.parametrize(("score", "alarm"), [([1.0, 2.0], [True]), ([1.0, np.nan], [True, False])])
def test_scores_that_are_none_are_refused(score, alarm):
    with pytest.raises(DataError, match="a finite score, an alarm and a label a row"):
        evaluate_scores([1, -1], score, alarm)


def test_a_promise_that_is_broken_is_told(detector):
    kept = []
    for seed in range(40):  # a threshold lies where chance put it: one that is a little low breaks no promise
        rng = np.random.default_rng(seed)
        one = AutoencoderDetector(effort="fast", random_state=seed).fit(rng.normal(size=(1200, 3)))
        kept.append(evaluate(one, *problem(seed + 100, normal=2000)).keeps_promise)
    assert np.mean(kept) >= 0.9
    X, y = problem(normal=2000)
    wide = np.where((y == 1)[:, None], 1.5 * X, X)  # normal rows are not those of the fit
    assert evaluate(detector, wide, y).keeps_promise is False


def test_kinds_have_a_recall_each():
    y, alarm = np.array([1, -1, -1, -1, -1]), np.array([False, True, False, True, True])
    found = evaluate_scores(y, np.arange(5.0), alarm, kinds=["a", "a", "a", "b", "b"])
    assert {name: kind.value for name, kind in found.kinds.items()} == {"a": 0.5, "b": 1.0}


# --- events ----------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.integers(1, 3))
def test_events_are_counted_range_by_range(rows, machines):
    label, alarm = np.array(rows).T
    series = np.arange(len(rows)) * machines // len(rows)
    event, last = np.zeros(len(rows), dtype=int), 0
    for one in range(machines):
        for start, end in ranges(alarm & (series == one)):
            last += 1
            event[start:end] = last
    found = evaluate_events(label, event, series=series)
    delays, touched = [], set()
    for one in range(machines):
        for start, end in ranges(label & (series == one)):
            hit = [row - start for row in range(start, end) if event[row]]
            delays.append(hit[0] if hit else None)
            touched |= {event[row] for row in range(start, end)} - {0}
    assert found.delays == delays
    begins = [start for one in range(machines) for start, _ in ranges(label & (series == one))]
    assert found.starts == begins
    assert (found.ranges, found.events, found.false_events) == (len(delays), last, last - len(touched))


def test_the_volume_is_the_mean_over_series_that_have_ranges():
    rng = np.random.default_rng(0)
    label, series = np.zeros(300, dtype=bool), np.repeat([0, 1, 2], 100)
    label[20:30] = label[150:170] = True
    score = rng.normal(size=300) + label
    found = evaluate_events(label, np.zeros(300, dtype=int), score, series=series, buffer=10)
    alone = [VUSPR(label[series == one], 10)(score[series == one]) for one in (0, 1)]
    assert found.vus_pr == pytest.approx(np.mean(alone))
    assert found.median_delay is None
    with pytest.raises(DataError, match="number and a label a row"):
        evaluate_events(label, np.zeros(10, dtype=int))


# --- codes -----------------------------------------------------------------------------------------------------------


def factors(seed=0, n=3000):
    rng = np.random.default_rng(seed)
    return rng, np.column_stack([rng.integers(0, 4, n), rng.integers(0, 6, n), rng.uniform(size=n)])


def test_codes_that_are_the_factors_score_one_and_random_ones_nothing():
    rng, v = factors()
    perfect = np.column_stack([v[:, 2], -3 * v[:, 0], rng.normal(size=len(v)) * 1e-9, 2 - v[:, 1]])
    random = rng.normal(size=(len(v), 4))
    mixed = (v / v.std(axis=0)) @ [[1, 1, 1], [1, -1, 1], [1, 1, -1]]
    assert mig(perfect, v) > 0.95
    assert mig(random, v) < 0.05
    assert mig(mixed, v) < 0.5 * mig(perfect, v)
    collapsed = dci(np.zeros((1000, 3)), v[:1000])
    assert collapsed["disentanglement"] == collapsed["completeness"] == 0
    assert dci(np.zeros((1000, 1)), v[:1000, :1])["completeness"] == 0
    told, blind, turned = (dci(codes[:1000], v[:1000]) for codes in (perfect, random, mixed))
    assert min(told.values()) > 0.95
    assert max(blind["disentanglement"], blind["completeness"]) < 0.1
    assert blind["informativeness"] < 0.4  # chance: a quarter, a sixth, and nothing
    assert turned["disentanglement"] < 0.5 * told["disentanglement"]
    measured = rng.uniform(size=(3000, 2))
    assert sap(measured[:, ::-1], measured) > 0.99
    assert sap(rng.normal(size=(3000, 4)), measured) < 0.02
    classes = v[:, :2]
    assert sap(classes, classes) == sap(1000 * classes, classes) > 0.7  # the second best guesses: 1 - 1/4, 1 - 1/6
    rare = (rng.random((3000, 1)) < 0.1).astype(float)
    assert sap(rng.normal(size=(3000, 1)), rare) < 0.1  # one latent that knows nothing, of a class that is rare
    assert sap(np.column_stack([rare, rng.normal(size=3000)]), rare) > 0.4


def test_sources_are_matched_whatever_their_order_sign_and_scale():
    rng = np.random.default_rng(0)
    s = rng.laplace(size=(2000, 3))
    assert mcc(s[:, [2, 0, 1]] * [-1, 5, 0.1] + 7, s) == pytest.approx(1)
    assert mcc(np.exp(s), s, ranks=True) == pytest.approx(1)
    assert mcc(np.exp(s), s) < 0.95
    assert mcc(rng.normal(size=(2000, 3)), s) < 0.1
    with pytest.raises(DataError, match="a latent a source"):
        mcc(s[:, :2], s)
    with pytest.raises(DataError, match="two values"):
        mig(s, np.ones((2000, 1)))
    with pytest.raises(DataError, match="same rows"):
        mig(s, s[:10])


def test_clusters_agree_with_classes_as_far_as_codes_tell_them():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 400)
    assert cluster_agreement(10 * np.eye(4)[classes] + rng.normal(size=(400, 4)), classes) == 1
    assert abs(cluster_agreement(rng.normal(size=(400, 4)), classes)) < 0.05


# --- spoilt rows -----------------------------------------------------------------------------------------------------


def test_a_curve_begins_where_nothing_is_spoilt_and_falls(detector):
    X, y = problem(anomalies=300)
    clean, before = evaluate(detector, X, y), X.copy()
    curves = robustness_curves(detector, X, y)
    assert (before == X).all()
    assert set(curves["kind"]) == {"noise", "missing", "scale", "rotation"}
    for name in ("auroc", "average_precision", "recall", "false_alarm_rate"):
        assert (curves.loc[curves["level"] == 0, name] == getattr(clean, name).value).all()
    last = curves.groupby("kind").last()
    assert (last.loc[["noise", "missing"], "auroc"] < clean.auroc.value - 0.05).all()
    assert robustness_curves(detector, X, y, random_state=0).equals(curves)
    assert not robustness_curves(detector, X, y, random_state=1).equals(curves)


class Witness:
    """A detector that keeps what it is given."""

    def decision_function(self, X):
        self.X = X
        return np.arange(len(X), dtype=float)

    def predict(self, X):
        return np.ones(len(X), dtype=int)


def spoilt(rows, y, kind, level, **more):
    witness = Witness()
    robustness_curves(witness, rows, y, kinds=[kind], levels=[level], **more)
    return witness.X


def test_rows_are_spoilt_as_far_as_the_level_says():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20_000, 4)) * [1, 2, 3, 0] + 5, np.repeat([1, -1], [19_000, 1000])
    noise = spoilt(X, y, "noise", 0.5) - X
    assert noise.std(axis=0) == pytest.approx([0.5, 1, 1.5, 0], rel=0.03)
    gaps = np.isnan(spoilt(X, y, "missing", 0.2))
    assert gaps.mean(axis=0) == pytest.approx(0.2, abs=0.01)
    scale = spoilt(X, y, "scale", 0.1) / X
    assert np.ptp(scale, axis=0).max() < 1e-9
    assert len(np.unique(scale[0].round(6))) == 4
    turned = spoilt(X, y, "rotation", 0.7)
    before, after = (np.corrcoef(rows[:, :3].T) for rows in (X, turned))
    assert after != pytest.approx(before, abs=0.001)
    assert spoilt(X, y, "rotation", 2 * np.pi) == pytest.approx(X, abs=1e-9)


def test_columns_that_are_no_numbers_stay_as_they_are():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"a": rng.integers(0, 9, 50), "b": list("xy") * 25, "c": rng.random(50) < 0.5, "d": rng.random(50)}
    )
    y = np.repeat([1, -1], 25)
    made = spoilt(rows, y, "noise", 1.0)
    assert made[["b", "c"]].equals(rows[["b", "c"]])
    assert (made["a"] != rows["a"]).all()
    assert (spoilt(rows, y, "noise", 1.0, columns=["d"])["a"] == rows["a"]).all()
    for wrong in ({"kinds": ["dust"]}, {"levels": [-1]}):
        with pytest.raises(ConfigError, match=r"kinds needs|levels needs"):
            robustness_curves(Witness(), rows, y, **wrong)
    with pytest.raises(DataError, match="columns of numbers"):
        robustness_curves(Witness(), rows[["b"]], y)


# --- the shell -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    normal = pd.read_csv(SAMPLE / "breast_cancer_benign.csv")
    AutoencoderDetector(effort="fast", random_state=0).fit(normal).save(folder)
    return folder


MIXED, LABELS = (str(SAMPLE / f"breast_cancer_{name}.csv") for name in ("mixed", "labels"))


def shell(*arguments, code=0):
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--no-track"])
    assert done.exit_code == code, done.output
    return done


def told(*arguments):
    return json.loads(shell(*arguments, "--json").stdout)


def test_the_shell_says_what_python_says(model, here):
    rows, malignant = pd.read_csv(MIXED).drop(columns="patient"), pd.read_csv(LABELS)["malignant"] == 1
    found = evaluate(load(model), rows, malignant.to_numpy())
    said = told(model, MIXED, "--labels", LABELS, "--label", "malignant")
    assert said["detection"]["auroc"] == pytest.approx(vars(found.auroc))
    assert said["metrics"]["recall"] == pytest.approx(found.recall.value)
    assert said["detection"]["operating_points"] == [pytest.approx(vars(point)) for point in found.operating_points]
    alarm = load(model).predict(rows) == -1
    missed = pd.DataFrame(said["missed"])
    assert set(missed["row"] - 1) <= set(np.flatnonzero(malignant & ~alarm))
    assert missed["anomaly_score"].is_monotonic_increasing
    assert set(pd.DataFrame(said["false_alarms"])["row"] - 1) <= set(np.flatnonzero(~malignant & alarm))
    assert f"AUROC     {found.auroc}" in shell(model, MIXED, "--labels", LABELS, "--label", "malignant").stderr


def test_labels_belong_to_rows_by_number_by_key_by_order_or_beside_them(model, here):
    rows, labels = pd.read_csv(MIXED), pd.read_csv(LABELS)
    beside = rows.assign(malignant=labels["malignant"].map({0: "benign", 1: "malignant"}))
    beside.to_csv("beside.csv", index=False)
    beside[["patient", "malignant"]].sample(frac=1, random_state=0).to_csv("keyed.csv", index=False)
    labels.sample(frac=1, random_state=0).to_csv("numbered.csv", index=False)
    labels[["malignant"]].to_parquet("ordered.parquet")
    usual = told(model, MIXED, "--labels", LABELS, "--label", "malignant")["detection"]
    label = ("--label", "malignant")
    for way in (
        (MIXED, "--labels", "numbered.csv", *label),
        (MIXED, "--labels", "ordered.parquet", *label),
        (MIXED, "--labels", "keyed.csv", "--on", "patient", *label, "--anomaly", "malignant"),
        ("beside.csv", *label, "--normal", "benign"),
    ):
        assert told(model, *way)["detection"] == usual, way
    labels.head(200).to_csv("some.csv", index=False)
    some = told(model, MIXED, "--labels", "some.csv", *label)["detection"]
    assert (some["rows"], some["unlabelled"]) == (200, 112)


def test_kinds_and_causes(model, here):
    rows, labels = pd.read_csv(MIXED), pd.read_csv(LABELS)["malignant"] == 1
    kind = np.where(labels, np.where(rows["mean_radius"] > 17, "large", "small"), "none")
    rows.loc[:, "kind"], top = kind, load(model).reasons(rows[labels].drop(columns="patient"), top=1)
    rows.loc[labels, "why"] = top["column"].to_numpy()
    rows.to_csv("kinds.csv", index=False)
    found = told(model, "kinds.csv", "--label", "kind", "--normal", "none", "--cause", "why")
    assert list(found["detection"]["kinds"]) == ["large", "small"]
    assert found["detection"]["kinds"]["large"]["value"] > found["detection"]["kinds"]["small"]["value"]
    assert found["causes"]["first"]["value"] == 1
    large = told(model, "kinds.csv", "--label", "kind", "--normal", "none", "--anomaly", "large")["detection"]
    assert large["unlabelled"] == (kind == "small").sum()
    rows["why"] = f"{top['column'].mode()[0]}|nothing"
    rows.to_csv("kinds.csv", index=False)
    wrong = told(model, "kinds.csv", "--label", "kind", "--normal", "none", "--cause", "why")["causes"]
    assert 0 < wrong["first"]["value"] <= wrong["first_3"]["value"] < 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label", "nothing", "--labels", LABELS], "nothing"),
        (["--label", "patient"], "--anomaly VALUE"),
        (["--labels", LABELS], "--label"),
        ([], "--label"),
        (["--label", "patient", "--on", "patient"], "--labels"),
        (["--label", "malignant", "--labels", LABELS, "--anomaly", "2"], "Choose from them"),
        (["--label", "malignant", "--labels", LABELS, "--anomaly", "1", "--normal", "1"], "one thing"),
        (["--label", "malignant", "--labels", LABELS, "--prevalence", "rare"], "0.1%"),
        (["--label", "malignant", "--labels", LABELS, "--at-least", "auroc"], "auroc=0.9"),
        (["--label", "malignant", "--labels", LABELS, "--at-least", "area=1"], "average_precision"),
        (["--labels", str(SAMPLE / "pump_labels.csv")], "a label a row"),
        (["--label", "patient", "--labels", "short.csv"], "by their order"),
        (["--label", "label", "--labels", "twice.csv"], "more than once"),
        (["--label", "label", "--labels", "others.csv"], "numbered from 1"),
        (["--label", "label", "--labels", "empty.csv"], "is empty"),
        (["--label", "label", "--labels", "zero.csv"], "numbered from 1"),
        (["--label", "lable"], "--label"),
        (["--label", "patient", "--prevalence", "5"], "0.001"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_a_sentence(model, here, arguments, words):
    Path("short.csv").write_text("patient\n1\n0\n")
    Path("twice.csv").write_text("row,label\n1,0\n1,1\n")
    Path("others.csv").write_text("row,label\n9001,0\n9002,1\n")
    Path("zero.csv").write_text("row,label\n0,1\n1,0\n")
    Path("empty.csv").write_text("row,label\n1,\n2,\n")
    said = shell(model, MIXED, *arguments, code=2)
    assert words in said.output
    assert "Traceback" not in said.output


def test_a_few_anomalies_are_among_the_rows_that_are_spoilt(model, here):
    rows, malignant = pd.read_csv(MIXED), pd.read_csv(LABELS)["malignant"] == 1
    many = pd.concat([rows[~malignant]] * 25 + [rows[malignant].head(3)]).assign(malignant=0)
    many.iloc[-3:, -1] = 1
    many.to_csv("many.csv", index=False)
    found = told(model, "many.csv", "--label", "malignant", "--robustness", "--report", "page.html")
    assert found["robustness"][0]["auroc"] == pytest.approx(found["detection"]["auroc"]["value"], abs=0.02)
    assert any("2,000 of the rows" in note for note in found["notes"])
    free = many.assign(malignant=[f"n{i % 30}" for i in range(len(many) - 300)] + ["fine"] * 300)
    free.to_csv("free.csv", index=False)
    kinds = told(model, "free.csv", "--label", "malignant", "--normal", "fine")["detection"]["kinds"]
    assert len(kinds) == 21
    assert "others" in kinds


def test_labels_of_no_row_are_told(model, here):
    labels = pd.read_csv(LABELS)
    keyed = pd.DataFrame({"patient": pd.read_csv(MIXED)["patient"], "malignant": labels["malignant"].astype(float)})
    more = pd.DataFrame({"patient": ["X1", "X2"], "malignant": [1.0, None]})
    pd.concat([keyed, more]).to_csv("more.csv", index=False)  # and labels are written 1.0
    found = told(model, MIXED, "--labels", "more.csv", "--on", "patient", "--label", "malignant")
    assert found["notes"] == ["2 of 314 labels are of no row that was scored"]
    assert found["detection"] == told(model, MIXED, "--labels", LABELS, "--label", "malignant")["detection"]


def test_a_pipeline_is_refused_in_a_sentence(here):
    normal = pd.read_csv(SAMPLE / "breast_cancer_benign.csv")
    save(make_pipeline(StandardScaler(), AutoencoderDetector(effort="fast", random_state=0)).fit(normal), "whole")
    said = shell("whole", MIXED, "--labels", LABELS, "--label", "malignant", code=2).output
    assert "is a pipeline" in said


def test_standard_input_is_refused(model, here):
    assert "reads more than once" in shell(model, "-", "--label", "x", code=2).output


def test_gates(model, here):
    label = ("--labels", LABELS, "--label", "malignant")
    assert "auroc is" in shell(model, MIXED, *label, "--at-least", "auroc=0.999", code=4).output
    assert "above 0.001" in shell(model, MIXED, *label, "--at-most", "false_alarm_rate=0.001", code=4).output
    assert "not there" in shell(model, MIXED, *label, "--at-least", "event_recall=0", code=4).output
    shell(model, MIXED, *label, "--at-least", "auroc=0.8", "--at-most", "false_alarm_rate=0.5")


def test_a_run_and_a_page_without_what_rows_hold(model, here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here / 'mlflow.db'}")
    arguments = [model, MIXED, "--labels", LABELS, "--label", "malignant", "--robustness", "--report", "page.html"]
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--prevalence", "0.1%"])
    assert done.exit_code == 0, done.output
    run = mlflow.search_runs(search_all_experiments=True, output_format="list")[0]
    assert run.info.run_name == "evaluate breast_cancer_mixed.csv"
    assert {"auroc", "recall", "false_alarm_rate", "expected_precision"} <= set(run.data.metrics)
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert files == {"evaluation.json", "report.html"}
    page = Path("page.html").read_text()
    for title in ("What it finds", "At any threshold", "Other thresholds", "Spoilt rows", "Codes", "Missed anomalies"):
        assert f"<h2>{title}</h2>" in page
    held = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/evaluation.json")
    cells = set(pd.read_csv(MIXED, dtype=str).drop(columns="patient").to_numpy().ravel())
    numbers = set(re.findall(r"[\d.]+", held))
    assert not {number for number in cells & numbers if len(number) > 5}
    assert str(here) not in held


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Two machines, the first with a fault of its second channel in the second half; and a model of them."""
    folder = tmp_path_factory.mktemp("machines")

    def rows(seed, begin):
        rng, n = np.random.default_rng(seed), 1200
        when = pd.date_range(begin, periods=n, freq="min", tz="UTC")
        parts = [
            pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"]).assign(when=when, machine=name)
            for name in ("P1", "P2")
        ]
        return pd.concat(parts, ignore_index=True)

    views = [View(Mahalanobis(), window=8, channels=1)]
    series = SeriesDetector(views=views, reduce="last", time="when", group="machine", random_state=0)
    series.fit(rows(0, "2026-01-01")).save(folder / "model")
    new = rows(1, "2026-02-01")
    new.loc[700:759, "b"] += 6
    new.to_csv(folder / "new.csv", index=False)
    faults = pd.DataFrame({"machine": ["P1"], "start": [new["when"][700]], "end": [new["when"][759]], "part": ["b"]})
    faults.to_csv(folder / "faults.csv", index=False)
    new.assign(fault=new.index.isin(range(700, 760)).astype(int)).to_csv(folder / "labelled.csv", index=False)
    return folder


def test_a_series_is_judged_by_ranges_of_time(machines, here):
    new, model = machines / "new.csv", machines / "model"
    found = told(model, new, "--labels", machines / "faults.csv", "--cause", "part", "--report", "page.html")
    assert (found["detection"]["anomalies"], found["detection"]["rows"]) == (60, 2386)
    assert (found["events"]["ranges"], len(found["events"]["delays"])) == (1, 1)
    assert found["events"]["delays"][0] <= 3
    (one,) = found["ranges"]
    start = str(pd.read_csv(machines / "faults.csv")["start"][0])
    assert one == {"group": "P1", "start": start, "label": "anomaly", "delay": found["events"]["delays"][0]}
    assert "<h2>Ranges</h2>" in Path("page.html").read_text()
    assert found["causes"]["first"]["value"] == 1
    by_rows = told(model, machines / "labelled.csv", "--label", "fault")
    assert by_rows["detection"] == found["detection"]
    assert found["detection"]["unlabelled"] == 14  # normal rows on both sides whose windows hold the fault
    assert found["detection"]["by_chance"] > 0.025
    assert by_rows["events"] == found["events"]
    assert "<h2>Codes</h2>" not in Path("page.html").read_text()
    said = shell(model, new, "--labels", machines / "faults.csv", "--robustness").stderr
    assert "1 of 1 ranges found" in said
    assert "noise" in said
    pd.read_csv(machines / "faults.csv").drop(columns="machine").to_csv("both.csv", index=False)
    both = told(model, new, "--labels", "both.csv")  # no machine: of all
    assert both["detection"]["anomalies"] == 120
    log = pd.read_csv(machines / "faults.csv").drop(columns="machine").assign(machine=[None])
    late = log.assign(start="2027-01-01T00:00+00:00", end="2027-01-02T00:00+00:00")
    pd.concat([log, late]).to_csv("log.csv", index=False)
    some = told(model, new, "--labels", "log.csv")
    assert some["notes"][0] == "1 of 2 ranges have no row"
    assert some["detection"]["anomalies"] == 120  # a range that names no machine is of all
    log.assign(end=None).to_csv("open.csv", index=False)
    going_on = told(model, new, "--labels", "open.csv")
    assert going_on["detection"]["anomalies"] == 2 * (1200 - 700)
    day = log.assign(start="2026-02-01", end="2026-02-01")
    day.to_csv("day.csv", index=False)
    assert "2,400 and 0" in shell(model, new, "--labels", "day.csv", code=2).output  # the whole day: all rows


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("start,end\n2027-01-01,2027-01-02\n", [], "Compare the times"),
        ("start,end\n2026-02-02,2026-02-01\n", [], "end after it starts"),
        ("start,end\nyesterday,2026-02-01\n", [], "ISO 8601"),
        ("start,end\n2026-02-01T00:00,2026-02-01T01:00\n", [], "told alike"),
        ("machine,start,end\nP9,2026-02-01T00:00Z,2026-02-01T01:00Z\n", [], "the machines: here P1, P2"),
        ("start,end\n2026-02-01,2026-02-02\n", ["--anomaly", "x"], "Every range is an anomaly"),
    ],
)
def test_ranges_that_mean_nothing_are_refused(machines, here, text, arguments, words):
    Path("ranges.csv").write_text(text)
    said = shell(machines / "model", machines / "new.csv", "--labels", "ranges.csv", *arguments, code=2)
    assert words in said.output
