"""Splits, p-values and thresholds: the promise of false alarms, kept."""

import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from anomaly_ae import MAD, AutoencoderDetector, Conformal, PeaksOverThreshold, Quantile, VAEDetector
from anomaly_ae.errors import ConfigError
from anomaly_ae.scoring.attribution import shares, top
from anomaly_ae.scoring.calibration import Reservoir, false_alarm_band, lower_median, p_values, splits


@given(st.integers(3, 300), st.sampled_from([1, 5]))
def test_no_row_is_of_two_kinds_and_none_is_lost(n, folds):
    for split in splits(n, folds, np.random.RandomState(0)):
        assert sorted(np.concatenate(split)) == list(range(n))
        assert len(split.fit)
        assert len(split.calibrate)
    every = np.concatenate([split.calibrate for split in splits(n, 5, np.random.RandomState(0))])
    assert sorted(every) == list(range(n))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.lists(st.integers(-1, 21), min_size=1, max_size=9))
def test_p_values_count_rows_at_least_as_strange_ties_included(calibration, scores):
    found = p_values(np.array(scores, float), np.sort(np.array(calibration, float)))
    expected = [(1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in scores]
    np.testing.assert_array_equal(found, expected)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60, unique=True),
    st.sampled_from([0.01, 0.05, 0.07, 0.1, 0.29, 0.5]),
)
def test_conformal_alarms_exactly_where_p_is_at_most_alpha(scores, alpha):
    scores = np.array(scores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threshold = Conformal(alpha).fit(scores)
    new = np.concatenate([scores, scores + 1e-3, [scores.max() + 1]])
    p = p_values(new, np.sort(scores))
    if threshold.resolution_ <= alpha:
        np.testing.assert_array_equal(new > threshold.value_, p <= alpha + 1e-12)
    else:
        assert threshold.value_ == scores.max()


def test_too_few_rows_for_alpha_are_said_and_the_largest_score_taken():
    with pytest.warns(UserWarning, match="needs 99 calibrate rows, however: 10"):
        threshold = Conformal(0.01).fit(np.arange(10))
    assert (threshold.value_, threshold.resolution_) == (9.0, 1 / 11)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Conformal(0.01).fit(np.arange(99))


@pytest.mark.parametrize("threshold", [Conformal(0), Conformal(1), Quantile(0), Quantile(1.5)], ids=repr)
def test_thresholds_refuse_values_out_of_range(threshold):
    with pytest.raises(ConfigError, match="however"):
        threshold.fit([1.0, 2.0])


def test_quantile_is_numpys():
    scores = np.random.default_rng(0).gamma(2, size=500)
    assert Quantile(0.9).fit(scores).value_ == np.quantile(scores, 0.9)


@pytest.mark.parametrize(("alpha", "n"), [(0.01, 199), (0.05, 99), (0.1, 60)])
def test_false_alarm_rates_follow_the_beta_law(alpha, n):
    """For uniform scores the rate of one calibration is exactly 1 - threshold."""
    rng = np.random.default_rng(0)
    rates = np.array([1 - Conformal(alpha).fit(rng.uniform(size=n)).value_ for _ in range(3000)])
    rank = int(alpha * (n + 1) + 1e-9)
    assert scipy.stats.kstest(rates, scipy.stats.beta(rank, n + 1 - rank).cdf).pvalue > 0.001
    low, high = false_alarm_band(alpha, n)
    assert np.mean((rates >= low) & (rates <= high)) == pytest.approx(0.95, abs=0.02)


@given(st.integers(1, 6), st.integers(1, 20))
def test_lower_median_exceeds_only_what_more_than_half_exceed(k, n):
    values = np.random.default_rng(k * 100 + n).normal(size=(k, n))
    median, which = lower_median(values)
    np.testing.assert_array_equal(median, values[which, np.arange(n)])
    for threshold in (-1.0, 0.0, 1.0):
        alarms = median > threshold
        assert ((values > threshold).sum(0)[alarms] > k / 2).all()


def test_reservoir_is_a_bounded_uniform_sample():
    counts = np.zeros(100)
    rng = np.random.RandomState(0)
    for _ in range(2000):
        reservoir = Reservoir(10, 1)
        for chunk in np.array_split(np.arange(100.0), 7):
            reservoir.add(chunk[:, None], rng)
        assert reservoir.rows.shape == (10, 1)
        counts[reservoir.rows[:, 0].astype(int)] += 1
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_shares_add_up_and_top_is_sorted():
    contributions = np.random.default_rng(0).gamma(1, size=(50, 6))
    contributions[0] = 0
    share = shares(contributions)
    np.testing.assert_allclose(share.sum(1), 1)
    np.testing.assert_allclose(share[0], 1 / 6)
    columns, largest = top(contributions, 3)
    assert (np.diff(largest, axis=1) <= 0).all()
    np.testing.assert_array_equal(columns[:, 0], share.argmax(1))
    np.testing.assert_array_equal(largest, np.take_along_axis(share, columns, 1))


# --- the promise, kept by whole detectors on fresh normal rows -------------------------------------------------------

FRESH, REPETITIONS = 2000, 200
ALPHAS = (0.01, 0.05, 0.10)


def normal_rows(rng, n, d=6):
    """Rows from two clusters with correlated columns and heavy tails."""
    return rng.standard_t(5, size=(n, d)) @ np.triu(np.ones((d, d))) + 6 * rng.integers(0, 2, size=(n, 1))


def false_alarm_rates(detector, n, calibration, seed):
    rng = np.random.default_rng(seed)
    X, fresh = normal_rows(rng, n), normal_rows(rng, FRESH)
    det = detector(calibration=calibration, max_epochs=8, random_state=seed).fit(X)
    p = det.p_values(fresh)
    return [np.mean(p <= alpha) for alpha in ALPHAS]


@pytest.mark.slow
@pytest.mark.parametrize("detector", [AutoencoderDetector, VAEDetector])
def test_split_rates_stay_inside_the_beta_band(detector):
    """200 fits of 1000 rows, 200 of them to calibrate: rates follow Beta, convolved with the draw of fresh rows."""
    rates = np.array([false_alarm_rates(detector, 1000, "split", seed) for seed in range(REPETITIONS)])
    for alpha, observed in zip(ALPHAS, rates.T, strict=True):
        rank = int(alpha * 201 + 1e-9)
        law = scipy.stats.betabinom(FRESH, rank, 201 - rank)
        low, high = law.interval(0.95)
        inside = np.mean((observed * FRESH >= low) & (observed * FRESH <= high))
        assert inside > 0.90  # 0.95 less four standard errors of 200 repetitions
        spread = law.std() / FRESH / np.sqrt(REPETITIONS)
        assert abs(observed.mean() - law.mean() / FRESH) < 4 * spread
        assert law.mean() / FRESH <= alpha


@pytest.mark.slow
@pytest.mark.parametrize("detector", [AutoencoderDetector, VAEDetector])
@pytest.mark.parametrize("n", [100, 300])
def test_cross_fitted_rates_are_at_most_twice_alpha(detector, n):
    rates = np.array([false_alarm_rates(detector, n, "cross", seed) for seed in range(REPETITIONS)])
    for alpha, observed in zip(ALPHAS, rates.T, strict=True):
        assert observed.mean() <= 2 * alpha
        assert observed.mean() > 0 or alpha < 1 / (n + 1)  # a promise kept by never alarming would be no use


def test_a_quantile_that_makes_most_rows_alarms_is_warned_of():
    with pytest.warns(UserWarning, match=r"Quantile needs a level near 1, .* however: 0.05, .* Set level=0.95"):
        Quantile(0.05).fit(np.arange(100))


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.3])
@pytest.mark.parametrize("risk", [1e-3, 1e-4])
def test_the_tail_of_peaks_over_a_threshold_is_that_of_its_distribution(shape, risk):
    n = 5000  # at even ranks, so that nothing is left to chance
    scores = scipy.stats.genpareto(shape, scale=2.0).ppf((np.arange(n) + 0.5) / n) + 7
    told = PeaksOverThreshold(risk).fit(scores).value_
    assert told - 7 == pytest.approx(scipy.stats.genpareto(shape, scale=2.0).isf(risk), rel=0.03)
    assert PeaksOverThreshold(risk).fit(3 * scores - 1).value_ == pytest.approx(3 * told - 1)


