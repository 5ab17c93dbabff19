"""Runs that a store does not take: kept as files, sent once, and never with a secret, a path or a row in them."""

import json
import os
import re
import socket
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from servers import free_port, mlflow_server
from typer.testing import CliRunner

from anomaly_ae import AutoencoderDetector, load, score_file
from anomaly_ae.cli import app
from anomaly_ae.mlflow import outbox, runs
from anomaly_ae.mlflow.registry import pinned, resolve
from anomaly_ae.mlflow.store import redacted
from anomaly_ae.ops import fitting

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model and a file for it, with a value that is easy to find again."""
    folder = tmp_path_factory.mktemp("plant")
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=["flow", "head", "speed"])
    AutoencoderDetector(effort="fast", max_epochs=2, calibration="split", random_state=0).fit(rows).save(
        folder / "model"
    )
    rows.iloc[:40].assign(speed=[77.125, *[0.5] * 39]).to_csv(folder / "night.csv", index=False)
    rows.to_csv(folder / "normal.csv", index=False)
    (folder / "quick.yaml").write_text("AutoencoderDetector: {effort: fast, max_epochs: 2, random_state: 0}\n")
    return folder


def ask(site, what, **query):
    url = f"{site}/api/2.0/{what}?{urllib.parse.urlencode(query)}"
    return json.load(urllib.request.urlopen(url, timeout=30))  # noqa: S310


def tracked(place, target="scores.csv", **options):
    return score_file(place / "model", place / "night.csv", target, remember=True, track=True, **options)


def everything(folder):
    """All that files say, as text."""
    return "\n".join(path.read_bytes().decode("latin-1") for path in sorted(folder.rglob("*")) if path.is_file())


def waits(kind):
    """The records of a kind that wait: a scored batch leaves one of the job and one for the long run of its model."""
    return [folder for folder in outbox.kept() if outbox.Record.read(folder).kind == kind]


def finished(uri):
    client = mlflow.MlflowClient(uri)
    found = client.search_experiments()
    return client, client.search_runs([one.experiment_id for one in found], order_by=["attributes.start_time"])


# --- away, and back --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_server_missed_it_gets_later_and_once(place, here, monkeypatch):
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    for name in ("one.csv", "two.csv"):
        started = time.monotonic()
        with pytest.warns(UserWarning, match="The result is complete, and its run waits in mlflow-outbox") as caught:
            summary = tracked(place, name)
        assert "anomaly-ae track sync" in str(caught[0].message)
        assert len(caught) == 1
        assert (summary.run_id, summary.alarms > 0, Path(name).is_file()) == (None, True, True)
    assert time.monotonic() - started < 10  # of the second: MLflow is imported
    first, second = map(outbox.Record.read, waits("score"))
    assert first.start <= first.end <= second.start
    files = {path.name: path.read_bytes() for path in (waits("score")[0] / "files").iterdir()}
    (watched, repeated) = map(outbox.Record.read, waits("watch"))
    assert (watched.into, watched.points) == (repeated.into, repeated.points)  # the same file twice
    with pytest.warns(UserWarning, match=f"127.0.0.1:{port} cannot be reached .ConnectionError.. The result"):
        fitting.fit(place / "normal.csv", "pump", place / "quick.yaml", register="pump")
    failed = CliRunner().invoke(app, ["track", "sync"])
    assert failed.exit_code == 1
    assert failed.stderr.count("kept ") == len(outbox.kept()) == 5
    with mlflow_server(here, port) as site:
        done = CliRunner().invoke(app, ["track", "sync", "--json"])
        assert done.exit_code == 0, done.stderr
        told = json.loads(done.stdout)
        names = [one["name"] for one in told["sent"]]
        assert [name for name in names if name != watched.name] == [
            first.name,
            second.name,
            "fit AutoencoderDetector on normal.csv",
        ]
        scores = [one for one in told["sent"] if one["name"] == first.name]
        (long,) = {one["run_id"] for one in told["sent"] if one["name"] == watched.name}
        assert not Path("mlflow-outbox").exists()
        for record, one in zip([first, second], scores, strict=True):
            run = ask(site, "mlflow/runs/get", run_id=one["run_id"])["run"]
            info, data = run["info"], run["data"]
            assert (info["start_time"], info["end_time"], info["status"]) == (record.start, record.end, "FINISHED")
            assert info["run_name"] == "score night.csv"
            points = [(m["key"], m["value"], m["timestamp"], m["step"]) for m in data["metrics"]]
            assert sorted(points) == sorted(record.points)
            assert record.tags.items() <= {tag["key"]: tag["value"] for tag in data["tags"]}.items()
            (used,) = run["inputs"]["dataset_inputs"]
            assert used["dataset"]["digest"] == record.input.digest[:12]
        points = ask(site, "mlflow/runs/get", run_id=long)["run"]["data"]["metrics"]
        assert sorted((m["key"], m["value"], m["timestamp"], m["step"]) for m in points) == sorted(watched.points)
        run_id = scores[0]["run_id"]
        listed = ask(site, "mlflow/artifacts/list", run_id=run_id)["files"]
        assert {one["path"]: int(one["file_size"]) for one in listed} == {n: len(b) for n, b in files.items()}
        again = CliRunner().invoke(app, ["track", "sync"])
        assert (again.exit_code, again.stdout) == (0, "nothing   is waiting\n")
        assert len(finished(site)[1]) == 4  # two jobs, a fit, and the long run of the model
        assert told["sent"][names.index("fit AutoencoderDetector on normal.csv")]["registered"] == "models:/pump/1"
        assert pinned("models:/pump@champion") == "models:/pump/1"
        X = pd.read_csv(place / "normal.csv")
        served = load(resolve("models:/pump@champion")).anomaly_score(X)
        assert np.array_equal(served, load("pump").anomaly_score(X))


@pytest.mark.slow
def test_a_server_that_never_answers_does_not_hold_a_job_up(place, here, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        before = dict(os.environ)
        started = time.monotonic()
        with pytest.warns(UserWarning, match="run waits"):
            tracked(place)
        usual = time.monotonic() - started
        assert usual < 20
        assert dict(os.environ) == before
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        started = time.monotonic()
        with pytest.warns(UserWarning, match="run waits"):
            tracked(place, "again.csv")
        assert time.monotonic() - started < usual - 5  # who says how long to wait is heard: twice five seconds, or one


def test_a_database_that_cannot_be_opened_does_not_either(place, here, monkeypatch):
    Path("folder.db").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/folder.db")
    started = time.monotonic()
    with pytest.warns(UserWarning, match="run waits"):
        tracked(place)
    assert time.monotonic() - started < 10
    assert (len(waits("score")), len(outbox.kept())) == (1, 2)


def test_where_nothing_can_be_written_the_run_waits_elsewhere(place, here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    monkeypatch.setenv("ANOMALY_AE_OUTBOX", "/proc/nowhere")
    with pytest.warns(UserWarning, match="run waits") as caught:
        tracked(place)
    elsewhere = re.search(r"ANOMALY_AE_OUTBOX=(\S+) anomaly-ae track sync", str(caught[0].message))[1]
    monkeypatch.setenv("ANOMALY_AE_OUTBOX", elsewhere)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert [type(one) for one in runs.sync()] == [runs.Sent, runs.Sent]
    assert not Path(elsewhere).exists()


def test_a_job_of_bad_rows_alone_has_a_run(place, here):
    Path("bad.csv").write_text("flow,head,speed\n" + "x,1,2\n" * 3)
    summary = score_file(place / "model", "bad.csv", "out.csv", max_bad_rows="100%", remember=True, track=True)
    data = mlflow.MlflowClient(summary.tracking_uri).get_run(summary.run_id).data
    assert (data.metrics["rows"], data.metrics["scored"], data.metrics["rejected"]) == (3, 0, 3)


def test_a_store_that_is_there_leaves_no_outbox(place, here):
    assert tracked(place).run_id
    left = {"scores.csv", "scores.csv.job.json", "mlflow.db", "mlruns", "anomaly-ae-monitor"}
    assert {path.name for path in here.iterdir()} <= left


def test_a_job_that_is_killed_while_it_logs_has_one_run(place, here, monkeypatch):
    """Its record waits in the outbox; the same job again logs the run, and what waits adds none."""
    with monkeypatch.context() as cut:
        cut.setattr(outbox, "forget", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tracked(place)
    assert len(waits("score")) == 1
    summary = tracked(place)
    assert summary.complete_already
    runs.sync()
    client = mlflow.MlflowClient(summary.tracking_uri)
    found = client.search_runs([client.get_experiment_by_name(outbox.EXPERIMENT).experiment_id])
    assert [run.info.run_id for run in found if run.data.tags["anomaly_ae.job"] == "score"] == [summary.run_id]


# --- once ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(place, here, monkeypatch):
    """A fit that waits, and the store that is to get it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with pytest.warns(UserWarning, match="run waits"):
        fitting.fit(place / "normal.csv", "model", place / "quick.yaml")
    uri = f"sqlite:///{here}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (folder,) = outbox.kept()
    return folder, uri


