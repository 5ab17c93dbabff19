"""Runs of fit and score in a real MLflow store on SQLite."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anomaly_ae import load
from anomaly_ae.ops import job

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
        fit = job.fit("normal.csv", "model", "vae.yaml")
        score = job.score("model", "night.csv", "scores.csv")
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
    assert str(folder / "normal.csv") in used.dataset.source
    logged = load(artifact(client, fit.run_id, "model", tmp_path))
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
    assert summary["top_anomalies"][0]["row"] == scores["anomaly_score"].idxmax() + 1
    assert artifact(client, score.run_id, "score_histogram.png", tmp_path).stat().st_size > 5000


def test_the_tracking_uri_of_the_environment_is_respected(jobs, tmp_path, monkeypatch):
    folder, *_ = jobs
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "night shift")
    summary = job.score(folder / "model", folder / "night.csv", tmp_path / "scores.csv")
    assert summary.tracking_uri == uri
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(summary.run_id)
    assert client.get_experiment(run.info.experiment_id).name == "night shift"


@pytest.mark.parametrize("uri", ["sqlite:////proc/nowhere/mlflow.db", "nonsense://x"])
def test_a_store_that_fails_costs_a_warning_and_not_the_result(jobs, tmp_path, monkeypatch, uri):
    folder, *_ = jobs
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.warns(UserWarning, match="Tracking failed: .* The result is complete"):
        summary = job.score(folder / "model", folder / "night.csv", tmp_path / "scores.csv")
    assert summary.run_id is None
    assert len(pd.read_csv(tmp_path / "scores.csv")) == 50


def test_a_job_that_fails_logs_no_run(jobs, tmp_path):
    folder, fit, _, client = jobs
    experiments = [client.get_run(fit.run_id).info.experiment_id]
    before = len(client.search_runs(experiments))
    pd.DataFrame({"flow": [1.0], "head": [2.0]}).to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(ValueError, match="lacks 'speed'"):
        job.score(folder / "model", tmp_path / "short.csv", tmp_path / "scores.csv")
    assert len(client.search_runs(experiments)) == before


def test_ui_serves_the_runs_of_the_working_directory(jobs):
    folder, fit, *_ = jobs
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("anomaly-ae")), "ui", "--port", str(port)]
    with (folder / "ui.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        answer, deadline = None, time.monotonic() + 60
        while answer is None and time.monotonic() < deadline:
            try:
                url = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get?run_id={fit.run_id}"
                answer = json.load(urllib.request.urlopen(url, timeout=5))
            except OSError:
                time.sleep(0.5)
        assert answer is not None, (folder / "ui.log").read_text()
        assert answer["run"]["info"]["run_name"] == "fit VAEDetector on normal.csv"
    finally:
        os.killpg(server.pid, 15)
        server.wait(20)


def test_without_the_extra_the_result_is_complete_and_the_way_out_is_named(jobs, tmp_path):
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
    assert shutil.which("anomaly-ae", path=str(Path(sys.executable).parent))
