"""Codes of rows, rows of codes, and new rows: what the first net of a detector makes of its columns."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from anomaly_ae.columns import ColumnsMixin, as_frame
from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.folds import Fold
from anomaly_ae.nn.core import Pass, codes, kl

Array = NDArray[np.float64]
ACTIVE = 0.01  # variance of a latent's means
MOST = 512  # rows whose codes are compared with each other


class RepresentationMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ColumnsMixin):
    """`transform`, `inverse_transform`, `reconstruct` and `sample`."""

    folds_: list[Fold]

    def transform(self, X: ArrayLike) -> Array:
        """Codes of rows, `(n, code)`."""
        rows = self._checked(X)
        return self.folds_[0].read(rows, lambda p: codes(p.levels))

    def inverse_transform(self, X: ArrayLike) -> Array | pd.DataFrame:
        """Rows that codes `X` `(n, code)` stand for, `(n, n_features)`: a table where some columns are no numbers."""
        check_is_fitted(self)
        codes: Array = check_array(X, dtype=np.float64)
        if codes.shape[1] != self._n_features_out:
            raise DataError(
                f"{type(self).__name__} needs codes of {self._n_features_out} columns, however: {codes.shape[1]}. "
                "Give what transform returned."
            )
        return self._as_given(self.folds_[0].decode(codes))

    def reconstruct(self, X: ArrayLike) -> Array | pd.DataFrame:
        """Rows as the model would expect them, `(n, n_features)`; without gaps, `inverse_transform(transform(X))`."""
        X = as_frame(X)
        rows = self._checked(X)
        return self._as_given(self.folds_[0].reconstruct(rows), getattr(X, "index", None))

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
        condition: ArrayLike | None = None,
    ) -> Array | pd.DataFrame:
        """New rows like the normal ones, `(n_samples, n_features)`.

        Where some columns are a condition (`Conditional`), they are those of the rows `condition`, in turns; what
        these hold in other columns counts for nothing.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 0:
            raise ConfigError(f"sample needs a whole number of rows, however: {n_samples!r}. Try 10.")
        fold, given = self.folds_[0], None if condition is None else self._checked(condition)
        if given is not None and not len(fold.encoding.context):
            raise ConfigError(
                f"sample needs a model with a condition, however: {self!r} has none. Fit one with "
                "preprocessing=Conditional([...]), or leave the condition out."
            )
        seed = check_random_state(random_state).randint(2**31 - 1)
        return self._as_given(fold.sample(n_samples, seed, given))

    def latents(self, X: ArrayLike) -> pd.DataFrame:
        r"""What each latent variable tells of rows `X`: one line each.

        `mean` and `spread`, of the codes of rows; `active`, a spread above 0.01 (Burda et al. 2016, arXiv:1509.00519);
        and of a VAE `noise`, the root mean square of the posteriors' scales; `kl`, the mean divergence from the prior
        in nats (missing where a prior takes the code as a whole); and `information`, what the latent knows of the row
        it is of, :math:`E[\log q(z_j | x) - \log q(z_j)]` in nats, estimated by at most 512 of the rows, evenly
        spread: at most the logarithm of their number.
        """
        rows = self._checked(X)
        told = self.folds_[0].read(rows, _of_latents)
        mean, noise, kl = np.split(told, 3, axis=1)
        spread = mean.var(axis=0)
        latents = pd.DataFrame({"mean": mean.mean(axis=0), "spread": spread, "active": spread > ACTIVE})
        if not np.isnan(noise).all():
            latents["noise"], latents["kl"] = np.sqrt(np.mean(noise**2, axis=0)), kl.mean(axis=0)
            some = np.linspace(0, len(rows) - 1, min(len(rows), MOST)).astype(np.intp)
            latents["information"] = [_information(*both) for both in zip(mean[some].T, noise[some].T, strict=True)]
        return latents.rename_axis("latent")

    @property
    def _n_features_out(self) -> int:
        return int(self.folds_[0].net.latent.width)


def _of_latents(p: Pass) -> Tensor:
    """Of each latent the code, its posterior's scale and its divergence, NaN where there is none: `(n, 3 code)`."""
    z = codes(p.levels)
    known = all(level.q is not None for level in p.levels)
    none = torch.full_like(z, torch.nan)
    noise = torch.cat([level.q.stddev for level in p.levels if level.q is not None], dim=1) if known else none
    apart = torch.cat([kl(level) for level in p.levels], dim=1) if known else none
    return torch.cat([z, noise, apart if apart.shape == z.shape else none], dim=1)


def _information(mean: Array, noise: Array) -> float:
    """Mutual information of a latent and the row, from posteriors `(n,)`: E KL(q(z|x) || q(z)), by quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(9)
    z = mean[:, None] + noise[:, None] * points
    own = -0.5 * points**2 - np.log(noise)[:, None]
    off = (z[:, :, None] - mean) / noise
    mixed = logsumexp(-0.5 * off**2 - np.log(noise), axis=2) - np.log(len(mean))
    return float(((own - mixed) @ weights).mean() / weights.sum())
