"""The flavor: models in MLflow that load without pickle, say what the shell says, and are served."""

import json
import os
import subprocess
import sys
import urllib.request

import numpy as np
import pandas as pd
import pytest
from servers import serving
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from anomaly_ae import AutoencoderDetector, Mahalanobis, SeriesDetector, VAEDetector, View, load, save, score_file
from anomaly_ae.errors import ConfigError, DataError, ModelFolderError

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")

from anomaly_ae.mlflow import load_model, log_model  # noqa: E402

SMALL = {"effort": "fast", "max_epochs": 2, "calibration": "split", "random_state": 0}


def table(n, seed=0):
    rng = np.random.default_rng(seed)
    load_kw = rng.normal(size=n)
    return pd.DataFrame(
        {
            "load_kw": load_kw,
            "temperature": load_kw + rng.normal(size=n) / 4,
            "site": rng.choice(["north", "south"], n),
            "day": pd.date_range("2026-01-01", periods=n, freq="h"),
            "starts": rng.integers(0, 9, n),
        }
    )


def series(n, seed=0):
    rng, t = np.random.default_rng(seed), np.arange(n)
    return pd.DataFrame(
        {
            "time": pd.date_range("2026-03-01", periods=n, freq="min"),
            "flow": np.sin(t / 5) + rng.normal(size=n) / 20,
            "head": np.cos(t / 5) + rng.normal(size=n) / 20,
        }
    )


