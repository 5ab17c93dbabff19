"""A few known anomalies: what they change, what they leave alone, and how they come."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from typer.testing import CliRunner

from anomaly_ae import AutoencoderDetector, Fused, KnownAnomalies, Neighbours, SeriesDetector, StandardizedError, load
from anomaly_ae.cli import app
from anomaly_ae.errors import ConfigError, DataError


def ring(seed=0, n=1200):
    """Normal rows all around a circle, where no row is strange by where it lies."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    return rng, np.column_stack([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.15, (n, 2))


def faults(rng, n):
    """Rows of a fault: at one place of the circle, hardly outside."""
    return np.array([1.15, 0.0]) + rng.normal(0, 0.05, (n, 2))


def told(rng, X, n=5):
    return np.concatenate([X, faults(rng, n)]), np.repeat([1, -1], [len(X), n])


def fitted(known, seed=0, **settings):
    rng, X = ring(seed)
    settings = {"effort": "fast", "calibration": "split", "random_state": 0} | settings
    rows, y = told(rng, X, known)
    return AutoencoderDetector(labels=KnownAnomalies() if known else None, **settings).fit(rows, y if known else None)


def test_detection_rises_with_each_few_labels():
    rng, new = ring(1)
    rows, fault = np.concatenate([new, faults(rng, 200)]), np.repeat([False, True], [len(new), 200])
    found = [
        np.mean([roc_auc_score(fault, fitted(known, seed).anomaly_score(rows)) for seed in range(3)])
        for known in (0, 1, 5, 50)
    ]
    assert found[1] > found[0] + 0.05
    assert found[2] > found[1] - 0.005
    assert found[3] > found[2] - 0.005


def test_the_score_is_the_ratio_of_distances():
    rng, X = ring(n=300)
    rows, y = told(rng, X)
    part = KnownAnomalies(k=2, softness=0.5, bend=None)
    det = AutoencoderDetector(scorer=part, calibration="split", max_epochs=1, random_state=0).fit(rows, y)
    memory = det.folds_[0].scorer.memory.numpy()
    known = det.folds_[0].encoding.transform(rows[y == -1]).x
    assert len(memory) == len(X)  # calibrate rows are remembered too; known anomalies are not among them
    assert cdist(known, memory).min() > 0
    own = np.sort(cdist(memory, memory), axis=1)[:, 1:3].mean(axis=1)
    some = rng.uniform(-0.9, 0.9, (50, 2))  # within what was seen: what is beyond has a price of its own
    new = det.folds_[0].encoding.transform(some).x
    near, like = (np.sort(cdist(new, them), axis=1)[:, :2].mean(axis=1) for them in (memory, known))
    room = 0.5 * np.sort(own)[(len(own) - 1) // 2]  # torch's median
    expected = (near + room) / (like + room)
    assert det.anomaly_score(some) == pytest.approx(expected, rel=1e-5)


def test_what_does_not_resemble_them_is_as_strange_as_before():
    rng, _ = ring()
    plain, with_labels = fitted(0), fitted(5)
    for net, other in zip(plain.folds_, with_labels.folds_, strict=True):  # they train no net
        for one, two in zip(net.net.state_dict().values(), other.net.state_dict().values(), strict=True):
            assert (one == two).all()
    away = np.array([[-9.0, 0.0], [0.0, 9.0]])
    assert (plain.predict(away) == -1).all()
    assert (with_labels.predict(away) == -1).all()
    new = faults(rng, 200)
    assert (with_labels.predict(new) == -1).mean() > (plain.predict(new) == -1).mean() + 0.3


@pytest.mark.slow
def test_the_promise_holds_with_labels():
    rates = []
    for seed in range(100):
        rng, X = ring(seed, 1500)
        rows, y = told(rng, X[:700])
        det = AutoencoderDetector(labels=KnownAnomalies(), effort="fast", calibration="split", random_state=seed)
        rates.append((det.fit(rows, y).predict(X[700:]) == -1).mean())
    assert abs(np.mean(rates) - 0.05) < 3 * np.std(rates) / 10


def test_blame_says_what_makes_a_row_like_them():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 4))
    known = 0.3 * rng.normal(size=(5, 4)) + [0, 0, 3.0, 0]
    rows, y = np.concatenate([X, known]), np.repeat([0, -1], [600, 5])
    det = AutoencoderDetector(labels=KnownAnomalies(), random_state=0).fit(rows, y)
    new = np.array([[0.1, 0.0, 3.1, -0.1]])
    assert det.explain(new)[0].argmax() == 2
    assert det.explain(new).sum() == pytest.approx(det.anomaly_score(new)[0])