def history(client, run):
    return {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}


@pytest.mark.parametrize("step", ["log_batch", "log_inputs", "log_artifacts", "set_terminated"])
def test_a_run_that_was_half_sent_is_completed(waiting, monkeypatch, step):
    folder, uri = waiting

    def fail(*given, **named):
        raise ConnectionError("cut off")

    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, step, fail)
        (outcome,) = runs.sync()
        assert "cut off" in outcome.reason
    _, (half,) = finished(uri)
    assert half.info.status == "RUNNING"
    (sent,) = runs.sync()
    client, (run,) = finished(uri)
    assert run.info.run_id == half.info.run_id == sent.run_id
    assert (run.info.status, run.info.start_time, run.info.end_time) == (
        "FINISHED", sent.record.start, sent.record.end,
    )  # fmt: skip
    points = [(p.key, p.value, p.timestamp, p.step) for points in history(client, run).values() for p in points]
    assert sorted(points) == sorted(sent.record.points)
    assert run.data.params == sent.record.params
    assert len(run.inputs.dataset_inputs) == 1
    assert not folder.exists()


def test_a_crash_between_sending_and_forgetting_makes_no_second_run(waiting):
    folder, uri = waiting
    first = runs.send(folder)
    assert folder.exists()
    assert [one.run_id for one in runs.sync()] == [first.run_id]
    assert len(finished(uri)[1]) == 1