@pytest.fixture(scope="module")
def fitted():
    """A detector of rows of all kinds, one of series, and a pipeline that ends in one."""
    numbers = table(300).drop(columns="day")
    before = ColumnTransformer([("n", StandardScaler(), ["load_kw", "temperature"]), ("c", OneHotEncoder(), ["site"])])
    view = [View(Mahalanobis(), window=8)]
    return {
        "rows": (AutoencoderDetector(**SMALL).fit(table(300)), table(40, 1)),
        "vae": (VAEDetector(**SMALL).fit(table(300)), table(40, 1)),
        "series": (SeriesDetector(views=view, time="time", random_state=0).fit(series(600)), series(60, 1)),
        "pipeline": (make_pipeline(before, AutoencoderDetector(**SMALL)).fit(numbers), table(40, 1)),
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of SQLite, as a notebook would set it."""
    folder = tmp_path_factory.mktemp("store")
    before, where = mlflow.get_tracking_uri(), os.getcwd()
    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("notebook")  # that of another store may be the active one still
    yield folder
    mlflow.set_tracking_uri(before)
    os.chdir(where)


@pytest.fixture(scope="module")
def logged(store, fitted):
    """Each of them, as MLflow has it."""
    with mlflow.start_run():
        return {name: log_model(model, name, registered_model_name=name) for name, (model, _) in fitted.items()}


EACH = pytest.mark.parametrize("name", ["rows", "vae", "series", "pipeline"])


def scores_of(model, X):
    return model.score_samples(X)


@EACH
def test_what_comes_back_scores_to_the_same_bits(fitted, logged, name):
    model, X = fitted[name]
    for uri in (logged[name].model_uri, f"models:/{name}/1"):
        again = load_model(uri)
        assert type(again) is type(model)
        np.testing.assert_array_equal(scores_of(again, X), scores_of(model, X))
    told = mlflow.pyfunc.load_model(logged[name].model_uri).predict(X)
    np.testing.assert_array_equal(-told["anomaly_score"], scores_of(model, X))
    np.testing.assert_array_equal(np.where(told["is_anomaly"], -1, 1), model.predict(X))


def test_all_load_in_a_python_that_may_not_unpickle(fitted, logged, store, tmp_path):
    for name, (_, X) in fitted.items():
        X.to_parquet(tmp_path / f"{name}.parquet")
    code = (
        "import pickle, sys\n"
        "def never(*given, **named): raise SystemExit('unpickled')\n"
        "import mlflow, numpy, pandas, anomaly_ae.mlflow, sklearn.pipeline, skops.io\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "tables = {name: pandas.read_parquet(f'{name}.parquet') for name in sys.argv[2::2]}\n"
        "pickle.load = pickle.loads = pickle.Unpickler = never\n"
        "for (name, X), uri in zip(tables.items(), sys.argv[3::2], strict=True):\n"
        "    numpy.save(f'{name}.npy', anomaly_ae.mlflow.load_model(uri).score_samples(X))\n"
        "    mlflow.pyfunc.load_model(uri).predict(X)\n"
    )
    given = [word for name in fitted for word in (name, logged[name].model_uri)]
    command = [sys.executable, "-c", code, f"sqlite:///{store}/mlflow.db", *given]
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, (model, X) in fitted.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), scores_of(model, X))


def test_the_signature_has_the_columns_of_the_fit_and_of_the_scores(fitted, logged):
    signature = logged["rows"].signature
    assert signature.inputs.input_names() == list(table(1))
    told = mlflow.pyfunc.load_model(logged["rows"].model_uri).predict(table(5, 1))
    assert list(told) == signature.outputs.input_names()
    assert logged["series"].signature.inputs.input_names() == ["time", "flow", "head"]
    assert logged["rows"].metadata["threshold"] == fitted["rows"][0].threshold_.value_
    assert logged["rows"].metadata["rows"] == 300


@pytest.mark.parametrize("given", [np.asarray, np.ndarray.tolist, pd.DataFrame], ids=["array", "list", "table"])
def test_a_model_of_an_array_takes_arrays(store, given):
    X = table(300)[["load_kw", "temperature", "starts"]].to_numpy()
    for det in (AutoencoderDetector(**SMALL), SeriesDetector(views=[View(Mahalanobis(), window=8)], random_state=0)):
        with mlflow.start_run():
            served = mlflow.pyfunc.load_model(log_model(det.fit(X)).model_uri)
        np.testing.assert_array_equal(-served.predict(given(X[:5]))["anomaly_score"], det.score_samples(X[:5]))


def test_params_choose_what_is_said(logged):
    served, X = mlflow.pyfunc.load_model(logged["rows"].model_uri), table(5, 1)
    assert list(served.predict(X, params={"columns": ["is_anomaly", "p_value"]})) == ["is_anomaly", "p_value"]
    one = served.predict(X, params={"top": 1})
    assert "top_1" in one
    assert "top_2" not in one
    with pytest.raises(DataError, match="nonsense"):
        served.predict(X, params={"columns": ["nonsense"]})


def test_columns_go_by_name_and_one_that_is_missing_is_named(fitted, logged):
    served, X = mlflow.pyfunc.load_model(logged["rows"].model_uri), table(20, 1)
    usual = served.predict(X)
    mixed = X[["starts", "day", "site", "temperature", "load_kw"]].assign(more=1)
    pd.testing.assert_frame_equal(served.predict(mixed), usual)
    pd.testing.assert_frame_equal(served.predict(X.assign(starts=X["starts"].astype(float))), usual)
    with pytest.raises(mlflow.exceptions.MlflowException, match="site"):
        served.predict(X.drop(columns="site"))


def test_a_row_that_cannot_be_scored_has_a_reason_and_the_others_their_scores(logged):
    served, X = mlflow.pyfunc.load_model(logged["rows"].model_uri), table(5, 1)
    usual, broken = served.predict(X), X.copy()
    broken.loc[2, "load_kw"] = np.inf
    told = served.predict(broken)
    assert told["row"].tolist() == [1, 2, 3, 4, 5]
    assert np.isnan(told["anomaly_score"][2])
    assert "load_kw" in told["reasons"][2]
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(told["anomaly_score"][others], usual["anomaly_score"][others])


@pytest.mark.parametrize("name", ["rows", "pipeline"])
def test_a_folder_that_was_tampered_with_is_refused(fitted, tmp_path, name):
    folder = save(fitted[name][0], tmp_path / "model")
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".skops")]
    assert files
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ModelFolderError):
            load(folder)
        path.write_bytes(whole)
    load(folder)


def test_a_step_of_a_type_that_is_not_known_is_refused_and_nothing_is_written(tmp_path):
    X = table(300)[["load_kw", "temperature"]]
    pipeline = make_pipeline(FunctionTransformer(lambda X: X), AutoencoderDetector(**SMALL)).fit(X)
    with pytest.raises(ConfigError, match="kept without pickle"):
        save(pipeline, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="ends in StandardScaler"):
        save(make_pipeline(StandardScaler()).fit(X), tmp_path / "model")
    with pytest.raises(ConfigError, match="StandardScaler"):
        save(StandardScaler().fit(X), tmp_path / "model")
    twice = make_pipeline(AutoencoderDetector(**SMALL), AutoencoderDetector(**SMALL)).fit(X)
    with pytest.raises(ConfigError, match="one detector at the end, however: autoencoderdetector-1"):
        save(twice, tmp_path / "model")


@pytest.mark.slow
def test_models_of_other_flavors_are_named(store):
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(StandardScaler().fit(np.eye(3)), name="other")
    with pytest.raises(ConfigError, match="sklearn"):
        load_model(info.model_uri)


@pytest.mark.slow
def test_a_real_server_says_what_the_shell_says(fitted, logged, store, tmp_path):
    model, _ = fitted["rows"]
    X = table(60, 2)
    X.to_csv(tmp_path / "night.csv", index=False)
    score_file(model.save(tmp_path / "model"), tmp_path / "night.csv", tmp_path / "scores.csv")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", logged["rows"].model_uri]
    environment = {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db",
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
    }
    with serving([*command, "--env-manager", "local"], tmp_path, ready="ping", **environment) as site:
        sent = {"dataframe_split": json.loads(X.to_json(orient="split", index=False, date_format="iso"))}
        request = urllib.request.Request(  # noqa: S310
            f"{site}/invocations", json.dumps(sent).encode(), {"Content-Type": "application/json"}
        )
        answer = json.load(urllib.request.urlopen(request, timeout=60))  # noqa: S310
    told, shell = pd.DataFrame(answer["predictions"]), pd.read_csv(tmp_path / "scores.csv")
    np.testing.assert_allclose(told["anomaly_score"], shell["anomaly_score"], rtol=1e-9)
    assert told["is_anomaly"].tolist() == shell["is_anomaly"].tolist()
    assert told["top_1"].tolist() == shell["top_1"].tolist()
