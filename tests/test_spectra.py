"""Front ends for sound and vibration: SciPy's spectra, scikit-learn's manners, and what they are for."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.signal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from anomaly_ae import AutoencoderDetector, Envelope, LogMel, Point, Spectrogram, frames
from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.series.spectra import mel_bank

ROOT = Path(__file__).parents[1]
RATE = 8000
FRONT_ENDS = [Spectrogram, LogMel, Envelope]


def noise(n=6, samples=1000, seed=0):
    return np.random.default_rng(seed).normal(size=(n, samples))


def tone(hertz, samples=RATE):
    return np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)


# --- manners ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_every_check_of_scikit_learn_passes(front_end):
    for estimator, check in estimator_checks_generator(front_end()):
        check(estimator)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_features_are_named_by_their_frequency(front_end):
    table = front_end(RATE, length=256).set_output(transform="pandas").fit_transform(noise())
    names = list(table.columns)
    assert len(set(names)) == len(names)
    front = front_end(RATE, length=256).fit(noise())
    assert names[3] == f"{front_end.__name__.lower()}_{front.frequencies_[3]:.10g}Hz"
    assert float(names[3].split("_")[1].removesuffix("Hz")) == pytest.approx(front.frequencies_[3])


CHANGES = {"rate": 4000, "length": 128, "hop": 32, "window": "boxcar", "decibel": False}


@pytest.mark.parametrize(
    ("front_end", "name", "value"),
    [
        *[(front_end, *change) for front_end in FRONT_ENDS for change in CHANGES.items()],
        *[(LogMel, *change) for change in {"bands": 7, "low": 300, "high": 2000}.items()],
        *[(Envelope, *change) for change in {"band": (1000, 2000), "highest": 500}.items()],
    ],
)
def test_every_parameter_moves_the_spectrum(front_end, name, value):
    front = front_end(RATE, length=256, hop=100)
    one, other = front.fit_transform(noise()), clone(front).set_params(**{name: value}).fit_transform(noise())
    assert one.shape != other.shape or not np.allclose(one, other)


@pytest.mark.parametrize(
    "front",
    [
        Spectrogram(rate=0),
        Spectrogram(rate=np.inf),
        Spectrogram(length=0),
        Spectrogram(length=1001),
        Spectrogram(hop=0),
        LogMel(bands=0),
        LogMel(low=0.3, high=0.2),
        LogMel(high=0.6),
        Envelope(band=(0.2, 0.1)),
        Envelope(band=(0.2, 0.6)),
        Envelope(highest=0),
    ],
    ids=repr,
)
def test_values_out_of_range_are_refused_with_a_way_out(front):
    with pytest.raises(ConfigError, match=rf"{type(front).__name__} needs .*, however: .*\. \w"):
        front.fit(noise())


def test_frames_are_cut_as_said_without_a_copy():
    x = np.arange(20.0)
    cut = frames(x, 6, 4)
    assert np.shares_memory(cut, x)
    assert cut.tolist() == [list(range(start, start + 6)) for start in (0, 4, 8, 12)]
    assert frames(x, 6).shape == (3, 6)
    for wrong in (noise(), x[:5]):
        with pytest.raises(DataError, match=r"needs one channel of at least 6 samples, however: shape"):
            frames(wrong, 6)


# --- SciPy's numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", ["hann", "boxcar", "hamming"])
@pytest.mark.parametrize(("length", "hop"), [(None, None), (256, None), (255, 100), (1000, 7), (64, 64)])
def test_the_spectrogram_is_scipys(length, hop, window):
    front = Spectrogram(RATE, length, hop, window, decibel=False).fit(noise())
    overlap = front.length_ - front.hop_
    expected = scipy.signal.welch(noise(), RATE, window, front.length_, overlap, detrend=False)
    np.testing.assert_allclose(front.frequencies_, expected[0])
    np.testing.assert_allclose(front.transform(noise()), expected[1], rtol=1e-9, atol=1e-18)
    logarithm = clone(front).set_params(decibel=True).fit_transform(noise())
    np.testing.assert_allclose(logarithm, 10 * np.log10(np.maximum(expected[1], 1e-12)))


def test_a_spectrogram_of_frames_is_scipys():
    x = noise(1, 5000)[0]
    ours = Spectrogram(RATE, decibel=False).fit_transform(frames(x, 256, 64))
    transform = scipy.signal.ShortTimeFFT.from_window("hann", RATE, 256, 192, fft_mode="onesided2X", scale_to="psd")
    np.testing.assert_allclose(ours, transform.spectrogram(x, p0=0, p1=len(ours), k_offset=128).T, rtol=1e-9)


@pytest.mark.parametrize("samples", [1000, 999])
def test_density_adds_up_to_power(samples):
    x = noise(samples=samples)
    density = Spectrogram(RATE, window="boxcar", decibel=False).fit_transform(x)
    np.testing.assert_allclose(density.sum(axis=1) * RATE / samples, (x**2).mean(axis=1))


def test_silence_is_minus_120_decibel():
    for front_end in FRONT_ENDS:
        assert (front_end(RATE, length=64).fit_transform(np.zeros((2, 500))) == -120).all()


def test_bands_are_triangles_evenly_spaced_in_mel():
    front = LogMel(RATE, bands=20, low=100, high=3000, length=2000, decibel=False).fit(noise(samples=4000))
    mel = 2595 * np.log10(1 + front.frequencies_ / 700)
    np.testing.assert_allclose(np.diff(mel), np.diff(mel)[0])
    f = np.fft.rfftfreq(2000, 1 / RATE)
    inside = (f >= front.frequencies_[0]) & (f <= front.frequencies_[-1])
    np.testing.assert_allclose(front.bank_[:, inside].sum(axis=0), 1)  # where two meet, they share
    assert (front.bank_[:, (f < 100) | (f > 3000)] == 0).all()
    centre = front.frequencies_[:, None]
    assert (np.abs(f[front.bank_.argmax(axis=1)] - front.frequencies_) <= 2).all()
    assert ((front.bank_ > 0).sum(axis=1)[:-1] <= (front.bank_ > 0).sum(axis=1)[1:] + 1).all()  # the higher, the wider
    power = Spectrogram(RATE, 2000, decibel=False).fit_transform(noise(samples=4000))
    np.testing.assert_allclose(front.transform(noise(samples=4000)), power @ front.bank_.T)
    assert centre.shape == (20, 1)


def test_mel_is_what_it_is_said_to_be():
    """A pitch of 1000 mel is 1000 Hz."""
    front = LogMel(RATE, bands=1, low=0, high=4000).fit(noise())
    top = 2595 * np.log10(1 + 4000 / 700)
    np.testing.assert_allclose(front.frequencies_, 700 * (10 ** (top / 2 / 2595) - 1))
    assert 2595 * np.log10(1 + 1000 / 700) == pytest.approx(1000, abs=0.1)


def test_a_band_too_narrow_takes_the_nearest_frequency():
    bank = mel_bank(np.array([0.0, 100, 200]), np.array([0.0, 10, 20, 150, 200]))
    assert bank[0].tolist() == [1, 0, 0]
    assert bank[1].tolist() == [0, pytest.approx(50 / 130), 0]
    assert (bank.sum(axis=1) > 0).all()


def test_the_envelope_is_scipys():
    x = noise()
    analytic = scipy.signal.hilbert(x - x.mean(axis=1, keepdims=True), axis=1)
    envelope = np.abs(analytic) - np.abs(analytic).mean(axis=1, keepdims=True)
    expected = scipy.signal.welch(envelope, RATE, "hann", 200, 100, detrend=False)
    front = Envelope(RATE, length=200, decibel=False).fit(x)
    np.testing.assert_allclose(front.transform(x), expected[1], rtol=1e-9)
    some = Envelope(RATE, length=200, highest=1000, decibel=False).fit_transform(x)
    np.testing.assert_allclose(some, expected[1][:, expected[0] <= 1000], rtol=1e-9)


@pytest.mark.parametrize("beat", [40, 107])
def test_the_envelope_shows_how_often_a_band_comes_and_goes(beat):
    rings = (1 + 0.5 * tone(beat)) * tone(2500) + 3 * (1 + tone(60)) * tone(500) + tone(beat * 2 + 5)
    front = Envelope(RATE, band=(2000, 3000), highest=500, decibel=False).fit([rings])
    spectrum = front.transform([rings])[0]
    assert front.frequencies_[spectrum.argmax()] == beat
    apart = np.abs(front.frequencies_ - beat) > 2
    assert spectrum[apart].max() < 1e-3 * spectrum.max()  # nothing of what lies outside the band


# --- what they are for -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bearing():
    spec = importlib.util.spec_from_file_location("make_bearing", ROOT / "sample_data" / "make_bearing.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of_a_strike(names, bearing, multiples=4):
    """Whether names are of frequencies at which an outer race is struck, or of multiples."""
    hertz = np.array([float(name.removeprefix("envelope_").removesuffix("Hz")) for name in names])
    strikes = bearing.STRIKES * bearing.SHAFT * np.arange(1, multiples + 1)
    return (np.abs(hertz[:, None] - strikes) <= 8).any(axis=1)


def test_strikes_come_as_often_as_the_geometry_says(bearing):
    quiet, struck = (bearing.vibration(60, damage, seed=7) for damage in (0.0, 6.0))
    front = Envelope(bearing.RATE, band=(2000, 4000), highest=150, length=bearing.RATE).fit([quiet])
    rise = front.transform([struck])[0] - front.transform([quiet])[0]
    assert abs(front.frequencies_[rise.argmax()] / (bearing.STRIKES * bearing.SHAFT) - 1) < 0.02
    assert abs(bearing.STRIKES * bearing.SHAFT - 107.5) < 0.1


def test_the_sample_is_what_its_script_writes(bearing, tmp_path, monkeypatch):
    monkeypatch.setattr(bearing, "HERE", tmp_path)
    bearing.main()
    for name in ("healthy", "mixed", "labels"):
        new, kept = (pd.read_csv(folder / f"bearing_{name}.csv") for folder in (tmp_path, ROOT / "sample_data"))
        pd.testing.assert_frame_equal(new, kept, atol=0.011, rtol=0)  # a rounding may fall the other way elsewhere


@pytest.mark.parametrize("seed", [pytest.param(10_000, marks=pytest.mark.slow), 20_000])
def test_planted_bursts_of_a_damaged_bearing_are_found_and_named(bearing, seed):
    """A minute with three bursts of strikes, cut into half seconds; learned from two minutes without any."""
    healthy = np.stack([bearing.vibration(0.5, 0.0, seed + i) for i in range(240)])
    bursts = np.isin(np.arange(120), np.r_[20:32, 60:70, 100:118])
    minute = np.concatenate([bearing.vibration(0.5, 3.0 * burst, seed + 500 + i) for i, burst in enumerate(bursts)])
    rows = frames(minute, bearing.RATE // 2)
    det = make_pipeline(clone(bearing.SPECTRA), AutoencoderDetector(latent=Point(16), random_state=0)).fit(healthy)
    score = -det.score_samples(rows)
    assert roc_auc_score(bursts, score) > 0.97
    alarms = det.predict(rows) < 0
    assert alarms[bursts].mean() > 0.8
    assert alarms[~bursts].mean() <= 0.1
    assert roc_auc_score(bursts, (rows**2).mean(axis=1)) < 0.9  # energy alone does not do
    blamed = det[-1].explain(det[0].transform(rows[alarms & bursts])).argmax(axis=1)
    assert of_a_strike(det[0].get_feature_names_out()[blamed], bearing).mean() > 0.8


def sounds(kind, n, seed):
    """Quarter seconds of speech-like (a gliding voice in syllables) or music-like sound (a held chord), in noise."""
    rng, t = np.random.default_rng(seed), np.arange(RATE // 4) / RATE
    rows = []
    for _ in range(n):
        if kind == "speech":
            pitch = rng.uniform(90, 250) * (1 + rng.uniform(-0.3, 0.3) * t / t[-1])
            phase = 2 * np.pi * np.cumsum(pitch) / RATE
            formants = rng.uniform([300, 900], [800, 2500])
            gains = [np.exp(-(((k * pitch.mean() - formants) / 200) ** 2)).sum() + 0.02 for k in range(1, 16)]
            x = sum(gain * np.sin(k * phase) for k, gain in enumerate(gains, 1))
            x = x * (0.6 + 0.4 * np.sin(2 * np.pi * 5 * t + rng.uniform(0, 6)))
        else:
            root = 110 * 2 ** (rng.integers(0, 24) / 12)
            chord = root * 2 ** (np.array([0, rng.choice([3, 4]), 7]) / 12)
            x = sum(np.sin(2 * np.pi * k * f * t + rng.uniform(0, 6)) / k**1.5 for f in chord for k in range(1, 6))
        rows.append(x / x.std() + 0.3 * rng.normal(size=len(t)))
    return np.stack(rows)


@pytest.mark.slow
def test_codes_of_sound_feed_a_classifier():
    X = np.concatenate([sounds("speech", 150, 0), sounds("music", 150, 1)])
    y = np.repeat(["speech", "music"], 150)
    coder = AutoencoderDetector(latent=Point(32), calibration="split", random_state=0)
    model = make_pipeline(LogMel(RATE, length=256), coder, LogisticRegression(max_iter=1000))
    assert cross_val_score(model, X, y, cv=3).mean() > 0.88
    assert cross_val_score(model, X, np.random.default_rng(0).permutation(y), cv=3).mean() < 0.65  # not by chance


@pytest.mark.parametrize("hop", [0, -1])
def test_frames_that_do_not_move_on_are_refused(hop):
    with pytest.raises(DataError, match=f"hop of 1 sample or more, however: {hop}"):
        frames(np.arange(5), 2, hop)
