"""The benchmark of series: metrics against closed forms, protocols on made and on public files, peers."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
import benchmark
import sensor_metrics as metrics
import sensor_peers as peers
import sensor_protocols as protocols

from anomaly_ae.evaluation import events, surface

PUBLIC = Path(os.environ.get("ANOMALY_AE_SERIES", Path(__file__).parents[2] / "shared/bench/sensor"))
needs_public = pytest.mark.skipif(not PUBLIC.exists(), reason="needs the public series beside the repository")


def labelled(rng, rows=400, events=3):
    label = np.zeros(rows, dtype=bool)
    for start in rng.integers(0, rows - 30, events):
        label[start : start + rng.integers(1, 30)] = True
    return label


# --- VUS-PR ----------------------------------------------------------------------------------------------------------


def literal_vus_pr(label, score, widest):
    """As the papers and TSB-AD write it: threshold by threshold, buffer by buffer, row by row."""
    n, label = len(label), label.astype(int)
    runs = [(start, end - 1) for start, end in surface.ranges(label)]

    def joined(width):
        spans, half = [], width // 2
        for first, last in runs:
            if spans and spans[-1][1] >= first - half:
                spans[-1][1] = last + half
            else:
                spans.append([first - half, last + half])
        return [(max(first, 0), min(last, n - 1)) for first, last in spans]

    volume = []
    for width in range(widest + 1):
        soft = label.astype(float)
        for first, last in runs:
            for d in range(1, width // 2 + 1):
                for row in (first - d, last + d):
                    if 0 <= row < n:
                        soft[row] += np.sqrt(1 - d / width)
        soft = np.minimum(soft, 1)
        area, before = 0.0, 0.0
        for cut in np.sort(score)[::-1][np.linspace(0, n - 1, 250).astype(int)]:
            alarm = score >= cut
            caught = soft[alarm].sum()
            positive = (label.sum() + np.where(label == 1, 1, soft * alarm).sum()) / 2
            spans = joined(width)
            recall = min(caught / positive, 1) * np.mean([alarm[first : last + 1].any() for first, last in spans])
            area += (recall - before) * caught / alarm.sum()
            before = recall
        volume.append(area)
    return np.mean(volume)


@pytest.mark.parametrize("case", ["plain", "ties", "first row", "last row", "close together"])
@pytest.mark.parametrize("widest", [0, 1, 7, 24])
def test_vus_pr_is_what_the_papers_write(case, widest):
    rng = np.random.default_rng(len(case) + widest)
    label = labelled(rng)
    if case == "first row":
        label[:4] = True
    if case == "last row":
        label[-4:] = True
    if case == "close together":
        label[:] = False
        label[100:110] = label[113:120] = label[140:150] = True
    score = rng.normal(size=len(label)) + label
    score = score.round() if case == "ties" else score
    assert surface.VUSPR(label, widest)(score) == pytest.approx(literal_vus_pr(label, score, widest), abs=1e-12)


def test_vus_pr_equals_the_reference_implementation():
    grader = pytest.importorskip("TSB_AD.evaluation.basic_metrics", reason="needs TSB-AD").basic_metricor()
    rng = np.random.default_rng(0)
    label = labelled(rng)
    score = rng.normal(size=len(label)) + label
    reference = grader.RangeAUC_volume_opt(label.astype(int), score, 20)[-1]
    assert surface.VUSPR(label, 20)(score) == pytest.approx(reference, abs=1e-12)


def test_vus_pr_of_scores():
    rng = np.random.default_rng(0)
    label = labelled(rng, rows=4000, events=12)
    judge = surface.VUSPR(label, 0)
    assert judge(label.astype(float)) == pytest.approx(1)
    chance = np.mean([judge(rng.random(len(label))) for _ in range(20)])
    assert chance == pytest.approx(label.mean(), abs=0.02)
    score = rng.normal(size=len(label)) + label
    assert judge(np.exp(score)) == judge(score)  # ranks alone count
    assert surface.VUSPR(label, 40)(np.roll(score, 6)) > judge(np.roll(score, 6))  # a buffer forgives being late


def test_vus_pr_needs_both_labels():
    for label in (np.zeros(9), np.ones(9)):
        with pytest.raises(ValueError, match="needs rows labelled 0 and rows labelled 1"):
            surface.VUSPR(label, 3)


@pytest.mark.parametrize("period", [20, 60, 111])
def test_the_buffer_is_the_period(period):
    noise = np.random.default_rng(0).normal(0, 0.1, 5000)
    assert abs(surface.buffer_length(np.sin(2 * np.pi * np.arange(5000) / period) + noise) - period) <= 1
    assert surface.buffer_length(np.ones(50)) == surface.OTHERWISE


# --- other metrics ---------------------------------------------------------------------------------------------------


def test_random_scores_have_the_base_rate_as_average_precision():
    rng = np.random.default_rng(0)
    label = rng.random(20_000) < 0.07
    line = protocols.ranking(label, peers.Random(1).fit(np.zeros((9, 1))).anomaly_score(label))
    assert line["ap"] == pytest.approx(0.07, abs=0.01)
    assert line["auroc"] == pytest.approx(0.5, abs=0.03)
    assert protocols.ranking(np.zeros(5, bool), np.ones(5)) == {}


def test_rates_are_those_of_the_confusion_matrix():
    label, alarm = np.array([1, 1, 1, 0, 0, 0, 0], bool), np.array([1, 0, 0, 1, 0, 0, 0], bool)
    counted = metrics.counts(label, alarm)
    assert counted == {"tp": 1, "fp": 1, "fn": 2, "tn": 3}
    assert metrics.rates(**counted) == {"f1": 2 / 5, "far": 1 / 4, "mar": 2 / 3}
    everything = metrics.rates(**metrics.counts(label, np.ones(7)))
    assert everything == {"f1": pytest.approx(2 * 3 / (3 + 7)), "far": 1, "mar": 0}
    assert metrics.rates(0, 0, 0, 0) == {"f1": 0, "far": 0, "mar": 0}


def test_composite_f1_asks_for_events_and_for_precise_rows():
    label = np.repeat([0, 1, 0, 1, 0], 10).astype(bool)
    one_row_each = np.isin(np.arange(50), [12, 33])
    assert events.composite_f1(label, one_row_each) == 1
    assert events.composite_f1(label, np.ones(50, bool)) == pytest.approx(2 * 0.4 / 1.4)  # all: precision .4
    assert events.composite_f1(label, np.isin(np.arange(50), [12, 13])) == pytest.approx(2 * 0.5 / 1.5)
    assert events.composite_f1(label, np.zeros(50, bool)) == 0


@pytest.mark.parametrize(("top", "right"), [(899, False), (900, True), (1010, True), (1120, True), (1121, False)])
def test_found_is_within_a_hundred_rows(top, right):
    score = np.zeros(3000)
    score[top] = 1
    assert metrics.found(score, 1000, 1020) is right
    assert metrics.found(score, 1000, 1500) is (500 <= top <= 2000)  # a long event: within its length


def test_diagnosis():
    contributions = np.zeros((30, 4))
    contributions[10:20] = [4, 3, 2, 1]
    contributions[25] = [0, 0, 0, 9]
    right = events.diagnosis(contributions, [(10, 20, [0, 1]), (25, 26, [3])])
    assert right == {"hit100": 1, "hit150": 1, "ndcg": 1}
    wrong = events.diagnosis(contributions, [(10, 20, [2, 3])])
    assert wrong == {"hit100": 0, "hit150": 0.5, "ndcg": 0}
    second = events.diagnosis(contributions, [(10, 20, [1])])
    assert second == {"hit100": 0, "hit150": 1, "ndcg": 0}  # 1.5 rounds to 2
    rng = np.random.default_rng(0)
    blind = events.diagnosis(rng.random((4000, 10)), [(i, i + 1, [1, 2, 3]) for i in range(4000)])
    assert blind["hit100"] == pytest.approx(0.3, abs=0.02)


# --- peers -----------------------------------------------------------------------------------------------------------


def wave(rng, rows, channels=3):
    phase = np.arange(rows)[:, None] * 2 * np.pi / 25 + np.arange(channels)
    return np.sin(phase) + rng.normal(0, 0.05, (rows, channels))


WINDOWED = {
    "pca": partial(peers.WindowedPCA, window=20),
    "neighbours": partial(peers.WindowedNeighbours, window=20),
    "k-means": partial(peers.WindowedKMeans, window=20),
    "discord": peers.Discord,
}


@pytest.mark.parametrize("name", WINDOWED)
def test_peers_find_a_planted_flat_stretch(name):
    rng = np.random.default_rng(0)
    train, test = wave(rng, 600), wave(rng, 400)
    test[200:230] = test[200]
    detector = WINDOWED[name](0).fit(train)
    score = detector.anomaly_score(test)
    assert score.shape == (400,)
    assert 185 <= score.argmax() <= 245
    assert np.array_equal(detector.predict(test) == -1, score > detector.threshold)
    assert np.array_equal(score, detector.anomaly_score(test))  # the threshold's fits left nothing behind


def test_thresholds_come_from_rows_that_were_held_out():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    detector = peers.WindowedNeighbours(0, window=1).fit(X)
    assert detector.anomaly_score(X).max() < 1e-6  # each row is its own neighbour
    assert detector.threshold > 1e-4


def test_switches_and_constants_are_no_measured_channels():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=50), rng.integers(0, 2, 50), np.ones(50)])
    assert peers.measured(X).tolist() == [True, False, False]
    assert peers.measured(X[:, 1:]).tolist() == [True, True]


def test_pca_residual_is_scikit_learns_and_divides_among_channels():
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3))
    for rows in (200, 6):  # more rows than numbers in a window, and fewer
        detector = peers.WindowedPCA(0, window=4, keep=0.9).fit(X[:rows])
        windows = detector._flat(detector._windows(X[:rows])).astype(np.float64)
        model = PCA(n_components=0.9, svd_solver="full").fit(windows)
        residual = ((windows - model.inverse_transform(model.transform(windows))) ** 2).mean(axis=1)
        assert peers.over_rows(residual, 4, rows) == pytest.approx(detector.anomaly_score(X[:rows]), abs=1e-5)
        assert detector.explain(X).mean(axis=1) == pytest.approx(detector.anomaly_score(X), rel=1e-4)


def test_rows_take_the_mean_of_the_windows_that_cover_them():
    rng = np.random.default_rng(0)
    score = rng.random(17)
    rows = [np.mean([score[w] for w in range(17) if w <= row < w + 4]) for row in range(20)]
    assert peers.over_rows(score, 4, 20) == pytest.approx(rows)


def test_a_discord_is_the_window_least_like_any_other():
    rng = np.random.default_rng(0)
    x = wave(rng, 300, 1)
    profile = peers.Discord(0)
    profile.window = 25
    found = profile._profile(x[:, 0])
    shapes = np.lib.stride_tricks.sliding_window_view(x[:, 0], 25)
    shapes = (shapes - shapes.mean(1, keepdims=True)) / shapes.std(1, keepdims=True)
    far = np.linalg.norm(shapes[:, None] - shapes, axis=2)
    far[np.abs(np.subtract.outer(np.arange(len(far)), np.arange(len(far)))) <= 12] = np.inf
    assert found == pytest.approx(far.min(axis=1), abs=1e-2)


# --- protocols -------------------------------------------------------------------------------------------------------


def write(folder):
    """Small files of every suite; anomalies are large."""
    rng = np.random.default_rng(0)
    label = np.zeros(300, dtype=np.uint8)
    label[200:220] = 1
    X = (wave(rng, 300) + 5 * label[:, None]).astype(np.float32)
    for suite in protocols.Suite:
        (folder / suite).mkdir()
    np.savez(folder / "tsb/one.npz", X=X, label=label, train_rows=100)
    for part in ("valve1", "other"):
        (folder / "skab" / part).mkdir()
        rows = np.concatenate([wave(rng, 400), X])
        table = pd.DataFrame(rows, index=pd.date_range("2020", periods=700, freq="s", name="datetime"))
        table["anomaly"], table["changepoint"] = np.concatenate([np.zeros(400), label]), 0.0
        table.to_csv(folder / f"skab/{part}/1.csv", sep=";")
    faulty = np.concatenate([wave(rng, 160), wave(rng, 140) + 5])
    np.savez(folder / "tep/tep.npz", d00=wave(rng, 200), d00_te=wave(rng, 300), d01_te=faulty, d03_te=faulty)
    np.savez(folder / "ucr/one.npz", train=wave(rng, 200)[:, 0], test=X[:, 0], label=label)
    pd.DataFrame({"name": ["one"], "ntr": [200], "nte": [300], "start": [200], "end": [220]}).to_csv(
        folder / "ucr/index.csv", index=False
    )
    test = X.copy()
    test[:, 1:] -= 5 * label[:, None]
    np.savez(folder / "rootcause/one.npz", train=wave(rng, 200), test=test, label=label)
    (folder / "rootcause/one.interpretation.txt").write_text("200-219:1\n")
    (folder / "nab/realKnownCause").mkdir()
    times = pd.date_range("2020", periods=300, freq="h")
    pd.DataFrame({"timestamp": times, "value": X[:, 0]}).to_csv(folder / "nab/realKnownCause/one.csv", index=False)
    windows = {"realKnownCause/one.csv": [[str(times[200]), str(times[219])]]}
    (folder / "nab/combined_windows.json").write_text(json.dumps(windows))
    return folder


def run(*args, code=0):
    result = CliRunner().invoke(benchmark.app, ["sensor", *(str(arg) for arg in args)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.mark.parametrize("suite", list(protocols.Suite))
def test_every_suite_from_files_to_table(suite, tmp_path):
    (folder := tmp_path / "data").mkdir()
    write(folder)
    args = ["--data", folder, "--suite", suite, "--output", tmp_path / "x.csv", "--methods", "Random,Windowed-PCA"]
    result = run(*args)
    lines = pd.read_csv(tmp_path / "x.csv")
    assert lines["error"].isna().all()
    assert (lines["suite"] == suite).all()
    best = result.stdout.splitlines()[2]
    assert "Windowed-PCA" in best  # the table falls by the first measure
    ours = lines[(lines["method"] == "Windowed-PCA")]
    if suite == "rootcause":
        assert ours["hit100"].tolist() == [1]
        assert ours["event_f1"].item() > 2 * (20 / 320)  # what alarms everywhere would have
        assert lines[lines["method"] == "Random"]["hit100"].isna().all()
    if suite == "ucr":
        assert ours["found"].tolist() == [1]
    if suite == "tsb":
        assert ours[["rows_train", "rows_test", "channels"]].to_numpy().tolist() == [[100, 300, 3]]
    before = (tmp_path / "x.csv").read_text()
    run(*args)
    assert (tmp_path / "x.csv").read_text() == before


def test_skab_counts_rows_of_all_files_together(tmp_path):
    (folder := tmp_path / "data").mkdir()
    write(folder)
    run("--data", folder, "--suite", "skab", "--output", tmp_path / "x.csv", "--methods", "Windowed-1-NN")
    lines = pd.read_csv(tmp_path / "x.csv").set_index("series")
    assert lines.index.tolist() == ["other/1", "valve1/1", "all"]
    assert lines.loc["all", "rows_test"] == 600
    assert lines["mar"]["all"] == pytest.approx(lines["mar"].iloc[:2].mean(), abs=1e-5)  # files of equal lengths
    assert lines["far"]["all"] == pytest.approx(lines["far"].iloc[:2].mean(), abs=1e-5)


def test_tep_is_fitted_once_and_false_alarms_are_those_of_the_normal_file(tmp_path):
    (folder := tmp_path / "data").mkdir()
    write(folder)
    fits = []

    class Counted(peers.Random):
        def fit(self, X):
            fits.append(len(X))
            return super().fit(X)

    tables = list(protocols.tep(folder / "tep"))
    lines = protocols.run("tep", tables, 0, "Counted", Counted, benchmark.timed)
    assert fits == [200]
    assert lines[-1]["series"] == "all"
    assert lines[-1]["far"] == lines[0]["far"]
    assert [series.label.sum() for series in tables] == [0, 140, 140]


def test_a_detector_that_fails_leaves_a_line_and_is_measured_again(tmp_path, monkeypatch):
    (folder := tmp_path / "data").mkdir()
    write(folder)

    class Broken(peers.Random):
        def anomaly_score(self, X):
            raise ValueError("no")

    args = ["--data", folder, "--suite", "skab", "--output", tmp_path / "x.csv", "--methods", "Random"]
    monkeypatch.setitem(peers.SERIES_METHODS, "Random", Broken)
    run(*args)
    lines = pd.read_csv(tmp_path / "x.csv")
    assert lines["error"].tolist() == ["ValueError: no"] * 3
    monkeypatch.undo()
    run(*args)
    assert pd.read_csv(tmp_path / "x.csv")["error"].isna().all()


def test_unknown_names_are_refused(tmp_path):
    (folder := tmp_path / "data").mkdir()
    write(folder)
    common = ["--data", folder, "--suite", "tsb", "--output", tmp_path / "x.csv"]
    assert "Methods are" in run(*common, "--methods", "Magic", code=2).output
    assert "no series" in run(*common, "--series", "two", "--methods", "Random", code=2).output


# --- public files ----------------------------------------------------------------------------------------------------


@needs_public
def test_all_ones_on_skab_have_the_published_f1():
    tables = list(protocols.skab(PUBLIC / "skab"))
    label = np.concatenate([series.label for series in tables])
    assert len(tables) == 34
    assert metrics.rates(**metrics.counts(label, np.ones(len(label))))["f1"] == pytest.approx(0.698, abs=5e-4)
    assert average_precision_score(label, np.ones(len(label))) == pytest.approx(label.mean())


@needs_public
def test_public_files_are_read_whole():
    sizes = {suite: list(read(PUBLIC / suite)) for suite, read in protocols.READERS.items()}
    assert {suite: len(tables) for suite, tables in sizes.items()} == {
        "tsb": 22, "skab": 34, "tep": 22, "ucr": 40, "rootcause": 8, "nab": 7,
    }  # fmt: skip
    for tables in sizes.values():
        for series in tables:
            assert len(series.label) == len(series.test)
            assert series.train.shape[1] == series.test.shape[1]
    for series in sizes["ucr"]:
        assert [event[:2] for event in series.events] == surface.ranges(series.label)
    for series in sizes["rootcause"]:
        inside = np.zeros(len(series.label), dtype=bool)
        for start, end, channels in series.events:
            inside[start:end] = True
            assert max(channels) < series.test.shape[1]
        assert not (series.label & ~inside).any()
