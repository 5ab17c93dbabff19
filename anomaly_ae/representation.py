"""Codes of rows, rows of codes, and new rows: what the first net of a detector makes of its columns."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr, logsumexp
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

        Of a likelihood whose scale was set, as an autoencoder's by default, they are without noise: what the decoder
        makes of new codes. Where rows are to spread as normal ones do, learn it (`LearnedNormal`, as a VAE does).

        Where some columns are a condition (`Conditional`), they are those of the rows `condition`, in turns: a table
        or an array of all columns, or a table of those that are a condition. Other columns count for nothing.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 0:
            raise ConfigError(f"sample needs a whole number of rows, however: {n_samples!r}. Try 10.")
        given = None if condition is None else self._contexts(condition)
        seed = check_random_state(random_state).randint(2**31 - 1)
        return self._as_given(self.folds_[0].sample(n_samples, seed, given))

    def _contexts(self, condition: ArrayLike) -> Array:
        """Codes of rows of which the columns that are a condition count, and nothing else is known."""
        places = self.folds_[0].encoding.context
        if not len(places):
            raise ConfigError(
                f"sample needs a model with a condition, however: {self!r} has none. Fit one with "
                "preprocessing=Conditional([...]), or leave the condition out."
            )
        table, columns = as_frame(condition), self.contract_.columns
        wanted = [columns[place].name for place in places]
        if not isinstance(table, pd.DataFrame):
            codes = self._checked(condition)[:, places]
        elif missing := [name for name in wanted if name not in table]:
            raise ConfigError(f"sample needs the columns {wanted}, however: {missing} are not there. Add them.")
        else:
            codes = np.column_stack([columns[place].codes(table[columns[place].name]) for place in places])
        if not len(codes):
            raise ConfigError("sample needs contexts, however: condition has no rows. Give one or more.")
        given = np.full((len(codes), len(columns)), np.nan)
        given[:, places] = codes
        return given

    def latents(self, X: ArrayLike) -> pd.DataFrame:
        r"""What each latent variable tells of rows `X`: one line each.

        `level`, of a hierarchy, the finest first; `mean` and `spread`, of the codes of rows of the first net; `active`,
        a spread above 0.01 (Burda et al. 2016, arXiv:1509.00519); and of a VAE `noise`, the root mean square of the
        posteriors' scales; `kl`, the mean divergence from the prior in nats (missing where several latents have one
        together); and `information`, what the latent knows of the row it is of,
        :math:`E[\log q(z_j | x) - \log q(z_j)]` in nats, estimated by at most 512 of the rows, evenly spread: at most
        the logarithm of their number.
        """
        rows = self._checked(X)
        told = self.folds_[0].read(rows, _of_latents)
        mean, noise, kl, level = np.split(told, 4, axis=1)
        spread = mean.var(axis=0)
        latents = pd.DataFrame({"mean": mean.mean(axis=0), "spread": spread, "active": spread > ACTIVE})
        if level.any():
            latents.insert(0, "level", level[0].astype(int) + 1)
        if not np.isnan(noise).all():
            latents["noise"], latents["kl"] = np.sqrt(np.mean(noise**2, axis=0)), kl.mean(axis=0)
            some = np.linspace(0, len(rows) - 1, min(len(rows), MOST)).astype(np.intp)
            of = _information if "normal posterior" in self.folds_[0].net.latent.offers else _of_switch
            latents["information"] = [of(*both) for both in zip(mean[some].T, noise[some].T, strict=True)]
        return latents.rename_axis("latent")

    @property
    def _n_features_out(self) -> int:
        return int(self.folds_[0].net.latent.width)


def _of_latents(p: Pass) -> Tensor:
    """Of each latent the code, its posterior's scale, its divergence, NaN without one, and its level: `(n, 4 code)`."""
    told = []
    for number, level in enumerate(p.levels):
        z, none = level.z, torch.full_like(level.z, torch.nan)
        apart = none if level.q is None else kl(level)
        noise = none if level.q is None else level.q.stddev
        told.append((z, noise, apart if apart.shape == z.shape else none, torch.full_like(z, number)))
    return torch.cat([values for kind in zip(*told, strict=True) for values in kind], dim=1)


def _information(mean: Array, noise: Array) -> float:
    """Mutual information of a latent and the row, from posteriors `(n,)`: E KL(q(z|x) || q(z)), by quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(9)
    z = mean[:, None] + noise[:, None] * points
    own = -0.5 * points**2 - np.log(noise)[:, None]
    off = (z[:, :, None] - mean) / noise
    mixed = logsumexp(-0.5 * off**2 - np.log(noise), axis=2) - np.log(len(mean))
    return float(((own - mixed) @ weights).mean() / weights.sum())


def _of_switch(chance: Array, _: Array) -> float:
    """The same of a cell that is 0 or 1, from its chances of 1 `(n,)`: exact."""
    apart = entr(chance) + entr(1 - chance)
    return float(entr(chance.mean()) + entr(1 - chance.mean()) - apart.mean())