def test_what_another_process_sends_is_left_to_it(waiting):
    folder, _ = waiting
    with outbox.held(folder) as mine:
        assert mine
        assert runs.sync() == []
    assert len(runs.sync()) == 1


def test_a_damaged_record_is_named_and_kept_and_the_others_are_sent(waiting):
    folder, uri = waiting
    damaged = folder.with_name("damaged")
    damaged.mkdir()
    (damaged / "run.json").write_text('{"kind": "score"')
    done = CliRunner().invoke(app, ["track", "sync"])
    assert done.exit_code == 1
    assert re.search(r"kept +\S*damaged: ", done.stderr)
    assert done.stdout.startswith("sent      fit AutoencoderDetector on normal.csv")
    assert outbox.kept() == [damaged.relative_to(Path.cwd()) if damaged.is_absolute() else damaged]
    assert len(finished(uri)[1]) == 1


# --- what no run says ------------------------------------------------------------------------------------------------

SECRET = "hunter2/x"  # noqa: S105


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://user:hunter2@host:5000/api", "http://host:5000/api"),
        ("see https://user:hun@ter2@host, please", "see https://host, please"),
        ("postgresql://u:hunter2@db/x?sslmode=on&password=hunter2", "postgresql://db/x?sslmode=on&password=***"),
        ("mysql://db/x?ssl_key=hunter2&a=b", "mysql://db/x?ssl_key=***&a=b"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://host/a@b", "http://host/a@b"),
    ],
)
def test_addresses_are_told_without_who_goes_there(text, left):
    assert redacted(text) == left


def test_credentials_are_nowhere(place, here, monkeypatch):
    port, quoted = free_port(), urllib.parse.quote(SECRET, safe="")
    for token in (False, True):
        user = "" if token else f"plantuser:{quoted}@"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{user}127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN" if token else "MLFLOW_TRACKING_PASSWORD", SECRET)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "plantuser")
        job = ["score", str(place / "model"), str(place / "night.csv"), "--output", f"{token}.csv", "--json"]
        done = CliRunner().invoke(app, job)
        assert done.exit_code == 0, done.output
        assert "waits" in done.stderr
        synced = CliRunner().invoke(app, ["track", "sync", "--json"])
        assert synced.exit_code == 1
        for told in (done.output, synced.output, everything(here)):
            assert "plantuser" not in told
            assert SECRET not in told
            assert quoted not in told
    assert len(waits("score")) == 2
    uri = f"http://plantuser:{quoted}@127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    served = CliRunner().invoke(app, ["ui"])
    assert served.exit_code == 2
    assert quoted not in served.output


def test_a_run_holds_no_path_and_no_row(place, here, monkeypatch):
    fitted = fitting.fit(place / "normal.csv", here / "deep" / "model", place / "quick.yaml")
    scored = tracked(place, here / "scores.csv", keep=["speed"])
    sampled = tracked(place, here / "more.csv", keep=["speed"], log_samples=2)
    assert fitted.run_id
    assert scored.run_id
    assert sampled.run_id
    client, found = finished(f"sqlite:///{here}/mlflow.db")
    assert len(found) == 4  # with the long run of the second's and third's model
    for run in found:
        said = json.dumps([run.data.to_dictionary(), [one.to_dictionary() for one in run.inputs.dataset_inputs]])
        files = everything(Path(client.download_artifacts(run.info.run_id, "", str(here / run.info.run_id))))
        for folder in (place, here, Path.home(), Path(sys.executable).parent):
            assert str(folder) not in said + files
        if run.info.run_id != sampled.run_id:
            assert "77.125" not in said + files
        else:
            summary = json.loads((here / run.info.run_id / "summary.json").read_text())
            assert summary["top_anomalies"][0]["speed"] == 77.125
            assert len(summary["top_anomalies"]) == 2
    assert scored.top_anomalies[0]["speed"] == 77.125  # who ran the job is told
