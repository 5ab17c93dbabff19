"""Penalties for rows some of which are anomalies: named by labels or not, they do not train as others do, or repel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anomaly_ae.errors import IncompatiblePartsError
from anomaly_ae.nn.core import LEFT_OUT, Pass, Sizes, present, row_sum, shared_out, untold
from anomaly_ae.nn.terms import Term
from anomaly_ae.ranges import NOT_ALL, POSITIVE, SHARE, check_range

__all__ = ["OutlierExposure", "PullPush", "Trimmed"]

TINY = 1e-3  # least mean error of a row that is to be rebuilt badly


class Instead(Term):
    """Some rows pay something else in place of their reconstruction, and a scale that is learned is not theirs."""

    needs = {"backbone": "trained encoder"}
    deals_with = "what rows pay in place of their reconstruction"

    def join(self, net: Any) -> None:
        for piece in net.divergence.pieces() if net.divergence is not None else ():
            if getattr(piece, "pays_for_cells", False):
                raise IncompatiblePartsError(
                    f"{type(self).__name__} needs a reconstruction that is paid for once, however: {piece!r} pays for "
                    "it as well. Leave one of them out."
                )

    def forward(self, p: Pass) -> Tensor:
        cost = p.net.reconstruction(p)
        rows, price = self.priced(p, cost)
        p.notes[LEFT_OUT] = rows
        return torch.where(rows, price - cost, 0.0)

    def priced(self, p: Pass, cost: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows these are, by what reconstructions `cost`, and what they pay: `(n,)` each."""
        raise NotImplementedError


class Trimmed(Instead):
    r"""The rows that are rebuilt worst, a share of each batch, do not train: the trimmed autoencoder.

    .. math:: t_i = \begin{cases} \log p(x_i|z_i) & i \in T \\ 0 & \text{else} \end{cases}

    with `T` the share of the batch, not all of it, whose reconstruction costs most by the cell that is present. These
    rows pay nothing for their reconstruction, and a scale that is learned does not learn from them. Of a batch of a few
    rows it may be none.

    For rows to learn from of which about this share are anomalies. It helps where anomalies are hard to rebuild from
    the first steps on; where they are many and alike, they look normal. Calibrate rows are not trimmed, so that no more
    normal rows than promised are alarms, and rather fewer. Scorers that remember rows remember all of them: ask the
    net alone, by `effort="fast"` say.

    **Shape**: a pass over `n` rows to `(n,)`.

    Parameters
    ----------
    share : float in [0, 1), default=0.1
        How many of the rows.

    Raises
    ------
    ConfigError
        At `fit`, when the share is out of range.
    IncompatiblePartsError
        At `fit`, when the encoder is drawn, not trained, or a divergence pays for the reconstruction as well.

    References
    ----------
    Rousseeuw (1984), Least median of squares regression, JASA 79 (least trimmed squares);
    Xia et al. (2015), Learning discriminative reconstructions for unsupervised outlier removal, ICCV.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Trimmed
    >>> AutoencoderDetector(effort="fast", penalty=Trimmed(0.05)).penalty
    Trimmed(share=0.05)
    """

    def __init__(self, share: float = 0.1) -> None:
        self.share = share

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_ALL, "share")

    def priced(self, p: Pass, cost: Tensor) -> tuple[Tensor, Tensor]:
        there = _there(p)
        rows = self._worst((cost / there.clamp(min=1)).masked_fill(there == 0, -torch.inf).detach())
        return rows, self.instead(p, cost, there)

    def instead(self, p: Pass, cost: Tensor, there: Tensor) -> Tensor:
        """What the worst rows pay in place of their `cost`, with so many cells `there`: `(n,)`."""
        return torch.zeros_like(cost)

    def _worst(self, cost: Tensor) -> Tensor:
        """The rows that cost most, `(n,)`: of so many the share, and at least one is none of them."""
        most = min(round(self.share * len(cost)), len(cost) - 1)
        return torch.zeros_like(cost).scatter(0, cost.topk(most).indices, 1.0).bool()


