"""What codes tell of the factors or classes that rows are made by: a latent a factor, or clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score, mutual_info_score
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import check_array

from anomaly_ae.errors import DataError

Array = NDArray[np.float64]
BINS = 20  # of a latent, and of a factor that takes more values
TINY = 1e-300
CLASSES = 20  # a factor with more values is a measure, not a class


def mig(codes: ArrayLike, factors: ArrayLike) -> float:
    r"""Mutual information gap: how much more the best latent tells of a factor than the second best.

    .. math:: \frac{1}{K} \sum_k \frac{1}{H(v_k)} \left(I(z_{j_k}; v_k) - \max_{j \ne j_k} I(z_j; v_k)\right)

    Latents, and factors of more than 20 values, are cut into 20 bins of equal width. In [0, 1]; 1 where each factor is
    known by one latent alone, about 0 of random codes.

    **Shape**: codes `(n, latents)`, factors `(n, factors)`.

    References
    ----------
    Chen et al. (2018), Isolating sources of disentanglement in VAEs, arXiv:1802.04942.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae.evaluation import mig
    >>> factors = np.random.default_rng(0).integers(0, 5, (1000, 2))
    >>> round(mig(factors, factors), 1)
    1.0
    """
    z, v = _pair(codes, factors)
    binned = [_binned(column, BINS) for column in z.T]
    gaps = []
    for factor in v.T:
        classes = _classes(factor)
        told = [mutual_info_score(classes, column) for column in binned]
        gaps.append(_gap(told) / mutual_info_score(classes, classes))
    return float(np.mean(gaps))


def sap(codes: ArrayLike, factors: ArrayLike) -> float:
    r"""Separated attribute predictability: how much better the best latent predicts a factor than the second best.

    .. math:: \frac{1}{K} \sum_k \left(S_{j_k k} - \max_{j \ne j_k} S_{jk}\right)

    with :math:`S_{jk}` the squared correlation of latent and factor, and of factors of at most 20 values the balanced
    accuracy of the best thresholds on that latent; what a single latent is compared with is chance. In [0, 1].

    References
    ----------
    Kumar et al. (2018), Variational inference of disentangled latent concepts, arXiv:1711.00848.
    """
    z, v = _pair(codes, factors)
    gaps = []
    for factor in v.T:
        if len(np.unique(factor)) > CLASSES:
            told = [_correlation(column, factor) ** 2 for column in z.T]
        else:
            classes = _classes(factor)
            told = [1 / len(np.unique(classes)), *(_by_thresholds(column, classes) for column in z.T)]
        gaps.append(_gap(told))
    return float(np.mean(gaps))


def dci(codes: ArrayLike, factors: ArrayLike, random_state: int = 0) -> dict[str, float]:
    r"""Disentanglement, completeness and informativeness, by what random forests find important.

    .. math:: D = \sum_j \rho_j \left(1 - H_K(P_{j \cdot})\right), \quad
              C = \frac{1}{K} \sum_k \left(1 - H_J(\tilde P_{\cdot k})\right)

    with :math:`P` the importance of latent `j` for factor `k` as shares of the latent's, :math:`\tilde P` as shares of
    the factor's, :math:`\rho_j` the latent's part in all importance, and :math:`H_K` the entropy to base `K`. `I`
    is the share of rows left out of its bag that a forest tells right, or the R² of a factor of more than 20 values.
    All are at most 1.

    References
    ----------
    Eastwood and Williams (2018), A framework for the quantitative evaluation of disentangled representations, ICLR.
    """
    z, v = _pair(codes, factors)
    importance, informative = np.empty((z.shape[1], v.shape[1])), []
    for k, factor in enumerate(v.T):
        measured = len(np.unique(factor)) > CLASSES
        forest = (RandomForestRegressor if measured else RandomForestClassifier)(
            100, min_samples_leaf=3, max_features=None, oob_score=True, random_state=random_state
        )
        forest.fit(z, factor if measured else _classes(factor))
        importance[:, k] = forest.feature_importances_
        informative.append(forest.oob_score_)
    parts = importance.sum(axis=1)
    return {
        "disentanglement": float(_purity(importance) @ parts / max(parts.sum(), TINY)),
        "completeness": float(_purity(importance.T).mean()),
        "informativeness": float(np.mean(informative)),
    }


def mcc(codes: ArrayLike, sources: ArrayLike, *, ranks: bool = False) -> float:
    """Mean correlation coefficient: absolute correlations of latents with the sources that they are matched to.

    The matching of the largest sum is taken; with `ranks` they are Spearman's, which a monotone map leaves alone. In
    [0, 1]; 1 where sources are found but for order, sign and scale.

    References
    ----------
    Hyvärinen and Morioka (2016), Unsupervised feature extraction by time-contrastive learning, arXiv:1605.06336.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae.evaluation import mcc
    >>> sources = np.random.default_rng(0).normal(size=(500, 3))
    >>> round(mcc(-2 * sources[:, ::-1], sources), 6)
    1.0
    """
    z, s = _pair(codes, sources)
    if z.shape[1] < s.shape[1]:
        raise DataError(
            f"mcc needs a latent a source, however: {z.shape[1]} and {s.shape[1]}. Give codes of as many "
            "columns or more."
        )
    if ranks:
        z, s = rankdata(z, axis=0), rankdata(s, axis=0)
    found = np.array([[abs(_correlation(column, source)) for source in s.T] for column in z.T])
    return float(found[linear_sum_assignment(-found)].mean())


def cluster_agreement(codes: ArrayLike, classes: ArrayLike, random_state: int = 0) -> float:
    """Adjusted Rand index of k-means on codes, as many clusters as there are classes: 1 of the same, 0 by chance.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae.evaluation import cluster_agreement
    >>> classes = np.repeat([0, 1, 2], 50)
    >>> codes = np.eye(3)[classes] + np.random.default_rng(0).normal(0, 0.01, (150, 3))
    >>> cluster_agreement(codes, classes)
    1.0
    """
    z, named = check_array(codes, dtype=np.float64), np.asarray(classes)
    clusters = KMeans(len(np.unique(named)), n_init=10, random_state=random_state).fit_predict(z)
    return float(adjusted_rand_score(named, clusters))


def _pair(codes: ArrayLike, factors: ArrayLike) -> tuple[Array, Array]:
    z, v = check_array(codes, dtype=np.float64), check_array(factors, dtype=np.float64)
    if len(z) != len(v):
        raise DataError(f"Codes and factors need to be of the same rows, however: {len(z):,} and {len(v):,}. Give all.")
    if constant := [k for k, factor in enumerate(v.T) if factor.min() == factor.max()]:
        raise DataError(f"A factor needs two values or more, however: columns {constant} have one. Leave them out.")
    return z, v


def _by_thresholds(values: Array, classes: NDArray[np.intp]) -> float:
    tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(classes)), class_weight="balanced", random_state=0)
    return float(balanced_accuracy_score(classes, tree.fit(values[:, None], classes).predict(values[:, None])))


def _binned(values: Array, bins: int) -> NDArray[np.intp]:
    return np.digitize(values, np.histogram_bin_edges(values, bins)[1:-1])


def _classes(factor: Array) -> NDArray[np.intp]:
    values, classes = np.unique(factor, return_inverse=True)
    return classes if len(values) <= CLASSES else _binned(factor, BINS)


def _gap(told: list[float]) -> float:
    second, best = np.sort([0.0, *told])[-2:]
    return float(best - second)


def _correlation(one: Array, other: Array) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if scale else 0.0


def _purity(importance: Array) -> Array:
    """Of each row how far it is from being spread evenly, `(rows,)`; 0 where there is nothing to spread."""
    whole = importance.sum(axis=1, keepdims=True)
    if importance.shape[1] == 1:
        return (whole[:, 0] > 0).astype(np.float64)
    shares = importance / np.maximum(whole, TINY)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)
    return np.where(whole[:, 0] > 0, 1 - entropy / np.log(importance.shape[1]), 0.0)
