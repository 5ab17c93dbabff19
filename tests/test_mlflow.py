"""Runs of fit and score, and of fits in Python, in a real MLflow store on SQLite."""

import hashlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from servers import COMMAND, serving
from sklearn.base import clone

from anomaly_ae import AutoencoderDetector, Conformal, Quantile, SeriesDetector, VAEDetector, load, score_file
from anomaly_ae.errors import ConfigError
from anomaly_ae.mlflow import LogEpochs, runs
from anomaly_ae.ops.fitting import fit as fit_file

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")

CONFIG = "# a comment, kept\nVAEDetector: {max_epochs: 4, calibration: split, random_state: 0}\n"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """A fit and a scoring job in a folder of their own; what the store says of them."""
    folder = tmp_path_factory.mktemp("jobs")
    before, environment = Path.cwd(), os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(folder)
    try:
        rows = pd.DataFrame(np.random.default_rng(0).normal(size=(400, 3)), columns=["flow", "head", "speed"])
        rows.to_csv("normal.csv", index=False)
        rows.iloc[:50].assign(speed=9.0).to_csv("night.csv", index=False)
        Path("vae.yaml").write_text(CONFIG)
        fit = fit_file("normal.csv", "model", "vae.yaml")
        score = score_file("model", "night.csv", "scores.csv", track=True)
        client = mlflow.MlflowClient(tracking_uri=fit.tracking_uri)
        yield folder, fit, score, client
    finally:
        os.chdir(before)
        if environment is not None:
            os.environ["MLFLOW_TRACKING_URI"] = environment


def test_the_store_is_sqlite_in_the_working_directory(jobs):
    folder, fit, _, _ = jobs
    assert fit.tracking_uri == f"sqlite:///{folder / 'mlflow.db'}"
    assert (folder / "mlflow.db").is_file()


def test_the_pages_open_on_models_and_not_on_traces(jobs):
    _, fit, _, client = jobs
    experiment = client.get_experiment(client.get_run(fit.run_id).info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def artifact(client, run_id, path, to):
    return Path(client.download_artifacts(run_id, path, str(to)))


def test_a_fit_logs_config_parameters_curves_input_and_model(jobs, tmp_path):
    folder, fit, _, client = jobs
    run = client.get_run(fit.run_id)
    assert run.info.status == "FINISHED"
    assert artifact(client, fit.run_id, "config.yaml", tmp_path).read_text() == CONFIG
    assert run.data.params["max_epochs"] == "4"
    assert run.data.params["learning_rate"] == "0.015"  # the default's
    assert run.data.metrics["promised_false_alarm_rate"] == 0.05
    assert run.data.params["latent"] == "Gaussian"
    assert run.data.params["divergence.beta"] == "1.0"
    det = load(folder / "model")
    assert run.data.metrics["threshold"] == det.threshold_.value_
    curve = client.get_metric_history(fit.run_id, "validate_loss")
    assert [(point.step, point.value) for point in curve] == list(
        det.history_[["epoch", "validate_loss"]].itertuples(index=False, name=None)
    )
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.name == "normal.csv"
    assert used.dataset.digest == hashlib.sha256((folder / "normal.csv").read_bytes()).hexdigest()[:12]
    assert json.loads(used.dataset.source) == {"uri": "normal.csv"}
    (of_the_run,) = run.outputs.model_outputs
    kept = client.get_logged_model(of_the_run.model_id).artifact_location
    logged = load(Path(kept.removeprefix("file://")) / "data" / "model")
    X = pd.read_csv(folder / "night.csv")
    np.testing.assert_array_equal(logged.anomaly_score(X), det.anomaly_score(X))
    assert artifact(client, fit.run_id, "score_histogram.png", tmp_path).read_bytes().startswith(b"\x89PNG")


def test_a_scoring_job_logs_alarms_histogram_input_and_which_model(jobs, tmp_path):
    folder, fit, score, client = jobs
    run = client.get_run(score.run_id)
    scores = pd.read_csv(folder / "scores.csv")
    assert run.data.metrics["alarms"] == scores["is_anomaly"].sum() == score.alarms
    assert run.data.metrics["rows"] == len(scores) == 50
    assert run.data.metrics["alarm_rate"] == scores["is_anomaly"].mean()
    assert run.data.metrics["score_max"] == scores["anomaly_score"].max()
    assert run.inputs.dataset_inputs[0].dataset.name == "night.csv"
    same = "anomaly_ae.model_digest"
    assert run.data.tags[same] == client.get_run(fit.run_id).data.tags[same]
    summary = json.loads(artifact(client, score.run_id, "summary.json", tmp_path).read_text())
    assert (summary["scored"], summary["top_anomalies"]) == (50, [])
    assert artifact(client, score.run_id, "score_histogram.png", tmp_path).stat().st_size > 5000


def test_of_many_rows_the_histogram_is_of_a_sample_and_says_so_and_the_largest_score_is_of_all(jobs):
    folder, *_, client = jobs
    rows = pd.DataFrame(np.random.default_rng(1).normal(size=(5000, 3)), columns=["flow", "head", "speed"])
    rows.loc[4001] = 99.0  # of every second row it is none
    rows.to_csv(folder / "year.csv", index=False)
    score = score_file(
        folder / "model", folder / "year.csv", folder / "year_scores.csv", report=folder / "year.html", track=True
    )
    largest = pd.read_csv(folder / "year_scores.csv")["anomaly_score"].max()
    assert client.get_run(score.run_id).data.metrics["score_max"] == pytest.approx(largest, rel=1e-12)
    assert "in a sample of 2,500 from 5,000 rows" in (folder / "year.html").read_text()


def test_the_tracking_uri_of_the_environment_is_respected(jobs, tmp_path, monkeypatch):
    folder, *_ = jobs
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "night shift")
    summary = score_file(folder / "model", folder / "night.csv", tmp_path / "scores.csv", track=True)
    assert summary.tracking_uri == uri
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(summary.run_id)
    assert client.get_experiment(run.info.experiment_id).name == "night shift"


