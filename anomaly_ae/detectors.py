"""The two detectors by their defaults, and how they come back from a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from anomaly_ae import storage
from anomaly_ae.data.preprocessing import Preprocessing
from anomaly_ae.errors import ModelFolderError
from anomaly_ae.estimator import Detector
from anomaly_ae.folds import Fold
from anomaly_ae.keeping import recall
from anomaly_ae.nn.backbones import Dense, RandomFeatures
from anomaly_ae.nn.corruptions import GaussianNoise
from anomaly_ae.nn.discrete import Mixed
from anomaly_ae.nn.divergences import KL
from anomaly_ae.nn.latents import Gaussian, Point
from anomaly_ae.nn.likelihoods import LearnedNormal
from anomaly_ae.nn.priors import StandardNormal
from anomaly_ae.scoring.fusion import Fused, Largest
from anomaly_ae.scoring.linear import Mahalanobis
from anomaly_ae.scoring.neighbours import LocalDenoiser, Neighbours
from anomaly_ae.scoring.scorers import Scorer, StandardizedError
from anomaly_ae.scoring.thresholds import Conformal
from anomaly_ae.scoring.variational import NegativeELBO
from anomaly_ae.storage import below


def _efforts(own: Scorer, **fast: Any) -> dict[str, dict[str, Any]]:
    """Defaults of each effort: the net's own scorer, alone or beside others that know what it does not."""
    fused = [own, LocalDenoiser(), Neighbours(k=1), Neighbours(k=10, correction=0.5)]
    best = [own, LocalDenoiser(), LocalDenoiser(k=80), Neighbours(k=1, p=1), Neighbours(k=10, p=1, correction=0.5)]
    guards = [Largest(StandardizedError(shrinkage=0.5)), Largest(Mahalanobis()), Mahalanobis()]
    return {
        "fast": {"scorer": own, **fast},
        "default": {"scorer": Fused(fused, weights=[0.3, 2, 1, 1], guards=[*guards, Neighbours(correction=1)])},
        "best": {"scorer": Fused(best, weights=[0.3, 1, 1, 1, 1], guards=[*guards, Neighbours(p=1, correction=1)])},
    }


class AutoencoderDetector(Detector):
    __doc__ = f"""Anomaly detector that rebuilds rows from a code and scores what is lost.

    .. math:: s(x) = \\lVert x - D(E(x)) \\rVert^2 / 2 s^2

    By default a wide denoising autoencoder: overcomplete, so that normal rows of any shape are rebuilt, and trained
    to remove noise, so that nothing but normal rows is.

    Defaults: `preprocessing=Preprocessing()`, `backbone=Dense(expansion=2.5)`, `latent=Point()`, `likelihood=Mixed()`,
    `corruption=GaussianNoise()`, `threshold=Conformal()`, no prior and no divergence;
    `scorer=Fused([StandardizedError(), LocalDenoiser(), Neighbours(k=1), Neighbours(k=10, correction=0.5)],
    weights=[0.3, 2, 1, 1], guards=[Largest(StandardizedError(shrinkage=0.5)), Largest(Mahalanobis()), Mahalanobis(),
    Neighbours(correction=1)])`. With
    `effort="fast"` `backbone=RandomFeatures()` where the likelihood of numbers is a squared error,
    `corruption=GaussianNoise(0.5)`, `scorer=StandardizedError()`.

    {(Detector.__doc__ or "").split(chr(10), 2)[2].strip()}

    References
    ----------
    Vincent et al. (2008), Extracting and composing robust features with denoising autoencoders, ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import AutoencoderDetector
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 1)) + 0.1 * rng.normal(size=(200, 4))  # four sensors of one quantity
    >>> det = AutoencoderDetector(random_state=0).fit(X)
    >>> strange = [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 3.0, 1.0]]
    >>> det.predict(strange)
    array([ 1, -1])
    >>> det.explain(strange)[1].argmax()
    np.int64(2)
    """

    _defaults = {
        "max_epochs": 40,
        "learning_rate": 0.005,
        "preprocessing": Preprocessing(),
        "backbone": Dense(expansion=2.5),
        "latent": Point(),
        "likelihood": Mixed(),
        "corruption": GaussianNoise(),
        "threshold": Conformal(),
    }
    _by_effort = _efforts(StandardizedError(), backbone=RandomFeatures(), corruption=GaussianNoise(0.5), max_epochs=16)


