"""Views: what looks at a series, over windows of its own length."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Part
from anomaly_ae.scoring.linear import Mahalanobis, PrincipalComponents, PrincipalNeighbours
from anomaly_ae.scoring.scorers import Scorer

__all__ = ["View"]

BRIEF = 8  # rows of the windows that find what is short
ROWS_A_CELL = 10  # of such a window, so that relations among its cells are no chance


class View(Part):
    r"""A scorer that looks at windows of its own length, and how channels become a row's score.

    .. math:: s_t = \sum_{c \in \text{top } k} -\log \hat P(E_c \ge e_{ct})

    where :math:`e_{ct}` is what the scorer blames on channel `c` at row `t`, and the tail probability is the channel's
    own over held-out rows (see `Fused`): a channel that is always noisy needs more to be strange. How fast tails fall
    beyond their .9 quantile is estimated for all channels together as far as there are few independent windows. With
    `channels="all"` the scorer's own score counts, whatever it blames on whom.

    Parameters
    ----------
    scorer : scorer
        What judges windows.
    window : int >= 1, float in (0, 1) or None, default=None
        Rows a window, or its share of the detector's; `None` is the detector's. Where there are few rows to learn from,
        at most a sixth of them. A scorer that reads the net has the detector's.
    channels : {"all"} or int >= 1, default="all"
        How many channels count, the strangest ones.
    of : {"measured", "all"}, default="measured"
        Channels that windows hold: measured ones, or flags (booleans, text, channels of 0 and 1 alone) as well, if they
        took either state in six stretches of rows or more. Where none is measured, all. A scorer that reads the net
        looks at measured ones.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Garg et al. (2021), An evaluation of anomaly detection and diagnosis in multivariate time series, arXiv:2109.11428.

    Examples
    --------
    >>> from anomaly_ae import Mahalanobis, View
    >>> View(Mahalanobis(), window=16, channels=1)
    View(channels=1, scorer=Mahalanobis(), window=16)
    """

    def __init__(
        self, scorer: Any = None, window: float | None = None, channels: str | int = "all", of: str = "measured"
    ) -> None:
        self.scorer = scorer
        self.window = window
        self.channels = channels
        self.of = of

    def length(self, window: int, longest: int) -> int:
        """Rows a window, where the detector's has so many and none is to be longer than `longest`."""
        if self.window is None:
            return window
        return min(int(self.window) if self.window >= 1 else max(1, round(self.window * window)), longest)

    def check(self) -> None:
        """Refuse hyperparameters that are out of range."""
        if not isinstance(self.scorer, Scorer):
            raise ConfigError(f"View needs a scorer, however: {self.scorer!r}. Give one.")
        number = isinstance(self.window, Real) and not isinstance(self.window, bool)
        whole = isinstance(self.window, Integral)
        if self.window is not None and not (number and (self.window >= 1 if whole else 0 < self.window < 1)):
            raise ConfigError(
                f"View needs a window of 1 row or more, or a share of the detector's below 1, however: {self.window!r}."
                " Use None for all of it."
            )
        if self.window is not None and self.scorer.reads_net:
            raise ConfigError(
                f"View needs window=None where its scorer reads the net, however: {self!r}. The net's windows are as "
                "long as `window` of the detector."
            )
        if self.of not in ("measured", "all") or (self.of == "all" and self.scorer.reads_net):
            raise ConfigError(
                f'View needs of="measured", or "all" where its scorer does not read the net, however: {self!r}. Leave '
                "it out."
            )
        if self.channels != "all" and (not isinstance(self.channels, Integral) or self.channels < 1):
            raise ConfigError(f'View needs channels to be "all" or 1 or more, however: {self.channels!r}. Try 1.')


def usual_views(measured: int, cells: int, rows: int) -> list[View]:
    """The views that look at so many measured channels unless others are asked for.

    `cells` are those of all channels that vary, flags too, and there are so many rows to learn from.
    """
    views = [
        View(PrincipalComponents(keep=0.99, inside=False)),
        View(PrincipalNeighbours()),  # next to it, for both need the same eigenvectors
        View(PrincipalComponents(keep=0.9, inside=False), window=24, channels=5),
    ]
    if measured > 1:
        views.append(View(Mahalanobis(ridge=1e-3), window=32, channels=1))
    else:
        views.append(View(PrincipalNeighbours(), window=0.5))
        views.append(View(PrincipalComponents(keep=0.95, inside=False), window=0.25, channels=5))
    if cells > 1 and rows >= ROWS_A_CELL * BRIEF * cells:
        views.append(View(Mahalanobis(ridge=1e-3), window=BRIEF, channels=1, of="all"))
        if cells > measured:  # a flag goes with the rest in ways that are not linear
            views.append(View(PrincipalNeighbours(), window=1, of="all"))
    return views