@pytest.mark.parametrize("uri", ["sqlite:////proc/nowhere/mlflow.db", "nonsense://x"])
def test_a_store_that_fails_costs_a_warning_and_not_the_result(jobs, tmp_path, monkeypatch, uri):
    folder, *_ = jobs
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="Tracking failed: .* The result is complete, and its run waits"):
        summary = score_file(folder / "model", folder / "night.csv", tmp_path / "scores.csv", track=True)
    assert summary.run_id is None
    assert len(pd.read_csv(tmp_path / "scores.csv")) == 50


def test_a_job_that_fails_logs_no_run(jobs, tmp_path):
    folder, fit, _, client = jobs
    experiments = [client.get_run(fit.run_id).info.experiment_id]
    before = len(client.search_runs(experiments))
    pd.DataFrame({"flow": [1.0], "head": [2.0]}).to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(ValueError, match="lacks 'speed'"):
        score_file(folder / "model", tmp_path / "short.csv", tmp_path / "scores.csv", track=True)
    assert len(client.search_runs(experiments)) == before


def test_ui_serves_the_runs_of_the_working_directory(jobs):
    folder, fit, *_ = jobs
    with serving([COMMAND, "ui"], folder) as site:
        answer = json.load(urllib.request.urlopen(f"{site}/api/2.0/mlflow/runs/get?run_id={fit.run_id}", timeout=60))  # noqa: S310
        said = (folder / f"server-{site.rpartition(':')[2]}.log").read_text()
    assert answer["run"]["info"]["run_name"] == "fit VAEDetector on normal.csv"
    found = mlflow.MlflowClient(fit.tracking_uri).search_runs([answer["run"]["info"]["experiment_id"]])
    last = max(found, key=lambda run: run.info.start_time).info
    assert f"The last run: {site}/#/experiments/{last.experiment_id}/runs/{last.run_id}\n" in said


