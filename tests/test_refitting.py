"""Models that learn again: the same call on other rows, from whom they come, and the pipeline that does so at night."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from typer.testing import CliRunner

from anomaly_ae import AutoencoderDetector, Mahalanobis, SeriesDetector, View, load
from anomaly_ae.cli import app
from anomaly_ae.cli.app import Gate
from anomaly_ae.errors import ConfigError, DataError, OutputError
from anomaly_ae.mlflow.outbox import Input
from anomaly_ae.monitoring.history import GATES
from anomaly_ae.ops.describe import describe, told
from anomaly_ae.ops.fitting import fit, learn
from anomaly_ae.ops.refitting import refit
from anomaly_ae.ops.tracking import digest

ROOT = Path(__file__).parents[1]


def rows(n, seed, shift=0.0):
    X = pd.DataFrame(np.random.default_rng(seed).normal(size=(n, 3)), columns=["a", "b", "c"])
    return X.assign(b=X["b"] + shift)


@pytest.fixture
def place(tmp_path):
    """A model, and newer rows, of which column b has moved."""
    det = AutoencoderDetector(effort="fast", max_epochs=5, calibration="split", random_state=0).fit(rows(600, 0))
    det.save(tmp_path / "model")
    rows(600, 1, 5.0).assign(more=1).to_csv(tmp_path / "newer.csv", index=False)
    return tmp_path


def test_a_refit_is_a_fit_of_the_same_call_on_the_other_rows(place):
    summary = refit(place / "model", place / "newer.csv", place / "second")
    again, before = load(place / "second"), load(place / "model")
    X = pd.read_csv(place / "newer.csv")[["a", "b", "c"]]
    np.testing.assert_array_equal(again.anomaly_score(X), clone(before).fit(X).anomaly_score(X))
    assert (summary.threshold_before, summary.threshold) == (before.threshold_.value_, again.threshold_.value_)
    assert np.mean(before.predict(X) == -1) > 0.3
    assert np.mean(again.predict(X) == -1) < 0.1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda X: X.to_csv(sep=";", decimal=",", index=False), "'a' was a number and is a category"),
        (lambda X: X.assign(c=np.nan).to_csv(index=False), "'c' had values and has none"),
        (lambda X: X.assign(b=0.0).to_csv(index=False), "'b' varied and stands still"),
    ],
)
def test_rows_that_are_written_in_another_way_or_stand_still_replace_no_model(place, spoil, words):
    whole = digest(place / "model" / "manifest.json")
    (place / "odd.csv").write_text(spoil(rows(600, 1)))
    with pytest.raises(DataError, match=words), warnings.catch_warnings(action="ignore"):
        refit(place / "model", place / "odd.csv", overwrite=True)
    assert digest(place / "model" / "manifest.json") == whole


def test_a_threshold_by_rows_that_were_learned_from_is_warned_of(place):
    det = AutoencoderDetector(random_state=0).fit(rows(600, 0))
    with pytest.warns(UserWarning, match="needs rows that no fit has seen, however: "):
        det.recalibrate(rows(600, 0))
    with warnings.catch_warnings(action="error"):
        AutoencoderDetector(random_state=0).fit(rows(600, 0)).recalibrate(rows(600, 1))


@pytest.mark.parametrize("how", ["new", "warm", "threshold"])
def test_rows_that_are_full_of_alarms_are_warned_of(place, how):
    strange = rows(600, 3)
    strange.iloc[:200] += 9
    strange.to_csv(place / "strange.csv", index=False)
    with pytest.warns(UserWarning, match=r"needs normal rows, however: 3\d% of these are alarms by the threshold"):
        refit(place / "model", place / "strange.csv", to=place / "other", how=how)


@pytest.mark.parametrize("learned", ["fit", "new", "warm"])
def test_a_threshold_by_the_very_file_that_was_learned_from_is_warned_of(place, learned):
    rows(600, 3).to_csv(place / "some.csv", index=False)
    if learned == "fit":
        fit(place / "some.csv", place / "model", overwrite=True, track=False)
    else:
        refit(place / "model", place / "some.csv", overwrite=True, how=learned)
    rows(600, 4).to_csv(place / "other.csv", index=False)
    with warnings.catch_warnings(action="error"):
        refit(place / "model", place / "other.csv", overwrite=True, how="threshold")
    with pytest.warns(UserWarning, match=r"no fit has seen, however: the model learned from .*some\.csv"):
        refit(place / "model", place / "some.csv", overwrite=True, how="threshold")


def test_a_warm_refit_goes_on_from_the_weights_there_are(place):
    refit(place / "model", place / "newer.csv", place / "second", how="warm")
    X = pd.read_csv(place / "newer.csv")[["a", "b", "c"]]
    expected = load(place / "model").partial_fit(X)
    again = load(place / "second")
    np.testing.assert_allclose(again.anomaly_score(X), expected.anomaly_score(X), rtol=1e-9)
    assert again.n_rows_seen_ == 1200


def test_a_threshold_set_anew_keeps_what_was_learned_and_the_promise(place):
    pd.concat([rows(400, 2, 5.0), rows(1, 3, 5.0)]).to_csv(place / "new.csv", index=False)
    summary = refit(place / "model", place / "new.csv", place / "second", how="threshold")
    before, again = load(place / "model"), load(place / "second")
    X = pd.read_csv(place / "new.csv")
    np.testing.assert_array_equal(again.anomaly_score(X), before.anomaly_score(X))
    np.testing.assert_array_equal(again.calibration_scores_, np.sort(before.anomaly_score(X)))
    rank = int(np.ceil((len(X) + 1) * (1 - 0.05)))  # the conformal threshold, in closed form
    assert summary.threshold == again.calibration_scores_[rank - 1] > before.threshold_.value_
    assert np.mean(before.predict(rows(400, 4, 5.0)) == -1) > 0.3
    assert np.mean(again.predict(rows(400, 4, 5.0)) == -1) < 0.1
    assert again.profile_.reference.rows == len(X)
    assert again.lineage_[-1]["how"] == "threshold"


def test_recalibrating_by_the_rows_of_many_nets_asks_for_their_median():
    det = AutoencoderDetector(effort="fast", max_epochs=3, random_state=0).fit(rows(100, 0))
    X = rows(300, 1)
    said = det.anomaly_score(X)
    np.testing.assert_array_equal(det.recalibrate(X).calibration_scores_, np.sort(said))
    assert det.profile_.factor == 1  # no row was in any net's fit: the promise is that of the threshold


def test_what_is_learned_after_a_recalibration_goes_on_from_its_rows():
    det = AutoencoderDetector(effort="fast", max_epochs=3, calibration="split", random_state=0).fit(rows(2000, 0))
    first = det.threshold_.value_
    second = det.recalibrate(3 * rows(1000, 1)).threshold_.value_
    third = det.partial_fit(rows(10, 2)).threshold_.value_
    assert second > 2 * first
    assert third > 2 * first


def test_a_recalibration_heeds_a_threshold_that_was_set_since():
    det = AutoencoderDetector(effort="fast", max_epochs=3, random_state=0).fit(rows(100, 0))
    det.set_params(threshold__alpha=0.3).recalibrate(rows(500, 1))
    assert np.mean(det.calibration_scores_ > det.threshold_.value_) == pytest.approx(0.3, abs=0.01)
    assert "95 % band" in told(describe(det))  # and promises it: no net has learned from these rows
    assert "rows         100 seen, calibrated by 500" in told(describe(det))


def test_a_page_is_a_file_of_its_own(place):
    data = place / "newer.csv"
    before = data.read_bytes()
    for command in (
        ["fit", "--data", data, "--model", place / "new", "--report", data],
        ["fit", "--data", data, "--model", place / "new", "--report", place / "new"],
        ["refit", place / "model", "--data", data, "--to", place / "new", "--report", data],
        ["score", place / "model", data, "--output", place / "o.csv", "--report", data],
        ["score", place / "model", data, "--output", place / "o.csv", "--report", place / "o.csv"],
        ["monitor", place / "model", data, "--report", data],
    ):
        done = CliRunner().invoke(app, [*map(str, command), "--no-track"])
        assert done.exit_code == 2, (command, done.output)
        assert "a file of its own" in done.stderr
    assert data.read_bytes() == before
    assert not (place / "new").exists()


def test_a_fit_writes_its_page(place):
    (place / "quick.yaml").write_text("AutoencoderDetector: {effort: fast, max_epochs: 2, random_state: 0}\n")
    command = ["fit", place / "quick.yaml", "--data", place / "newer.csv", "--model", place / "new"]
    done = CliRunner().invoke(app, [*map(str, command), "--report", str(place / "p.html"), "--no-track"])
    assert done.exit_code == 0, done.output
    assert f"{load(place / 'new').threshold_.value_:.4g}" in (place / "p.html").read_text()


@pytest.mark.slow
def test_the_script_recalibrates(place):
    command = [sys.executable, ROOT / "pipelines" / "recalibrate.py", "model", "newer.csv", "second"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    done = subprocess.run([*map(str, command)], cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "had its threshold set anew by 600 rows" in done.stdout
    assert load(place / "second").lineage_[-1]["how"] == "threshold"


def test_a_fit_tells_how_far_it_is(tmp_path):
    heard = []
    series = SeriesDetector(views=[View(Mahalanobis(), window=8)], random_state=0)
    X = np.random.default_rng(0).normal(size=(300, 2))
    for det in (AutoencoderDetector(effort="fast", max_epochs=3, random_state=0), series):
        heard.clear()
        read = Input("rows.csv", "a digest")
        learn(det, "rows.csv", read, X, lambda share, what: heard.append((share, what)))
        shares = [share for share, _ in heard]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)
        assert len(heard) > 3
        assert heard[-1][1].startswith("learning ")


def test_a_model_remembers_all_that_it_comes_from(place):
    refit(place / "model", place / "newer.csv", place / "second")
    was = digest(place / "second" / "manifest.json")
    summary = refit(place / "second", place / "newer.csv", how="warm", overwrite=True)
    assert summary.generation == 2
    first, second = load(place / "second").lineage_
    assert first["digest"] == digest(place / "model" / "manifest.json")
    assert second == {
        "model": "second", "digest": was, "how": "warm", "data": "newer.csv",
        "data_digest": digest(place / "newer.csv"), "rows": 600,
    }  # fmt: skip
    said = CliRunner().invoke(app, ["info", str(place / "second")]).stdout
    assert f"went on from second ({was[:12]}) by newer.csv" in said
    assert json.loads(CliRunner().invoke(app, ["info", str(place / "second"), "--json"]).stdout)["lineage"] == [
        first,
        second,
    ]


def test_what_is_there_stays_where_a_refit_cannot_be(place):
    whole = digest(place / "model" / "manifest.json")
    with pytest.raises(OutputError, match="exists"):
        refit(place / "model", place / "newer.csv")
    pd.read_csv(place / "newer.csv").drop(columns="b").to_csv(place / "less.csv", index=False)
    for command in (["--data", "less.csv"], ["--data", "none.csv"], ["--data", "newer.csv", "--register", "x"]):
        given = [str(place / word) if word.endswith(".csv") else word for word in command]
        done = CliRunner().invoke(app, ["refit", str(place / "model"), *given, "--overwrite", "--no-track"])
        assert done.exit_code == 2, done.output
        assert "Traceback" not in done.output
    assert digest(place / "model" / "manifest.json") == whole
    load(place / "model")


@pytest.fixture
def plant(tmp_path):
    """A model of series, and newer rows, which are noisier."""
    t = np.arange(1200)
    noise = np.random.default_rng(0).normal(size=(1200, 2)) * np.where(t < 800, 0.05, 0.1)[:, None]
    X = pd.DataFrame({"a": np.sin(t / 9), "b": np.cos(t / 9)}) + noise
    X.insert(0, "time", pd.date_range("2026-03-01", periods=1200, freq="min"))
    SeriesDetector(views=[View(Mahalanobis(), window=8)], time="time", random_state=0).fit(X[:800]).save(
        tmp_path / "model"
    )
    X[800:].to_csv(tmp_path / "newer.csv", index=False)
    return tmp_path


def test_a_model_of_series_is_refitted_anew_but_not_warm(plant):
    refit(plant / "model", plant / "newer.csv", plant / "second", report=plant / "page.html")
    assert load(plant / "second").n_rows_seen_ == 400
    assert "SeriesDetector" in (plant / "page.html").read_text()
    with pytest.raises(ConfigError, match="A warm start"):
        refit(plant / "model", plant / "newer.csv", plant / "third", how="warm")


def test_a_series_has_its_threshold_set_anew(plant):
    before, X = load(plant / "model"), pd.read_csv(plant / "newer.csv", parse_dates=["time"])
    done = CliRunner().invoke(
        app, ["refit", str(plant / "model"), "--data", str(plant / "newer.csv"), "--how", "threshold", "--overwrite",
              "--no-track"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    again = load(plant / "model")
    np.testing.assert_array_equal(again.anomaly_score(X), before.anomaly_score(X))
    np.testing.assert_allclose(again.calibration_scores_, np.sort(again.anomaly_score(X)), rtol=1e-9)
    assert np.mean(before.predict(X) == -1) > 0.2
    assert np.mean(again.predict(X) == -1) <= 0.05
    assert again.events_.level_ > before.events_.level_


def test_a_gate_of_the_night_is_one_that_there_is(tmp_path):
    command = [sys.executable, ROOT / "pipelines" / "nightly.py", "model", "night.csv", "scores.csv"]
    command += ["--normal", "normal.csv", "--candidate", "candidate", "--gate", "scoers"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert all(gate in done.stderr.split("choose from")[1] for gate in GATES)
    assert [gate.value for gate in Gate] == ["any", *GATES]  # those of --fail-on


@pytest.mark.slow
def test_the_night_refits_where_a_gate_is_crossed_and_once(place):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    rows(400, 5).to_csv(place / "quiet.csv", index=False)
    rows(400, 6, 5.0).to_csv(place / "moved.csv", index=False)

    def night(name):
        command = [sys.executable, ROOT / "pipelines" / "nightly.py", "model", f"{name}.csv", f"{name}-scores.csv"]
        more = ["--normal", "newer.csv", "--candidate", "candidate"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
        done = subprocess.run(
            [*map(str, command), *more], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "as it was" in night("quiet")
    assert not (place / "candidate").exists()
    assert "learned from 600 rows of newer.csv" in night("moved")
    made = digest(place / "candidate" / "manifest.json")
    assert "already" in night("moved")
    assert digest(place / "candidate" / "manifest.json") == made
    assert np.mean(load(place / "candidate").predict(rows(400, 7, 5.0)) == -1) < 0.1
    assert {"moved-scores.csv", "moved-scores.html"} <= {path.name for path in place.iterdir()}
