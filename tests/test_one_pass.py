"""A causal net with a code a step reads a series in one pass, and says what it would say window by window."""

import numpy as np
import pytest
import torch

from anomaly_ae import (
    TCN,
    AutoencoderDetector,
    ConvLSTM,
    Fused,
    GraphConv,
    KLScore,
    NegativeELBO,
    Neighbours,
    ReconstructionError,
    ResidualMahalanobis,
    SeriesDetector,
    StandardizedError,
    VAEDetector,
    View,
)
from anomaly_ae.nn.core import Batch
from anomaly_ae.series.windows import over_rows, sliding_sums

WINDOW = 40
CASES = [
    (AutoencoderDetector, TCN(), StandardizedError(shrinkage=0.5)),
    (AutoencoderDetector, TCN(length=9, separable=True, kernel=2), ResidualMahalanobis()),
    (VAEDetector, TCN(length=12), NegativeELBO()),
    (VAEDetector, GraphConv(), ReconstructionError() + 0.1 * KLScore()),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]!r}-{case[2]!r}")


def plant(n=1000, d=4, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    return np.column_stack([np.sin(t / 7 + i) for i in range(d)]) + 0.1 * rng.normal(size=(n, d))


def fitted(case, window=WINDOW, reduce="last"):
    detector, backbone, scorer = case
    net = detector(backbone=backbone, max_epochs=2)
    return SeriesDetector(net, views=[View(scorer)], window=window, reduce=reduce, random_state=0).fit(plant())


def with_gaps():
    X = plant(300, seed=1)
    X[90:150, 2] = np.nan
    X[200:210] = np.nan
    X[240] = 1e3
    return X


@EACH
def test_a_pass_over_the_series_says_what_windows_say_one_by_one(case):
    fold, X = fitted(case).fold_, with_gaps()
    scores, columns = fold.raw(X, "last").views[0]
    for row in (WINDOW - 1, WINDOW, 100, 160, 205, 243, len(X) - 1):
        alone = fold.raw(X[row - WINDOW + 1 : row + 1], "last").views[0]
        assert alone.scores[-1] == pytest.approx(scores[row], rel=1e-9)
        assert alone.columns[-1] == pytest.approx(columns[row], rel=1e-9, abs=1e-9 * abs(columns).max())
    some = np.array([WINDOW - 1, 77, 241])
    assert fold.raw_at(fold.channels.encode(X)[0], some).views[0].scores == pytest.approx(scores[some], rel=1e-9)


@EACH
def test_the_mean_is_that_of_windows_in_which_the_row_counts(case):
    fold, X = fitted(case).fold_, with_gaps()
    by_window = fold.raw(X, "last").views[0].scores[WINDOW - 1 :]  # of the window that begins at each row
    mean = fold.raw(X, "mean", "auto").views[0].scores
    warm_up, counted = fold.eyes[0].warm_up, fold.eyes[0].counted
    for row in (WINDOW - 1, 77, 120, 242, len(X) - counted):
        assert mean[row] == pytest.approx(by_window[row - WINDOW + 1 : row - warm_up + 1].mean(), rel=1e-9)
    # before the first row lies its mirror image
    mirrored = fold.raw(np.vstack([X[warm_up - 1 :: -1], X]), "last").views[0].scores[WINDOW - 1 :]
    for row in (0, 1, warm_up):
        assert mean[row] == pytest.approx(mirrored[max(0, row - counted + 1) : row + 1].mean(), rel=1e-6)
    # windows further apart are read one by one, and never so far that they leave out rows
    apart = fold.raw(X, "mean", 1000).views[0].scores
    begin = np.append(np.arange(0, len(X) - counted, counted), len(X) - counted)
    for row in (120, 121, 122, 171, 299):
        held = begin[(begin <= row) & (begin + counted > row)]
        assert apart[row] == pytest.approx(by_window[held - warm_up].mean(), rel=1e-9)


@pytest.mark.parametrize("present", [1.0, 0.6])
def test_a_window_is_worth_its_counted_steps_scaled_up(present):
    """By hand: the cells of the steps after the warm-up, as if the others, and absent ones, were like them."""
    fold = fitted((AutoencoderDetector, TCN(length=5), ReconstructionError())).fold_
    eye, X = fold.eyes[0], plant(WINDOW, seed=2)
    X[np.random.default_rng(3).random(X.shape) > present] = np.nan
    encoded = fold.channels.encode(X)[0]
    there = torch.ones_like(encoded.x, dtype=torch.bool) if encoded.mask is None else encoded.mask
    with torch.inference_mode():
        p = eye.net(Batch(encoded.x.T[None]))
    squares = ((p.batch.x - p.px.mean)[0].square() * there.T)[:, eye.warm_up :]
    mean = float(squares.sum() / there[eye.warm_up :].sum())
    assert fold.raw(X, "last").views[0].scores[-1] == pytest.approx(mean, rel=1e-9)


@EACH
def test_nothing_before_the_window_is_seen(case):
    fold, X = fitted(case).fold_, plant(300, seed=1)
    moved = X.copy()
    moved[:100] += 3
    scores, others = (fold.raw(rows, "last").views[0].scores for rows in (X, moved))
    assert scores[100 + WINDOW - 1 :] == pytest.approx(others[100 + WINDOW - 1 :], rel=1e-9)
    assert (scores[100 : 100 + WINDOW - 1] != others[100 : 100 + WINDOW - 1]).all()


@pytest.mark.parametrize("reduce", ["mean", "last"])
def test_a_long_series_takes_one_pass_of_the_net(reduce):
    detector = fitted(CASES[0], reduce=reduce)
    rows = []
    detector.fold_.net.register_forward_hook(lambda net, given, p: rows.append(p.batch.x.shape))
    X = plant(20_000)
    detector.anomaly_score(X)
    long = [shape for shape in rows if shape[2] > WINDOW]
    assert [shape[:2] for shape in long] == [(1, 4)]
    assert len(X) <= long[0][2] < len(X) + WINDOW
    assert sum(shape[0] * shape[2] for shape in rows) < 1.2 * len(X)  # the others fill the beginning


CANNOT = [
    (AutoencoderDetector, TCN(causal=False), StandardizedError()),
    (AutoencoderDetector, TCN(codes="window"), StandardizedError()),
    (AutoencoderDetector, TCN(length=WINDOW), StandardizedError()),  # two stacks see further than a window
    (AutoencoderDetector, ConvLSTM(channels=4), StandardizedError()),
    (AutoencoderDetector, TCN(), Fused([StandardizedError(), Neighbours(k=1)])),
]


@pytest.mark.parametrize("case", CANNOT, ids=lambda case: f"{case[1]!r}-{case[2]!r}")
def test_others_are_read_window_by_window_and_every_step_counts(case):
    fold, X = fitted(case).fold_, plant(120, seed=1)
    eye = fold.eyes[0]
    assert eye.warm_up is None
    with torch.inference_mode():
        windows = fold.channels.encode(X)[0].x.unfold(0, WINDOW, 1)
        expected = eye.scorer(eye.net(Batch(windows))).numpy()
    assert fold.raw(X, "last").views[0].scores[WINDOW - 1 :] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13, 31])
