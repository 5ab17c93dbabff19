"""Penalties for rows some of which are anomalies that nobody has named: those that fit worst do not train, or repel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anomaly_ae.errors import IncompatiblePartsError
from anomaly_ae.nn.core import LEFT_OUT, Pass, Sizes, present, row_sum
from anomaly_ae.nn.terms import Term
from anomaly_ae.ranges import NOT_ALL, SHARE, check_range

__all__ = ["OutlierExposure", "Trimmed"]

TINY = 1e-3  # least mean error of a row that is to be rebuilt badly


class Trimmed(Term):
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

    needs = {"backbone": "trained encoder"}
    deals_with = "the rows that are rebuilt worst"

    def __init__(self, share: float = 0.1) -> None:
        self.share = share

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_ALL, "share")

    def join(self, net: Any) -> None:
        for piece in net.divergence.pieces() if net.divergence is not None else ():
            if getattr(piece, "pays_for_cells", False):
                raise IncompatiblePartsError(
                    f"{type(self).__name__} needs a reconstruction that is paid for once, however: {piece!r} pays for "
                    "it as well. Leave one of them out."
                )

    def forward(self, p: Pass) -> Tensor:
        cost = p.net.reconstruction(p)
        there = row_sum(present(p, torch.ones_like(p.batch.x)))
        worst = self._worst((cost / there.clamp(min=1)).masked_fill(there == 0, -torch.inf).detach())
        p.notes[LEFT_OUT] = worst
        return torch.where(worst, self.instead(p, cost, there) - cost, 0.0)

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
        mean = row_sum(present(p, p.net.likelihood.error(p.px, p.batch.x, 2.0))) / there.clamp(min=1)
        return torch.lerp(cost, 1 / mean.clamp(min=TINY), self.certainty)