def test_tables_with_categories_and_gaps():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=500), "b": rng.normal(size=500), "kind": rng.choice(["x", "y"], 500)})
    X.loc[rng.random(500) < 0.1, "b"] = np.nan
    known = pd.DataFrame({"a": rng.normal(2.4, 0.1, 5), "b": rng.normal(2.4, 0.1, 5), "kind": "z"})
    rows, y = pd.concat([X, known], ignore_index=True), np.repeat([1, -1], [500, 5])
    det = AutoencoderDetector(labels=KnownAnomalies(), random_state=0).fit(rows, y)
    assert list(det.contract_.columns[2].levels) == ["x", "y"]  # columns are learned from normal rows
    new = pd.DataFrame({"a": [2.4, -2.4], "b": [2.4, -2.4], "kind": ["x", "x"]})
    score = det.anomaly_score(new)
    assert score[0] > score[1] + 1
    assert (det.fit(rows, y == -1).anomaly_score(new) == score).all()  # booleans are true of an anomaly


def test_known_anomalies_may_come_with_the_first_rows_of_many():
    rng, X = ring()
    rows, y = told(rng, X)
    det = AutoencoderDetector(labels=KnownAnomalies(), effort="fast", random_state=0)
    det.partial_fit(rows, y).partial_fit(X)
    plain = AutoencoderDetector(effort="fast", random_state=0).partial_fit(X).partial_fit(X)
    assert len(det.folds_[0].scorer.scorers[-1].anomalies) == (y == -1).sum()
    new = faults(rng, 200)
    assert (det.p_values(new) < plain.p_values(new)).mean() > 0.5


def test_labels_join_whatever_scores():
    part = KnownAnomalies(weight=2)
    alone = AutoencoderDetector(scorer=Neighbours(k=1), labels=part).parts()["scorer"]
    assert repr(alone) == repr(Fused([Neighbours(k=1), part], weights=[1.0, 2.0]))
    usual = AutoencoderDetector(labels=part).parts()["scorer"]
    assert usual.weights == [0.3, 2, 1, 1, pytest.approx(8.6)]
    assert len(usual.guards) == 4
    assert "labels" not in AutoencoderDetector(labels=part).parts()
    fast = AutoencoderDetector(effort="fast", labels=part).parts()["scorer"]
    assert [type(scorer) for scorer in fast.scorers] == [StandardizedError, KnownAnomalies]


def test_labels_survive_the_folder_and_more_rows(tmp_path):
    rng, _ = ring()
    det = fitted(5)
    again = load(det.save(tmp_path / "model"))
    new = np.concatenate([ring(3, 100)[1], faults(rng, 100)])
    assert (again.anomaly_score(new) == det.anomaly_score(new)).all()
    more, y = told(rng, ring(4, 600)[1])
    det.partial_fit(more, y)
    assert (det.predict(faults(rng, 50)) == -1).mean() > 0.7  # the known ones are still known, and none is normal
    assert len(det.folds_[0].scorer.judges[1].anomalies) == 5