def test_peaks_over_a_threshold_find_rates_that_ranks_cannot_tell():
    rates = [
        scipy.stats.expon.sf(PeaksOverThreshold(1e-4).fit(np.random.default_rng(seed).exponential(size=500)).value_)
        for seed in range(100)
    ]
    assert 3e-5 < np.median(rates) < 3e-4
    scores = np.random.default_rng(0).exponential(size=500)
    assert PeaksOverThreshold(0.3).fit(scores).value_ == np.quantile(scores, 0.7)  # not in the tail
    assert PeaksOverThreshold(level=0.5).fit(scores).value_ != PeaksOverThreshold().fit(scores).value_
    assert PeaksOverThreshold().fit(np.ones(30)).value_ == 1
    assert np.isfinite(PeaksOverThreshold().fit(scores[:5]).value_)


def test_robust_deviations_are_those_of_a_normal_and_half_of_the_rows_may_be_odd():
    scores = scipy.stats.norm(5, 2).ppf((np.arange(2000) + 0.5) / 2000)
    assert MAD(k=3).fit(scores).value_ == pytest.approx(11, abs=0.01)
    assert MAD(k=1).fit(scores).value_ == pytest.approx(7, abs=0.01)
    odd = np.concatenate([scores, np.full(500, 1e9)])
    assert MAD().fit(odd).value_ < 15
    assert MAD().fit(2 * scores + 1).value_ == pytest.approx(2 * MAD().fit(scores).value_ + 1)


@pytest.mark.parametrize("part", [MAD(0), PeaksOverThreshold(0), PeaksOverThreshold(level=1)], ids=repr)
def test_thresholds_of_no_range_are_refused(part):
    with pytest.raises(ConfigError):
        part.fit(np.arange(50))