def test_sliding_sums_are_sums_and_forget_what_is_large(length):
    x = np.random.default_rng(0).normal(size=(60, 2))
    x[20] = 1e15
    expected = np.stack([x[i : i + length].sum(0) for i in range(60 - length + 1)])
    found = sliding_sums(x, length)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[21:] == pytest.approx(expected[21:], abs=1e-12)
    assert sliding_sums(torch.from_numpy(x), length).numpy() == pytest.approx(found)


@pytest.mark.parametrize("step", [1, 3])
def test_rows_have_the_mean_of_the_windows_that_hold_them(step):
    values, first = np.random.default_rng(0).normal(size=(10, 2)), 2 + step * np.arange(10)
    n = first[-1] + 6
    found = over_rows(values, first, 6, n)
    for row in range(n):
        held = [value for value, begin in zip(values, first, strict=True) if begin <= row < begin + 6]
        assert found[row] == pytest.approx(np.mean(held, axis=0) if held else 0)


@pytest.mark.parametrize("reduce", ["mean", "last"])
@pytest.mark.parametrize("length", [None, 5])
def test_what_happens_at_the_beginning_is_seen(reduce, length):
    """Whatever comes before a window's steps that count, the first rows of a series are judged too."""
    detector = fitted((AutoencoderDetector, TCN(length=length), StandardizedError()), reduce=reduce)
    for n in (300, WINDOW // 2):
        X = plant(n, seed=1)
        usual = detector.anomaly_score(X).max()
        X[:8, 0] += 5
        assert (detector.anomaly_score(X)[:8] > 2 * usual).sum() >= 4
    scores = detector.calibration_scores_
    assert len(np.unique(scores)) > 0.98 * len(scores)


def test_views_of_the_same_windows_learn_the_same_in_any_order():
    net = AutoencoderDetector(backbone=TCN(), max_epochs=1)
    views = [View(StandardizedError()), View(Neighbours(k=1, space="code", exact=1))]
    remembered = []
    for order in (views, views[::-1]):
        eyes = SeriesDetector(net, views=order, window=8, random_state=0).fit(plant(4000)).fold_.eyes
        remembered += [len(eye.scorer.memory) for eye in eyes if isinstance(eye.scorer, Neighbours)]
    assert remembered[0] == remembered[1] > 1024
