"""Front ends for sound and vibration: rows of samples to spectra, as scikit-learn transformers.

A row is a stretch of signal. A long signal becomes rows in order of time by `frames`, and then has one spectrum a row:
a spectrogram, which is a series of as many channels as there are frequencies.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import irfft, rfft, rfftfreq
from scipy.signal import ShortTimeFFT, get_window, hilbert
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.ranges import COUNT, POSITIVE, check_range, whole

__all__ = ["Envelope", "LogMel", "Spectrogram"]

Array = NDArray[np.float64]
QUIET = 1e-12  # power below it is silence: -120 dB


def frames(signal: ArrayLike, length: int, hop: int | None = None) -> Array:
    """Stretches of `length` samples of one channel, each `hop` samples after the one before: a view `(n, length)`.

    What is left over at the end and does not fill a stretch is left out.

    Parameters
    ----------
    signal : array-like of shape (samples,)
        One channel.
    length : int >= 1 (samples)
        Of a stretch.
    hop : int >= 1 (samples) or None, default=None
        From stretch to stretch; `None` is `length`: none overlap.

    Raises
    ------
    DataError
        When the signal has more than one axis or is shorter than a stretch, or the hop is below 1.

    Examples
    --------
    >>> frames([0, 1, 2, 3, 4, 5, 6], length=3, hop=2)
    array([[0., 1., 2.],
           [2., 3., 4.],
           [4., 5., 6.]])
    """
    x = np.asarray(signal, dtype=np.float64)
    if x.ndim != 1 or not 1 <= length <= len(x):
        raise DataError(
            f"frames needs one channel of at least {length} samples, however: shape {x.shape}. "
            "Take each channel by itself, and a length from 1 to its number of samples."
        )
    if hop is not None and hop < 1:
        raise DataError(f"frames needs a hop of 1 sample or more, however: {hop!r}. Use None for none that overlap.")
    return np.lib.stride_tricks.sliding_window_view(x, length)[:: length if hop is None else hop]


class RowSpectra(TransformerMixin, BaseEstimator):
    """What these share: a row has one spectrum, the mean over frames of `length` samples of squared Fourier sums."""

    rate: float
    length: int | None
    hop: int | None
    window: str
    decibel: bool
    frequencies_: Array

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn how many samples a row has; `y` is ignored."""
        samples = validate_data(self, X, dtype=np.float64).shape[1]
        check_range(self, POSITIVE, "rate")
        check_range(self, whole(1, samples), "length", optional=True)
        check_range(self, COUNT, "hop", optional=True)
        self.length_ = samples if self.length is None else self.length
        self.hop_ = max(1, self.length_ // 2) if self.hop is None else self.hop
        self._prepare(samples)
        return self

    def transform(self, X: ArrayLike) -> Array:
        """Spectra of rows, `(n, n_features_out)`."""
        check_is_fitted(self)
        power = self._power(validate_data(self, X, dtype=np.float64, reset=False))
        return 10 * np.log10(np.maximum(power, QUIET)) if self.decibel else power

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """A name for each frequency, in Hz; `input_features` is ignored."""
        check_is_fitted(self)
        prefix = type(self).__name__.lower()
        return np.array([f"{prefix}_{frequency:.10g}Hz" for frequency in self.frequencies_], dtype=object)

    def _prepare(self, samples: int) -> None:
        """Set `frequencies_`, and what else a row's number of samples decides."""
        self.frequencies_ = rfftfreq(self.length_, 1 / self.rate)

    def _power(self, X: Array) -> Array:
        """The spectrum of each row before the logarithm."""
        raise NotImplementedError

    def _density(self, X: Array) -> Array:
        """Power spectral density of each row, `(n, frequencies)`, over frames that lie wholly inside it."""
        window = get_window(self.window, self.length_)
        transform = ShortTimeFFT(window, self.hop_, self.rate, fft_mode="onesided2X", scale_to="psd")
        last = 1 + (X.shape[1] - self.length_) // self.hop_
        inside = {"p0": 0, "p1": last, "k_offset": transform.m_num_mid}
        return transform.spectrogram(X, axis=1, **inside).mean(axis=2)


class Spectrogram(RowSpectra):
    r"""Power spectral density of each row: of a signal cut by `frames`, its spectrogram.

    .. math:: S(f) = \frac{2}{r \sum_t w_t^2} \; \overline{\Bigl| \sum_t w_t x_t e^{-2 \pi i f t / r} \Bigr|^2}

    with the bar the mean over frames of `length` samples inside the row (Welch), `w` the window and `r` the rate; not
    doubled at 0 and at half the rate.

    **Shape**: `(n, samples)` to `(n, length // 2 + 1)`.

    Parameters
    ----------
    rate : float > 0 (samples a second), default=1
        Of the signal.
    length : int >= 1 (samples) or None, default=None
        Of a frame; frequencies are `rate / length` apart. `None` is the whole row.
    hop : int >= 1 (samples) or None, default=None
        From frame to frame; `None` is half a frame.
    window : str, default="hann"
        One of `scipy.signal.get_window`.
    decibel : bool, default=True
        :math:`10 \log_{10} S`, with silence at -120; or `S` itself.

    Attributes
    ----------
    frequencies_ : array of float (Hz)
        Of each feature.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Welch (1967), The use of fast Fourier transform for the estimation of power spectra, IEEE Transactions on Audio and
    Electroacoustics 15.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import Spectrogram, frames
    >>> tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    >>> front = Spectrogram(rate=8000)
    >>> spectra = front.fit_transform(frames(tone, length=400, hop=200))
    >>> spectra.shape, float(front.frequencies_[spectra[0].argmax()])
    ((39, 201), 440.0)
    """

    def __init__(
        self,
        rate: float = 1.0,
        length: int | None = None,
        hop: int | None = None,
        window: str = "hann",
        decibel: bool = True,
    ) -> None:
        self.rate = rate
        self.length = length
        self.hop = hop
        self.window = window
        self.decibel = decibel

    def _power(self, X: Array) -> Array:
        return self._density(X)


class LogMel(RowSpectra):
    r"""Power in bands that are as wide as the ear's: fine below, coarse above.

    .. math:: M_b = \sum_f T_b(f) \, S(f), \quad T_b(f) = \max\Bigl(0,
              \min\Bigl(\frac{f - f_{b-1}}{f_b - f_{b-1}}, \frac{f_{b+1} - f}{f_{b+1} - f_b}\Bigr)\Bigr)

    with `S` as in `Spectrogram`, and the centres :math:`f_b` evenly spaced in mel,
    :math:`m(f) = 2595 \log_{10}(1 + f / 700)`, from `low` to `high`. A band too narrow to hold any frequency of the
    spectrum takes the nearest.

    **Shape**: `(n, samples)` to `(n, bands)`.

    Parameters
    ----------
    rate : float > 0 (samples a second), default=1
        Of the signal.
    bands : int >= 1, default=40
        How many.
    low, high : float >= 0 (Hz), default=0 and None
        Where the first band begins and the last ends; `None` is half the rate.
    length, hop, window, decibel
        As in `Spectrogram`.

    Attributes
    ----------
    frequencies_ : array of float (Hz)
        Centre of each band.
    bank_ : array of float, `(bands, length // 2 + 1)`
        :math:`T`.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Davis and Mermelstein (1980), Comparison of parametric representations for monosyllabic word recognition in
    continuously spoken sentences, IEEE Transactions on Acoustics, Speech, and Signal Processing 28.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import LogMel, frames
    >>> noise = np.random.default_rng(0).normal(size=8000)
    >>> LogMel(rate=8000, bands=20).fit_transform(frames(noise, length=256, hop=128)).shape
    (61, 20)
    """

    def __init__(
        self,
        rate: float = 1.0,
        bands: int = 40,
        low: float = 0.0,
        high: float | None = None,
        length: int | None = None,
        hop: int | None = None,
        window: str = "hann",
        decibel: bool = True,
    ) -> None:
        self.rate = rate
        self.bands = bands
        self.low = low
        self.high = high
        self.length = length
        self.hop = hop
        self.window = window
        self.decibel = decibel

    def _prepare(self, samples: int) -> None:
        high = self.rate / 2 if self.high is None else self.high
        _check_range(self, "low and high", self.low, high)
        check_range(self, COUNT, "bands")
        edges = _hertz(np.linspace(_mel(self.low), _mel(high), self.bands + 2))
        self.frequencies_ = edges[1:-1]
        self.bank_: Array = mel_bank(rfftfreq(self.length_, 1 / self.rate), edges)

    def _power(self, X: Array) -> Array:
        return self._density(X) @ self.bank_.T


class Envelope(RowSpectra):
    r"""Spectrum of a band's envelope: how often something rings, whatever it rings with.

    .. math:: S(f) \text{ of } e_t - \bar e, \quad e_t = \bigl| x_t + i \, H(x)_t \bigr|

    with `H` the Hilbert transform of the row within `band`, and `S` as in `Spectrogram`. Each impact of a damaged
    bearing excites a resonance of the machine; the envelope of that resonance repeats at the rate at which rolling
    elements pass the damage.

    **Shape**: `(n, samples)` to `(n, frequencies up to highest)`.

    Parameters
    ----------
    rate : float > 0 (samples a second), default=1
        Of the signal.
    band : pair of float >= 0 (Hz) or None, default=None
        From where to where the resonance lies; `None` is everything but the mean.
    highest : float > 0 (Hz) or None, default=None
        Leave out faster repetition than this; `None` is half the rate.
    length, hop, window, decibel
        As in `Spectrogram`.

    Attributes
    ----------
    frequencies_ : array of float (Hz)
        Of each feature.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Randall and Antoni (2011), Rolling element bearing diagnostics: a tutorial, Mechanical Systems and Signal
    Processing 25.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import Envelope
    >>> t = np.arange(8000) / 8000
    >>> beats = (1 + np.cos(2 * np.pi * 50 * t)) * np.sin(2 * np.pi * 2000 * t)
    >>> front = Envelope(rate=8000, band=(1500, 2500), highest=200)
    >>> spectrum = front.fit_transform([beats])[0]
    >>> float(front.frequencies_[spectrum.argmax()])
    50.0
    """

    def __init__(
        self,
        rate: float = 1.0,
        band: tuple[float, float] | None = None,
        highest: float | None = None,
        length: int | None = None,
        hop: int | None = None,
        window: str = "hann",
        decibel: bool = True,
    ) -> None:
        self.rate = rate
        self.band = band
        self.highest = highest
        self.length = length
        self.hop = hop
        self.window = window
        self.decibel = decibel

    def _prepare(self, samples: int) -> None:
        low, high = (0.0, self.rate / 2) if self.band is None else self.band
        _check_range(self, "a band", low, high)
        whole = rfftfreq(samples, 1 / self.rate)
        self._inside = (whole >= low) & (whole <= high) & (whole > 0)
        super()._prepare(samples)
        if self.highest is not None:
            _check_range(self, "highest", 0.0, self.highest)
            self.frequencies_ = self.frequencies_[self.frequencies_ <= self.highest]

    def _power(self, X: Array) -> Array:
        within = irfft(np.where(self._inside, rfft(X, axis=1), 0), n=X.shape[1], axis=1)
        envelope = np.abs(hilbert(within, axis=1))
        centred = envelope - envelope.mean(axis=1, keepdims=True)
        return self._density(centred)[:, : len(self.frequencies_)]


def mel_bank(frequencies: Array, edges: Array) -> Array:
    """Triangles over `frequencies`, each from one of `edges` over the next to the one after: a row a triangle."""
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.clip(
        np.minimum((frequencies - left) / (centre - left), (right - frequencies) / (right - centre)), 0, None
    )
    empty = np.flatnonzero(bank.sum(axis=1) == 0)
    bank[empty, np.abs(frequencies - centre[empty]).argmin(axis=1)] = 1
    return bank


def _mel(hertz: float) -> float:
    return 2595 * np.log10(1 + hertz / 700)


def _hertz(mel: Array) -> Array:
    return 700 * (10 ** (mel / 2595) - 1)


def _check_range(part: RowSpectra, what: str, low: float, high: float) -> None:
    if not 0 <= low < high <= part.rate / 2:
        raise ConfigError(
            f"{type(part).__name__} needs {what} between 0 and half the rate, {part.rate / 2:g} Hz, however: {low!r} "
            f"to {high!r}. Frequencies beyond are not in the signal."
        )