class OutlierExposure(Trimmed):
    r"""The rows that are rebuilt worst, a share of each batch, are taken for anomalies: latent outlier exposure.

    .. math:: t_i = \begin{cases} c \, (1 / e_i + \log p(x_i|z_i)) & i \in T \\ 0 & \text{else} \end{cases}

    with `T` as of `Trimmed` and :math:`e_i` the mean error of a row's cells, the square of what a number is off (of
    other kinds, what `error` of their likelihood says). Where :math:`c` is 1 such a row pays :math:`1 / e_i` in place
    of its reconstruction: the less, the worse it is rebuilt. `Trimmed` leaves these rows alone, this drives them away,
    and with them normal rows that are merely large. Else as `Trimmed`.

    **Shape**: a pass over `n` rows to `(n,)`.

    Parameters
    ----------
    share : float in [0, 1), default=0.1
        How many of the rows.
    certainty : float in [0, 1], default=1
        :math:`c`, how sure it is that they are anomalies; at 0.5 they train both ways alike.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.
    IncompatiblePartsError
        At `fit`, when the encoder is drawn, not trained, or a divergence pays for the reconstruction as well.

    References
    ----------
    Qiu et al. (2022), Latent outlier exposure for anomaly detection with contaminated data, arXiv:2202.08088.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, OutlierExposure
    >>> AutoencoderDetector(effort="fast", penalty=OutlierExposure(0.05, certainty=0.5)).penalty
    OutlierExposure(certainty=0.5, share=0.05)
    """

    def __init__(self, share: float = 0.1, certainty: float = 1.0) -> None:
        super().__init__(share)
        self.certainty = certainty

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        check_range(self, SHARE, "certainty")

    def instead(self, p: Pass, cost: Tensor, there: Tensor) -> Tensor:
        return torch.lerp(cost, 1 / _mean_error(p, there).clamp(min=TINY), self.certainty)


class PullPush(Instead):
    r"""Known anomalies are to be rebuilt badly, while all other rows pull the net towards them.

    .. math:: t_i = \begin{cases} w \max(0, m - e_i) + \log p(x_i|z_i) & y_i = -1 \\ 0 & \text{else} \end{cases}

    with :math:`e_i` the mean error of a row's cells, the square of what a number is off (of other kinds, what `error`
    of their likelihood says): a known anomaly pays for what it is rebuilt better than :math:`m` in place of its
    reconstruction. A scale that is learned does not learn from it. Rows of which nobody knows are taken for normal.

    **Shape**: a pass over `n` rows to `(n,)`.

    Parameters
    ----------
    margin : float > 0 (variances of columns), default=2
        :math:`m`, from which error on a known anomaly is strange enough.
    weight : float > 0 (nats), default=1
        :math:`w`, which is shared out so that all known anomalies of a batch together count as all other rows do.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range, or no row is known for an anomaly.
    IncompatiblePartsError
        At `fit`, when the encoder is drawn, not trained, or a divergence pays for the reconstruction as well.

    References
    ----------
    Ruff et al. (2020), Deep semi-supervised anomaly detection, arXiv:1906.02694;
    Hadsell, Chopra and LeCun (2006), Dimensionality reduction by learning an invariant mapping, CVPR (the hinge).

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, PullPush
    >>> AutoencoderDetector(effort="fast", penalty=PullPush(margin=4)).penalty
    PullPush(margin=4)
    """

    needs_labels = True

    def __init__(self, margin: float = 2.0, weight: float = 1.0) -> None:
        self.margin = margin
        self.weight = weight

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "margin", "weight")

    def priced(self, p: Pass, cost: Tensor) -> tuple[Tensor, Tensor]:
        if p.batch.label is not None:
            known = p.batch.label == 1
        elif self.training:
            raise untold(self)
        else:
            known = torch.zeros_like(cost, dtype=torch.bool)
        return known, self.weight * shared_out(known) * (self.margin - _mean_error(p, _there(p))).clamp(min=0)


def _there(p: Pass) -> Tensor:
    """How many cells rows have: `(n,)`."""
    return row_sum(present(p, torch.ones_like(p.batch.x)))


def _mean_error(p: Pass, there: Tensor) -> Tensor:
    """The mean error of a row's cells, of which so many are `there`: `(n,)`."""
    return row_sum(present(p, p.net.likelihood.error(p.px, p.batch.x, 2.0))) / there.clamp(min=1)
