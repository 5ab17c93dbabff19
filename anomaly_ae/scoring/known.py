"""A scorer that is told some anomalies: what a few labels are good for."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_ae.nn.core import Pass, Sizes, untold
from anomaly_ae.ranges import COUNT, POSITIVE, check_range
from anomaly_ae.scoring.fusion import Fused
from anomaly_ae.scoring.neighbours import TINY, Remembering, means
from anomaly_ae.scoring.scorers import Scorer, weights_of
from anomaly_ae.scoring.search import chunks

__all__ = ["KnownAnomalies"]

SOME = 1000  # remembered rows that say how far rows lie apart


class KnownAnomalies(Remembering):
    r"""How much nearer a row is to an anomaly that is known than to normal rows.

    .. math:: s(x) = \frac{m_N(x) + \epsilon}{m_A(x) + \epsilon}, \qquad
        m(x) = \frac1k \sum_{j=1}^k \lVert u(x) - u(x_{(j)}) \rVert

    with :math:`m_N` the mean distance to the nearest of the normal rows that the detector remembers, :math:`m_A` to the
    nearest of the anomalies that `fit` was told, both as `Neighbours` takes them, and :math:`\epsilon` a share of what
    normal rows lie apart. As `labels=KnownAnomalies()` it joins whatever else scores: what resembles known anomalies
    becomes stranger, and what is strange otherwise counts for a little less beside it. They train no net and are no
    calibrate rows, so that the promise of false alarms is as before. The memory holds them, and the model's folder.

    **Shape**: a pass over `n` rows to `(n,)`, each above 0.

    Parameters
    ----------
    weight : float > 0, default=0.5
        How much its nats count beside those of all others that it joins: 1 is as much as all of them together. More is
        better where all anomalies are of the kinds that are known, and worse where others come.
    k : int >= 1, default=3
        How many neighbours among each.
    softness : float > 0, default=1
        :math:`\epsilon` in units of the median distance of a remembered row from its neighbours.
    space, bend, exact, sample
        As of `Neighbours`.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range, or no row is known for an anomaly.

    References
    ----------
    Cover and Hart (1967), Nearest neighbor pattern classification, IEEE Transactions on Information Theory 13;
    Han et al. (2022), ADBench, arXiv:2206.09426 (what a few labels are worth).

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import AutoencoderDetector, KnownAnomalies
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(500, 4)), np.ones(500)
    >>> X[:5], y[:5] = 1.5 + 0.1 * rng.normal(size=(5, 4)), -1  # a corner that normal rows reach as well
    >>> det = AutoencoderDetector(labels=KnownAnomalies(), random_state=0).fit(X, y)
    >>> det.predict([[1.5, 1.5, 1.5, 1.4], [-1.5, -1.5, -1.5, -1.4]])
    array([-1,  1])
    """

    needs_labels = True
    p = 2.0

    anomalies: Tensor
    room: Tensor

    def __init__(
        self,
        weight: float = 0.5,
        k: int = 3,
        softness: float = 1.0,
        space: str = "input",
        bend: float | None = 4.0,
        exact: int = 20_000,
        sample: int = 20_000,
    ) -> None:
        self.weight = weight
        self.k = k
        self.softness = softness
        self.space = space
        self.bend = bend
        self.exact = exact
        self.sample = sample

    def beside(self, scorer: Scorer) -> Fused:
        """The scorer that a detector has with these labels."""
        check_range(self, POSITIVE, "weight")
        fused = scorer if isinstance(scorer, Fused) else Fused([scorer])
        weights = weights_of(fused)
        return Fused([*fused.scorers, self], [*weights, self.weight * sum(weights)], fused.guards)

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        check_range(self, COUNT, "k")
        check_range(self, POSITIVE, "softness")
        self.register_buffer("anomalies", torch.zeros(0, 1))
        self.register_buffer("room", torch.ones(()))

    def teach(self, known: Pass) -> None:
        self.anomalies = self._cells(known).float().to(self.memory.dtype)  # as they will be stored

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        if not len(self.anomalies):
            raise untold(self)
        return super().learn(fit, validate)

    def _settle(self, memory: Tensor) -> None:
        super()._settle(memory)
        some = torch.linspace(0, len(memory) - 1, min(SOME, len(memory)), device=memory.device).round().long()
        k = self._count(len(memory))
        apart = self.searched(self.memory, self.p, k)(self.memory[some], k, some)[0].mean(1)
        self.room = (self.softness * apart.median()).clamp(min=TINY).to(memory.dtype)

    def _score(self, p: Pass, own: Tensor | None) -> Tensor:
        return self._ratio(p, own, self._resembled(p)[0])

    def _ratio(self, p: Pass, own: Tensor | None, like: Tensor) -> Tensor:
        normal = self._nearest(p, own)[0].mean(1)
        return (normal + self.room) / (like.mean(1).to(normal.dtype) + self.room)

    def _score_and_off(self, p: Pass) -> tuple[Tensor, Tensor]:
        """Scores, and how much nearer cells are to known anomalies than to normal rows, by their squares."""
        (distance, which, known), places = self._resembled(p), self._places(p)
        off, like = (
            (places - means(them.to(places.dtype), those)).square()
            for them, those in ((self.memory, self._nearest(p, None)[1]), (known, which))
        )
        return self._ratio(p, None, distance), (off - like).clamp(min=0).sqrt()

    def _resembled(self, p: Pass) -> tuple[Tensor, Tensor, Tensor]:
        """Distances to the nearest known anomalies, which they are, and where all of them stand."""
        known = self._placed(self.anomalies)
        k, places = min(self._count(0), len(known)), self._places(p)
        found = [torch.cdist(some, known).topk(k, largest=False) for some in chunks(places, len(known))]
        return torch.cat([near.values for near in found]), torch.cat([near.indices for near in found]), known