def test_ui_says_that_its_port_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run([COMMAND, "ui", "--port", str(port)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"127.0.0.1:{port} cannot be had" in done.stderr
    assert "MLflow on" not in done.stderr


def test_without_the_extra_the_result_is_complete_and_the_way_out_is_named(jobs, tmp_path, monkeypatch):
    """A real Python in which mlflow cannot be found."""
    folder, *_ = jobs
    code = (
        "import sys; sys.modules['mlflow'] = None\n"
        "from anomaly_ae.cli import app\n"
        f"app(['score', {str(folder / 'model')!r}, {str(folder / 'night.csv')!r}, '--output', 'scores.csv'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "pip install 'anomaly-ae[mlflow]'" in done.stderr
    assert (tmp_path / "scores.csv").is_file()
    assert len(list((tmp_path / "mlflow-outbox").iterdir())) == 2
    monkeypatch.chdir(tmp_path)
    sent = runs.sync()  # by a Python that has it
    assert sorted(one.record.name for one in sent) == ["score night.csv", "watch all rows, model"]
    assert not (tmp_path / "mlflow-outbox").exists()
    assert shutil.which("anomaly-ae", path=str(Path(sys.executable).parent))


# --- the callback ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of the test's own, as a notebook would set it."""
    before, uri = mlflow.get_tracking_uri(), f"sqlite:///{tmp_path / 'notebook.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("notebook")
    yield mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(before)


def curves(client, run_id):
    """All metrics of a run: their (step, value) in order of steps."""
    names = client.get_run(run_id).data.metrics
    histories = {name: client.get_metric_history(run_id, name) for name in names}
    return {name: sorted((point.step, point.value) for point in points) for name, points in histories.items()}


RESULTS = {"threshold", "p_value_resolution", "promised_false_alarm_rate"}
NORMAL = np.random.default_rng(0).normal(size=(120, 3))


@pytest.mark.parametrize("every", [0.0, 1e9])
@pytest.mark.parametrize(
    ("detector", "prefixes"),
    [
        (AutoencoderDetector(max_epochs=3, calibration="split", random_state=0), [""]),
        (AutoencoderDetector(max_epochs=3, calibration="cross", random_state=0), [f"net_{k}/" for k in range(1, 6)]),
        (VAEDetector(max_epochs=2, calibration="split", threshold=Quantile(0.9), random_state=0), [""]),
    ],
)
def test_the_callback_logs_every_epoch_of_every_net_and_what_the_fit_came_to(store, detector, prefixes, every):
    with mlflow.start_run() as run:
        det = clone(detector).set_callbacks(LogEpochs(every)).fit(NORMAL)
    logged = curves(store, run.info.run_id)
    expected = {
        prefix + {"seconds": "epoch_seconds"}.get(name, name): list(zip(rows["epoch"], rows[name], strict=True))
        for prefix, (_, rows) in zip(prefixes, det.history_.groupby("net"), strict=True)
        for name in rows.columns.drop(["net", "epoch"])
    }
    assert {name: points for name, points in logged.items() if name not in RESULTS} == expected
    assert logged["threshold"] == [(0, det.threshold_.value_)]
    assert logged["p_value_resolution"] == [(0, det.threshold_.resolution_)]
    rate = max(0.05, det.threshold_.resolution_) * (2 if det.calibration == "cross" else 1)
    promised = [(0, rate)] if isinstance(det.threshold_, Conformal) else None
    assert logged.get("promised_false_alarm_rate") == promised
    parameters = store.get_run(run.info.run_id).data.params
    assert parameters["max_epochs"] == str(det.max_epochs)
    assert parameters["backbone"] == "Dense"
    assert parameters["calibration"] == det.calibration


def test_a_fit_on_series_is_logged_as_well(store):
    inner = AutoencoderDetector(max_epochs=2)
    with mlflow.start_run() as run:
        det = SeriesDetector(inner, window=8, random_state=0).set_callbacks(LogEpochs()).fit(NORMAL)
    logged = curves(store, run.info.run_id)
    assert [epoch for epoch, _ in logged["loss"]] == [1, 2]
    assert logged["threshold"] == [(0, det.threshold_.value_)]


def test_a_fit_without_the_callback_logs_nothing(store, tmp_path):
    with mlflow.start_run() as run:
        AutoencoderDetector(max_epochs=2, calibration="split", random_state=0).fit(NORMAL)
    data = store.get_run(run.info.run_id).data
    assert (data.metrics, data.params) == ({}, {})
    AutoencoderDetector(max_epochs=2, calibration="split", random_state=0).fit(NORMAL)
    assert len(store.search_runs([run.info.experiment_id])) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["notebook.db"]


def test_the_callback_needs_an_active_run(store):
    det = AutoencoderDetector(max_epochs=2).set_callbacks(LogEpochs())
    with pytest.raises(ConfigError, match=r"active run, however: there is none. Start one .*mlflow.start_run"):
        det.fit(NORMAL)
    with mlflow.start_run():
        det.fit(NORMAL)
    assert det.set_callbacks().fit(NORMAL)


def test_two_different_fits_do_not_share_a_run(store):
    det = AutoencoderDetector(max_epochs=2, calibration="split", random_state=0).set_callbacks(LogEpochs())
    with mlflow.start_run() as run:
        det.fit(NORMAL)
        before = curves(store, run.info.run_id)
        with pytest.raises(ConfigError, match=r"one fit a run, however: .* other values of max_epochs. Start"):
            det.set_params(max_epochs=3).fit(NORMAL)
    assert curves(store, run.info.run_id) == before


def test_a_fit_that_fails_keeps_its_curve(store):
    det = AutoencoderDetector(max_epochs=3, learning_rate=1e30, calibration="split", random_state=0)
    with mlflow.start_run() as run, pytest.raises(ConfigError, match="learning_rate"):
        det.set_callbacks(LogEpochs()).fit(NORMAL)
    logged = curves(store, run.info.run_id)
    assert len(logged["learning_rate"]) == 3
    assert not RESULTS & set(logged)


def test_a_detector_with_the_callback_can_be_copied_and_kept(store, tmp_path):
    with mlflow.start_run():
        det = AutoencoderDetector(max_epochs=2, random_state=0).set_callbacks(LogEpochs()).fit(NORMAL)
    again = pickle.loads(pickle.dumps(det))  # noqa: S301 - our own
    np.testing.assert_array_equal(again.anomaly_score(NORMAL), det.anomaly_score(NORMAL))
    det.save(tmp_path / "model")
