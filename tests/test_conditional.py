"""Columns that are given: what is strange in one context is usual in another."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from anomaly_ae import (
    AutoencoderDetector,
    Conditional,
    NegativeELBO,
    Neighbours,
    Preprocessing,
    SeriesDetector,
    StandardizedError,
    VAEDetector,
    config,
    load,
    score_file,
)
from anomaly_ae.errors import ConfigError

SHIFT = {"idle": -3.0, "run": 0.0, "boost": 3.0}


def plant(n, seed, mode=None):
    """A load, seen by two sensors, and a temperature that follows it from another level in each mode."""
    rng = np.random.default_rng(seed)
    modes = rng.choice(list(SHIFT), size=n, p=[0.49, 0.49, 0.02]) if mode is None else np.full(n, mode)
    load = rng.normal(size=n)
    heat = load + np.array([SHIFT[one] for one in modes])
    columns = {"mode": modes, "load": load + 0.2 * rng.normal(size=n), "heat": heat + 0.2 * rng.normal(size=n)}
    return pd.DataFrame({**columns, "flow": load + 0.2 * rng.normal(size=n)})


def misplaced(rows):
    """Rows whose heat is that of the other of the two usual modes."""
    return rows.assign(heat=rows["heat"] + np.where(rows["mode"] == "idle", 3.0, -3.0))


@pytest.fixture(scope="module")
def fitted():
    X = plant(3000, 0)
    given = Conditional(["mode"])
    plain = {"random_state": 0, "scorer": NegativeELBO()}
    return VAEDetector(preprocessing=given, **plain).fit(X), VAEDetector(**plain).fit(X.drop(columns="mode")), X


def test_contextual_anomalies_are_found_where_without_the_context_they_are_not(fitted):
    conditional, without, _ = fitted
    usual = plant(1000, 1)
    usual = usual[usual["mode"] != "boost"]
    strange, labels = misplaced(usual), [0] * len(usual) + [1] * len(usual)

    def auroc(detector, columns):
        return roc_auc_score(labels, detector.anomaly_score(pd.concat([usual, strange])[columns]))

    assert auroc(conditional, list(usual)) > 0.95
    assert auroc(without, ["load", "heat", "flow"]) < 0.65


def test_a_rare_context_is_no_anomaly_and_the_promise_holds(fitted):
    conditional, _, X = fitted
    assert np.mean(conditional.predict(plant(2000, 2)) == -1) < 0.08
    rare = plant(1000, 3, "boost")
    joint = VAEDetector(random_state=0, scorer=NegativeELBO()).fit(X)
    score, other = conditional.anomaly_score(rare), joint.anomaly_score(rare)
    excess = [np.mean(one > d.threshold_.value_) for one, d in ((score, conditional), (other, joint))]
    assert excess[0] < 0.5 * excess[1]


def test_the_net_is_told_the_context_and_rebuilds_and_blames_the_rest(fitted):
    conditional, _, X = fitted
    fold = conditional.folds_[0]
    assert fold.encoding.width == 3
    assert fold.encoding.told == 3  # one cell a level
    strange = misplaced(plant(200, 4))
    assert (conditional.explain(strange)[:, 0] == 0).all()
    assert np.mean(conditional.explain(strange).argmax(axis=1) == 2) > 0.9
    rebuilt = conditional.reconstruct(strange)
    assert list(rebuilt["mode"]) == list(strange["mode"])
    told = conditional.reasons(X.head(50))
    assert set(told["column"]) <= {"load", "heat", "flow"}


@pytest.mark.parametrize("detector", [AutoencoderDetector, pytest.param(VAEDetector, marks=pytest.mark.slow)])
def test_by_default_as_well_a_mode_of_few_rows_is_mostly_normal(detector):
    """Neighbours, who know nothing of contexts, are not asked."""
    X = plant(3000, 0)
    rare = plant(1000, 3, "boost")
    given, plain = (
        np.mean(detector(preprocessing=rule, random_state=0).fit(X).predict(rare) == -1)
        for rule in (Conditional(["mode"]), Preprocessing())
    )
    assert given < 0.3
    assert given < 0.5 * plain


def test_of_a_context_that_never_was_nothing_is_extrapolated_and_its_range_is_told():
    X = plant(2000, 0).assign(setpoint=np.random.default_rng(1).uniform(0, 10, 2000))
    det = VAEDetector(preprocessing=Conditional(["mode", "setpoint"]), random_state=0).fit(X)
    odd = plant(4, 5, "run").assign(setpoint=[5, 1e6, np.nan, 5], mode=["run", "run", "run", "reverse"])
    share = det.explain(odd)
    assert share[1].argmax() == 4
    assert np.abs(det.reconstruct(odd)["heat"]).max() < 10
    told = det.reasons(odd)
    told = told[told["column"].isin(["mode", "setpoint"])].set_index("row")["reason"]
    assert told[1] == "setpoint 1000000, expected 0.0 to 10.0"
    assert told[2] == "setpoint missing, expected 0.0 to 10.0"
    assert told[3] in ("mode reverse, expected idle", "mode reverse, expected run")  # the most frequent one


def test_a_condition_is_named_in_many_ways():
    X = plant(200, 0)
    told = []
    for condition in ("mode", ["mode"], X.columns[:1], [0], np.array([0]), (np.int64(0),)):
        det = AutoencoderDetector(preprocessing=Conditional(condition), max_epochs=1, random_state=0).fit(X)
        told.append(det.anomaly_score(X))
    assert all((score == told[0]).all() for score in told)


def test_new_rows_are_drawn_for_contexts_and_not_without(fitted):
    conditional, without, _ = fitted
    contexts = plant(2, 0, "idle").assign(mode=["idle", "run"])
    drawn = conditional.sample(2000, random_state=0, condition=contexts)
    assert list(drawn["mode"][:4]) == ["idle", "run", "idle", "run"]
    alone = contexts[["mode"]], contexts.assign(heat=[np.inf, np.nan], flow="x")
    for same in alone:  # other columns count for nothing
        pd.testing.assert_frame_equal(conditional.sample(2000, random_state=0, condition=same), drawn)
    with pytest.raises(ConfigError, match=r"sample needs the columns \['mode'\], however: \['mode'\] are not there"):
        conditional.sample(3, condition=contexts[["heat"]])
    means = drawn.groupby("mode")["heat"].mean()
    assert means["idle"] == pytest.approx(-3, abs=0.3)
    assert means["run"] == pytest.approx(0, abs=0.3)
    for refused in (lambda: conditional.sample(3), lambda: conditional.inverse_transform(np.zeros((1, 3)))):
        with pytest.raises(ConfigError, match="Rows need their context"):
            refused()
    with pytest.raises(ConfigError, match="sample needs a model with a condition"):
        without.sample(3, condition=plant(3, 0)[["load", "heat", "flow"]])


@pytest.mark.parametrize("detector", [AutoencoderDetector, VAEDetector])
@pytest.mark.parametrize("effort", ["fast", "default", "best"])
def test_every_default_takes_a_condition_of_any_kind(detector, effort, tmp_path):
    """A category, a number, a date with gaps, by name or place; stored, written down, scored from a file."""
    X = plant(1500, 0).assign(speed=lambda table: table["load"] * 2, when=pd.date_range("2024", periods=1500, freq="h"))
    X.loc[::7, "speed"] = np.nan
    given = Conditional(["mode", 4, "when"], max_levels=5)
    det = detector(preprocessing=given, effort=effort, random_state=0, max_epochs=8).fit(X)
    assert repr(config.loads(config.dumps(det))) == repr(det)
    usual, strange = plant(400, 1).assign(speed=0.0, when=X["when"][:400]), None
    usual["speed"] = usual["load"] * 2
    strange = misplaced(usual)
    both = pd.concat([usual, strange], ignore_index=True)
    labels = [0] * 400 + [1] * 400
    assert roc_auc_score(labels, det.anomaly_score(both)) > 0.85
    det.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").anomaly_score(both), det.anomaly_score(both))
    both.to_csv(tmp_path / "rows.csv", index=False)
    score_file(tmp_path / "model", tmp_path / "rows.csv", tmp_path / "scores.csv")
    scores = pd.read_csv(tmp_path / "scores.csv")["anomaly_score"]
    np.testing.assert_allclose(scores, det.anomaly_score(both), rtol=1e-4 if effort == "fast" else 1e-9)


def test_what_no_context_was_like_is_charged(fitted):
    conditional, _, _ = fitted
    row = plant(1, 5, "run")
    new = conditional.anomaly_score(row.assign(mode="reverse"))
    assert new > conditional.anomaly_score(row) + 5


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ([], "columns, however: none are given"),
        ([True], "columns of the table, however: True"),
        (["mode", "colour"], "columns of the table, however: 'colour'"),
        ([9], "columns of the table, however: 9"),
        (["mode", "load", "heat", "flow"], "a varying column that is not given"),
    ],
)
def test_conditions_that_cannot_be_are_refused(condition, says):
    with pytest.raises(ConfigError, match=f"Conditional needs {says}"):
        AutoencoderDetector(preprocessing=Conditional(condition)).fit(plant(50, 0))


@pytest.mark.parametrize("preprocessing", [None, Preprocessing(bend=None)])
def test_a_condition_that_is_set_on_another_preprocessing_is_told_how_to_be(preprocessing):
    det = VAEDetector(preprocessing=preprocessing)
    with pytest.raises(ConfigError, match=r"however: .* has none. Set preprocessing=Conditional\(\['mode'\]\)\.$"):
        det.set_params(preprocessing__condition=["mode"])
    det = VAEDetector(preprocessing=Conditional(["load"])).set_params(preprocessing__condition=["mode"])
    assert det.preprocessing.condition == ["mode"]


def test_without_a_condition_nothing_changes_and_series_refuse_one():
    X = plant(300, 0)[["load", "heat", "flow"]]
    plain, given = (
        AutoencoderDetector(scorer=StandardizedError(), preprocessing=rule, random_state=0, max_epochs=3).fit(X)
        for rule in (Preprocessing(), Conditional(["flow"]))
    )
    assert plain.folds_[0].encoding.context.size == 0
    assert plain.folds_[0].encoding.width == 3
    assert given.folds_[0].encoding.width == 2
    alone = AutoencoderDetector(preprocessing=Conditional(["flow"]), scorer=Neighbours(k=1), random_state=0).fit(X)
    moved = X.assign(flow=X["flow"] * 0.9)
    np.testing.assert_allclose(alone.anomaly_score(X), alone.anomaly_score(moved))  # neighbours see no context
    with pytest.raises(ConfigError, match="SeriesDetector needs columns that are all judged"):
        SeriesDetector(AutoencoderDetector(preprocessing=Conditional(["flow"]))).fit(X)
