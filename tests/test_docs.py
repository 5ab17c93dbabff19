"""What the README says is run: Python blocks, shell blocks, configurations, every line of the zoo."""

import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import anomaly_ae
from anomaly_ae import NegativeELBO, StandardizedError, VAEDetector, config
from anomaly_ae.cli import app
from anomaly_ae.estimator import Detector
from anomaly_ae.storage import to_tree, vocabulary

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


@pytest.fixture
def workplace(tmp_path):
    for name in ("sample_data", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(command, folder, **variables):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | variables
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    if "mlflow" in sys.modules:  # whose active experiment may be that of another test
        monkeypatch.setattr(sys.modules["mlflow"].tracking.fluent, "_active_experiment_id", None)
        monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own README
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)  # as it was


def test_shell_blocks_run(workplace, monkeypatch):
    """In this process: that the command is installed is shown elsewhere, and a start of it takes seconds."""
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace / 'mlflow.db'}")
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        command, *arguments = shlex.split(line)
        assert command == "anomaly-ae"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    assert len(pd.read_csv(workplace / "scores.csv")) == 312
    scores = pd.read_csv(workplace / "bearing_scores.csv")
    damaged = pd.read_csv(ROOT / "sample_data" / "bearing_labels.csv")["damaged"] == 1
    found, false = (int(scores["is_anomaly"][those].sum()) for those in (damaged, ~damaged))
    told = re.search(r"Of the (\d+) damaged records (\d+) raise an alarm, of the (\d+) others (\d+)", README)
    assert [int(told[1]), int(told[3])] == [damaged.sum(), (~damaged).sum()]
    assert abs(found - int(told[2])) <= 1  # another processor may move a score that is near the threshold
    assert abs(false - int(told[4])) <= 1
    blamed = scores["top_1"][damaged].str.extract(r"(\d+)Hz")[0].astype(float) / 107.5
    assert ((blamed - blamed.round()).abs() < 8 / 107.5).mean() > 0.9  # lines are 8 Hz apart


@pytest.mark.parametrize("text", blocks("yaml") + [path.read_text() for path in CONFIGS])
def test_configurations_make_detectors_and_round_trip(text):
    detector = config.loads(text)
    assert repr(config.loads(config.dumps(detector))) == repr(detector)


ZOO = re.findall(r"^\|[^|]*\| `(\w+Detector\(.*\))` \|", README, flags=re.M)


def of_the_zoo(line):
    names = {name: getattr(anomaly_ae, name) for name in [*vocabulary(), "AutoencoderDetector", "VAEDetector"]}
    return eval(line, names)  # noqa: S307 - our own README


@pytest.mark.parametrize("line", ZOO)
def test_every_line_of_the_zoo_is_one_in_yaml_as_well(line):
    detector = of_the_zoo(line)
    assert isinstance(detector, Detector)
    written = config.dumps(detector)
    assert config.dumps(config.loads(written)) == written


@pytest.mark.slow
@pytest.mark.parametrize("line", ZOO)
def test_every_line_of_the_zoo_detects(line):
    detector = of_the_zoo(line)
    normal = pd.read_csv(ROOT / "sample_data" / "breast_cancer_benign.csv")
    mixed = pd.read_csv(ROOT / "sample_data" / "breast_cancer_mixed.csv").drop(columns="patient")
    malignant = pd.read_csv(ROOT / "sample_data" / "breast_cancer_labels.csv")["malignant"] == 1
    if detector.scorer is None:  # the net by itself, without the neighbours that are fused with it
        detector.set_params(scorer=NegativeELBO() if isinstance(detector, VAEDetector) else StandardizedError())
    known = malignant & (malignant.cumsum() <= 5)  # told to those that ask for labels, and judged by none
    rows, y = pd.concat([normal, mixed[known]]), np.repeat([1, -1], [len(normal), 5])
    rows, y = (rows, y) if detector.asks_for_labels() else (normal, None)
    score = detector.set_params(random_state=0, calibration="split").fit(rows, y).anomaly_score(mixed[~known])
    malignant = malignant[~known].to_numpy()
    assert np.mean(score[malignant][:, None] > score[~malignant]) > 0.85  # AUROC


def test_the_zoo_and_the_table_of_parts_are_complete():
    assert len(ZOO) >= 9
    for name in vocabulary():
        assert f"`{name}`" in README or f"`{name}()`" in README


def test_the_sample_is_what_its_script_writes(tmp_path):
    script = (ROOT / "sample_data" / "make_breast_cancer.py").read_text()
    (tmp_path / "make.py").write_text(script)
    run([sys.executable, "make.py"], tmp_path)
    for name in ("benign", "mixed", "labels"):
        file = f"breast_cancer_{name}.csv"
        assert (tmp_path / file).read_bytes() == (ROOT / "sample_data" / file).read_bytes()


def test_pipelines_run(workplace):
    train, score = (str(ROOT / "pipelines" / name) for name in ("train.py", "score.py"))
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{workplace / 'mlflow.db'}"}
    data = "sample_data/breast_cancer_benign.csv"
    run([sys.executable, train, "configs/breast_cancer.yaml", data, "model"], workplace, **variables)
    run([sys.executable, score, "model", "sample_data/breast_cancer_mixed.csv", "scores.csv"], workplace, **variables)
    assert len(pd.read_csv(workplace / "scores.csv")) == 312


def test_the_configuration_of_the_sample_spells_the_defaults_out():
    detector, _ = config.load(ROOT / "configs" / "breast_cancer.yaml")
    likelihood = anomaly_ae.Mixed(anomaly_ae.Normal(), anomaly_ae.Bernoulli(), anomaly_ae.Categorical())
    mine, usual = (
        {axis: to_tree(part) for axis, part in one.parts().items() if part is not None}
        for one in (detector, anomaly_ae.AutoencoderDetector(likelihood=likelihood))  # what stands for its `None`
    )
    assert mine == usual
