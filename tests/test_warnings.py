"""Warnings name the line of who is warned, not one of the package."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anomaly_ae import KL, AutoencoderDetector, Conformal, Mahalanobis, SeriesDetector, VAEDetector, View

RNG = np.random.default_rng(0)
FEW, MANY = RNG.normal(size=(15, 2)), RNG.normal(size=(300, 3))
STAMPED = pd.DataFrame(MANY[:, :2], columns=["a", "b"]).assign(at=pd.date_range("2026-01-01", periods=300, freq="min"))
QUICK = AutoencoderDetector(effort="fast", random_state=0)
SERIES = SeriesDetector(views=[View(Mahalanobis(), window=8)], random_state=0)
GRID = {"autoencoderdetector__threshold": [Conformal(0.01)]}
LOST = VAEDetector(divergence=KL(beta=1000), effort="fast", calibration="split", random_state=0)


@pytest.mark.parametrize(
    ("doing", "said"),
    [
        (lambda: QUICK.fit(FEW), "calibrate rows"),
        (lambda: QUICK.fit_predict(MANY), "did not learn from"),
        (lambda: QUICK.fit(STAMPED.assign(id=[f"r{n}" for n in range(300)])), "identifiers"),
        (lambda: QUICK.fit(np.repeat(MANY, 2, axis=0)), "come once"),
        (lambda: LOST.fit(MANY), "collapsed"),
        (lambda: make_pipeline(StandardScaler(), QUICK).fit(FEW), "calibrate rows"),
        (lambda: GridSearchCV(make_pipeline(StandardScaler(), QUICK), GRID, cv=2).fit(MANY[:60]), "calibrate rows"),
        (lambda: SERIES.fit(STAMPED), "says when rows were taken"),
    ],
)  # fmt: skip
def test_a_warning_names_the_line_that_is_warned(doing, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        doing()
    told = [one for one in caught if said in str(one.message)]
    assert told
    assert {one.filename for one in told} == {__file__}
    assert {one.category for one in told} == {UserWarning}