class VAEDetector(Detector):
    __doc__ = f"""Anomaly detector that models normal rows with a variational autoencoder.

    .. math:: s(x) = -\\log p(x|z) + KL\\bigl(q(z|x) \\,\\|\\, p(z)\\bigr)

    By default the errors' scale is learned, so that the KL term is weighed right without tuning and stays alive.

    Defaults: `preprocessing=Preprocessing()`, `backbone=Dense(expansion=2.5)`, `latent=Gaussian(most=16)`,
    `prior=StandardNormal()` (none where the latent has its own), `divergence=KL()`,
    `likelihood=Mixed(numeric=LearnedNormal())`, `threshold=Conformal()`, no corruption;
    `scorer=Fused([NegativeELBO(), LocalDenoiser(), Neighbours(k=1), Neighbours(k=10, correction=0.5)],
    weights=[0.3, 2, 1, 1], guards=[Largest(StandardizedError(shrinkage=0.5)), Largest(Mahalanobis()), Mahalanobis(),
    Neighbours(correction=1)])`, and with `effort="fast"` `scorer=NegativeELBO()`.

    {(Detector.__doc__ or "").split(chr(10), 2)[2].strip()}

    References
    ----------
    Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114;
    Rybkin, Daniilidis and Levine (2021), arXiv:2006.13202 (learned scale).

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import VAEDetector
    >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ [[1, 1, 0], [0, 1, 1], [0, 0, 0.1]]
    >>> det = VAEDetector(random_state=0).fit(X)
    >>> det.p_values([[0.0, 0.0, 0.0], [9.0, -9.0, 0.0]]) < 0.05
    array([False,  True])
    """

    _defaults = {
        "max_epochs": 30,
        "learning_rate": 0.015,
        "preprocessing": Preprocessing(),
        "backbone": Dense(expansion=2.5),
        "latent": Gaussian(most=16),
        "prior": StandardNormal(),
        "divergence": KL(),
        "likelihood": Mixed(numeric=LearnedNormal()),
        "threshold": Conformal(),
    }
    least_steps = 10  # fewer leave codes of few rows half learned
    _by_effort = _efforts(NegativeELBO(), max_epochs=10, steps_per_epoch=25, learning_rate=0.02)


DETECTORS: dict[str, type[Detector]] = {"AutoencoderDetector": AutoencoderDetector, "VAEDetector": VAEDetector}


def restore(stored: storage.Stored, path: str | os.PathLike[str], parts: Mapping[str, type]) -> Detector:
    """The detector that `Detector.save` wrote, from what its folder holds."""
    names = {**storage.vocabulary(), **DETECTORS, **parts}
    try:
        detector = storage.from_tree(stored.config["detector"], names, "the model folder")
        resolved = {axis: storage.from_tree(tree, names) for axis, tree in stored.config["parts"].items()}
        fitted = recall(detector, stored)
        detector.parts_, threshold = dict(resolved), resolved.pop("threshold")
        detector.folds_, detector._reservoirs, detector._learned = [], [], []
        for number in range(fitted["nets"]):
            modules = {axis: clone(part) if part is not None else None for axis, part in resolved.items()}
            arrays, weights = (below(f"{number}/", found) for found in (stored.arrays, stored.weights))
            encoding = modules["preprocessing"].encoding(arrays)  # type: ignore[union-attr]
            dtype = torch.float32 if fitted["float32"] else torch.float64
            fold = Fold.build(
                modules, encoding, detector._device(), dtype=dtype, members=detector.members
            ).load_weights(weights)
            fold.margin = arrays["margin"]
            none = np.empty((0, detector.n_features_in_))
            detector._keep(fold, none, none, np.random.RandomState(0))
        detector.calibration_scores_ = stored.arrays["calibration_scores"]
        detector.threshold_ = clone(threshold).fit(detector.calibration_scores_)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ModelFolderError(
            f"A model folder must fit together, however: {path} does not ({error}). Fit the model again."
        ) from error
    return detector