def test_labels_are_used_where_they_are_asked_for():
    rng, X = ring(n=400)
    rows, y = told(rng, X)
    plain = AutoencoderDetector(effort="fast", random_state=0)
    assert (plain.fit(rows, y).anomaly_score(X) == plain.fit(rows).anomaly_score(X)).all()
    asks = AutoencoderDetector(labels=KnownAnomalies(), effort="fast", random_state=0)
    with pytest.raises(ConfigError, match="was told none"):
        asks.fit(rows)
    with pytest.raises(ConfigError, match="booleans"):
        asks.fit(rows, np.where(y == -1, 2, 1))
    with pytest.raises(DataError, match="needs normal rows"):
        asks.fit(rows, -np.ones(len(rows)))
    asks.fit(rows, y).partial_fit(rows[:50], np.ones(50))  # as most batches are
    with pytest.warns(UserWarning, match="fit_predict"):
        assert (asks.fit_predict(rows, y) == asks.predict(rows)).all()
    with pytest.raises(ValueError, match="inconsistent"):
        asks.fit(rows, y[:-1])
    for wrong in ({"k": 0}, {"softness": 0}, {"weight": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            asks.set_params(labels=KnownAnomalies(**wrong)).fit(rows, y)
    with pytest.raises(ConfigError, match="was told none"):
        SeriesDetector(AutoencoderDetector(labels=KnownAnomalies(), max_epochs=1), window=4).fit(X)


def test_a_grid_chooses_by_labels():
    rng, X = ring(n=600)
    rows, y = told(rng, X, 60)
    asks = AutoencoderDetector(labels=KnownAnomalies(), effort="fast", calibration="split", random_state=0)
    search = GridSearchCV(asks, {"labels__weight": [0.01, 1]}, scoring="roc_auc", cv=StratifiedKFold(3)).fit(rows, y)
    assert search.best_params_ == {"labels__weight": 1}


def test_the_shell_learns_from_a_file_of_known_anomalies(here):
    rng, X = ring()
    for name, values in (("normal", X), ("known", faults(rng, 8)), ("new", faults(rng, 100)), ("more", ring(7)[1])):
        pd.DataFrame(values, columns=["a", "b"]).to_csv(f"{name}.csv", index=False)

    def run(*arguments, code=0):
        done = CliRunner().invoke(app, [*map(str, arguments), "--no-track"])
        assert done.exit_code == code, done.output
        return done.output

    run("fit", "--data", "normal.csv", "--model", "plain")
    said = run("fit", "--data", "normal.csv", "--known", "known.csv", "--model", "told")
    assert "8 rows known for anomalies, from known.csv" in said
    new = pd.read_csv("new.csv")
    plain, with_labels = ((load(name).predict(new) == -1).mean() for name in ("plain", "told"))
    assert with_labels > plain + 0.2
    assert "--known" in run("refit", "told", "--data", "more.csv", "--to", "again", code=2)
    run("refit", "told", "--data", "more.csv", "--known", "known.csv", "--to", "again")
    assert (load("again").predict(new) == -1).mean() > plain + 0.2
    pd.read_csv("known.csv").drop(columns="b").to_csv("narrow.csv", index=False)
    assert "'b'" in run("fit", "--data", "normal.csv", "--known", "narrow.csv", "--model", "x", code=2)
    pd.read_csv("known.csv").assign(b="oops").to_csv("odd.csv", index=False)
    said = run("fit", "--data", "normal.csv", "--known", "odd.csv", "--model", "x", code=2)
    assert "'oops' in odd.csv" in said
    pd.concat([pd.read_csv("normal.csv"), pd.read_csv("known.csv")]).to_csv("both.csv", index=False)
    said = run("fit", "--data", "both.csv", "--known", "known.csv", "--model", "y")
    assert "8 of the normal rows are among them" in said
    assert (load("y").anomaly_score(new) == load("told").anomaly_score(new)).all()
    assert "series" in run("fit", "--data", "normal.csv", "--known", "known.csv", "--model", "x", "--time", "a", code=2)
