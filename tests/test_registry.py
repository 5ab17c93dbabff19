"""Models of a registry: registered by a fit, promoted and put back, named in a job, and judged side by side."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from anomaly_ae import AutoencoderDetector, load, score_file
from anomaly_ae.cli import app
from anomaly_ae.errors import BadRowsError, ConfigError, OutputError
from anomaly_ae.ops import sinks
from anomaly_ae.ops.tracking import digest
from anomaly_ae.ops.verdicts import AGREEMENT
from anomaly_ae.version import __version__

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")

from anomaly_ae.mlflow import registry  # noqa: E402
from anomaly_ae.mlflow.registry import pinned, promote, resolve, rollback  # noqa: E402

N = 20_000  # three blocks
BEFORE = ["anomaly_score", "p_value", "is_anomaly"]
BESIDE = ["challenger_score", "challenger_p_value", "challenger_is_anomaly"]


def rows(n, seed=0):
    """Rows of several kinds of column, with gaps."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "load": np.where(rng.random(n) < 0.02, np.nan, rng.normal(size=n).round(4)),
            "flow": rng.normal(size=n).round(4),
            "site": rng.choice(["north", "south, old", 'the "new" one'], n),
            "on": rng.random(n) < 0.5,
            "name": [f"n{i}" for i in range(n)],
        }
    )


def small(seed=0):
    return AutoencoderDetector(effort="fast", max_epochs=2, calibration="split", random_state=seed)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models that look at other columns in another order, a long file of which some rows are bad, a YAML file."""
    folder = tmp_path_factory.mktemp("side")
    small().fit(rows(400)[["load", "flow", "site", "on"]]).save(folder / "champion")
    small(1).fit(rows(300, 5)[["site", "load"]]).save(folder / "challenger")
    text = rows(N, 1).to_csv(index=False).splitlines()
    for row in np.random.default_rng(2).choice(N, 40, replace=False):
        text[row + 1] = "x" + text[row + 1]
    (folder / "new.csv").write_text("\n".join(text) + "\n")
    for seed in (0, 1, 2):
        (folder / f"{seed}.yaml").write_text(
            f"AutoencoderDetector: {{effort: fast, max_epochs: 2, random_state: {seed}}}"
        )
    rows(200).drop(columns="name").to_csv(folder / "normal.csv", index=False)
    return folder


def shell(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


# --- side by side ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_each_of_two_models_says_what_it_says_alone(place, tmp_path, ending):
    made = {}
    for name, models in {
        "first": {"model": place / "champion"},
        "second": {"model": place / "challenger"},
        "both": {"model": place / "champion", "challenger": place / "challenger"},
    }.items():
        made[name] = score_file(**models, input=place / "new.csv", output=tmp_path / f"{name}{ending}", keep=["name"])
    read = pd.read_parquet if ending == ".parquet" else pd.read_csv
    first, second, both = (read(tmp_path / f"{name}{ending}") for name in made)
    pd.testing.assert_frame_equal(both.drop(columns=BESIDE), first, check_exact=True)
    renamed = second[["row", *BEFORE]].set_axis(["row", *BESIDE], axis=1)
    pd.testing.assert_frame_equal(both[["row", *BESIDE]], renamed, check_exact=True)
    assert list(both.columns) == [*first.columns, *BESIDE]
    assert made["both"].top_anomalies == made["first"].top_anomalies
    assert made["both"].challenger["alarms"] == made["second"].alarms
    assert made["both"].challenger["threshold"] == made["second"].threshold
    assert (made["both"].rejected, made["first"].challenger) == (40, None)


def test_the_table_of_agreement_and_the_strongest_disagreements_are_those_of_the_output(place, tmp_path):
    (tmp_path / "twice.csv").write_bytes((place / "new.csv").read_bytes())
    shell(
        "score", place / "champion", place / "new.csv", tmp_path / "twice.csv", "--output", tmp_path / "out.parquet",
        "--challenger", place / "challenger", "--no-track",
    )  # fmt: skip
    done = shell(
        "score", place / "champion", place / "new.csv", tmp_path / "twice.csv", "--output", tmp_path / "out.parquet",
        "--challenger", place / "challenger", "--no-track", "--json",
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["complete_already"]
    out, said = pd.read_parquet(tmp_path / "out.parquet"), told["challenger"]
    one, two = out["is_anomaly"], out["challenger_is_anomaly"]
    counted = [int(both.sum()) for both in (one & two, one & ~two, ~one & two, ~one & ~two)]
    assert [said[name] for name in AGREEMENT] == counted
    assert min(counted) > 0
    assert sum(counted) == told["scored"]
    apart = (np.log(out["p_value"]) - np.log(out["challenger_p_value"])).abs()[one != two]
    worst = out.loc[apart.sort_values(ascending=False, kind="stable").index[:5]]
    assert said["disagreements"] == worst[["file", "row", *BEFORE, *BESIDE]].to_dict("records")


@pytest.mark.usefixtures("short_blocks")
def test_an_interrupted_job_of_two_goes_on_to_the_same_bytes(place, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "EVERY", 0.0)
    job = {"model": place / "champion", "input": place / "new.csv", "challenger": place / "challenger"}
    whole = score_file(**job, output=tmp_path / "whole.csv")

    def stop(share, what):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            score_file(**job, output=tmp_path / "out.csv", progress=stop)
    with pytest.raises(OutputError, match="options challenger"):
        score_file(**job | {"challenger": place / "champion"}, output=tmp_path / "out.csv")
    again = score_file(**job, output=tmp_path / "out.csv")
    assert again.resumed_rows > 0
    assert (again.challenger, again.top_anomalies) == (whole.challenger, whole.top_anomalies)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    with pytest.raises(OutputError, match="options challenger"):
        score_file(place / "champion", place / "new.csv", tmp_path / "out.csv")


def test_a_row_is_bad_where_either_model_cannot_judge_it(place, tmp_path):
    frame = rows(100, 3)
    frame["load"] = np.nan
    frame.astype({"on": object}).assign(on=["maybe", *frame["on"][1:]]).to_csv(tmp_path / "new.csv", index=False)
    alone = score_file(place / "challenger", tmp_path / "new.csv", tmp_path / "alone.csv")
    assert alone.rejected == 0
    both = {"challenger": place / "champion", "max_bad_rows": 1}
    assert score_file(place / "challenger", tmp_path / "new.csv", tmp_path / "both.csv", **both).rejected == 1
    assert pd.read_csv(tmp_path / "both.csv.rejects.csv")["row"].tolist() == [1]
    with pytest.raises(BadRowsError, match=r"row 1, .* 'on': 'maybe'"):
        score_file(place / "challenger", tmp_path / "new.csv", tmp_path / "c.csv", **both | {"max_bad_rows": 0})


def test_models_that_read_a_column_differently_are_refused(place, tmp_path):
    frame = rows(200).assign(load=[f"v{i % 3}" for i in range(200)])
    small().fit(frame[["load", "flow"]]).save(tmp_path / "other")
    job = (place / "champion", place / "new.csv", tmp_path / "out.csv")
    with pytest.raises(ConfigError, match=r"side by side need columns of the same kind, however: \['load'\]"):
        score_file(*job, challenger=tmp_path / "other")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("samples", [0, 1, 9])
def test_a_run_has_as_many_rows_as_asked_for(place, here, samples):
    job = ("score", place / "champion", place / "new.csv", "--output", "out.csv", "--log-samples", samples, "--json")
    told = json.loads(shell(*job, "--challenger", place / "challenger").stdout)
    client = mlflow.MlflowClient(told["tracking_uri"])
    logged = json.loads(Path(client.download_artifacts(told["run_id"], "summary.json", ".")).read_text())
    strangest = pd.read_csv("out.csv").sort_values("anomaly_score", ascending=False, kind="stable")["row"]
    assert [row["row"] for row in logged["top_anomalies"]] == strangest[:samples].tolist()
    assert [row["row"] for row in told["top_anomalies"]] == strangest[: max(5, samples)].tolist()
    assert logged["challenger"]["disagreements"] == told["challenger"]["disagreements"][:samples]
    data = client.get_run(told["run_id"]).data
    assert [data.metrics[f"alarms_{name}"] for name in AGREEMENT] == [told["challenger"][name] for name in AGREEMENT]
    assert data.metrics["challenger_alarms"] == told["challenger"]["alarms"]
    assert (data.tags["anomaly_ae.model"], data.tags["anomaly_ae.challenger"]) == ("champion", "challenger")


# --- the registry ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pump(place, here):
    """Three versions of a model, of which the first is the champion and the last the challenger."""
    told = [
        json.loads(
            shell(
                "fit", place / f"{seed}.yaml", "--data", place / "normal.csv", "--model", f"m{seed}",
                "--register", "pump", "--json",
            ).stdout
        )
        for seed in (0, 1, 2)
    ]  # fmt: skip
    assert [(one["registered"], one["alias"]) for one in told] == [
        ("models:/pump/1", "champion"), ("models:/pump/2", "challenger"), ("models:/pump/3", "challenger"),
    ]  # fmt: skip
    return told


def aliases(told):
    found = mlflow.MlflowClient(told[0]["tracking_uri"]).get_registered_model("pump").aliases
    return {name: int(version) for name, version in found.items()}


def test_a_model_has_many_names_and_is_the_same_by_each(pump, place, here):
    X = rows(50, 9).drop(columns="name")
    X.to_csv("night.csv", index=False)
    for seed, uri in enumerate(["models:/pump@champion", "models:/pump/2", "models:/pump@challenger"]):
        assert pinned(uri) == f"models:/pump/{seed + 1}"
        for name in (uri, f"runs:/{pump[seed]['run_id']}/model", f"m{seed}"):
            assert np.array_equal(load(resolve(name)).anomaly_score(X), load(f"m{seed}").anomaly_score(X))
            assert (resolve(name) / "manifest.json").read_bytes() == Path(f"m{seed}/manifest.json").read_bytes()
    assert resolve("m0") == Path("m0")
    first = json.loads(shell("score", "models:/pump@champion", "night.csv", "--output", "out.csv", "--json").stdout)
    assert first["model"] == "models:/pump/1"
    for name in ("m0", "models:/pump/1"):
        told = json.loads(shell("score", name, "night.csv", "--output", "out.csv", "--json").stdout)
        assert told["complete_already"]  # the same model, by whatever name
    tags = mlflow.MlflowClient(first["tracking_uri"]).get_run(first["run_id"]).data.tags
    assert tags["anomaly_ae.model"] == "models:/pump/1"
    assert shell("info", "models:/pump/3").stdout == shell("info", "m2").stdout
    assert shell("check", "models:/pump/3", place / "normal.csv").stdout.startswith("as at fit")


def test_a_version_says_by_its_tags_what_helps_to_choose(pump, place):
    for number, told in enumerate(pump):
        tags = mlflow.MlflowClient(told["tracking_uri"]).get_model_version("pump", str(number + 1)).tags
        found = {name.removeprefix("anomaly_ae."): value for name, value in tags.items()}
        assert found.pop("promised_false_alarm_rate") == str(told["promised_false_alarm_rate"])
        assert found == {
            "rows": "200", "alpha": "0.05", "data": "normal.csv", "data_digest": digest(place / "normal.csv"),
            "model": f"m{number}", "model_digest": digest(f"m{number}/manifest.json"), "version": __version__,
        }  # fmt: skip


def test_promotions_are_taken_back_one_by_one(pump):
    assert aliases(pump) == {"champion": 1, "challenger": 3}
    assert shell("promote", "pump").stdout == "promoted  version 3 is pump@champion, which was version 1\n"
    assert aliases(pump) == {"champion": 3}
    told = json.loads(shell("promote", "pump", "--version", "2", "--json").stdout)
    assert told == {"name": "pump", "version": "2", "alias": "champion", "before": "3"}
    assert pinned("models:/pump@champion") == "models:/pump/2"
    assert (
        shell("promote", "pump", "--rollback").stdout == "put back  version 3 is pump@champion, which was version 2\n"
    )
    assert rollback("pump").version == "1"
    with pytest.raises(ConfigError, match="replaced none"):
        rollback("pump")
    assert aliases(pump) == {"champion": 1}
    with pytest.raises(ConfigError, match=r"no @challenger\. Name one with --version"):
        promote("pump")
    with pytest.raises(ConfigError, match="is 1 already"):
        promote("pump", "1")
    promote("pump", "2", "canary")
    assert aliases(pump) == {"champion": 1, "canary": 2}
    with pytest.raises(ConfigError, match="replaced none"):
        rollback("pump", "canary")


def test_going_back_and_forth_ends(pump):
    """Versions that replaced each other: each way back is gone once."""
    promote("pump", "2")
    promote("pump", "1")
    assert [rollback("pump").version for _ in range(2)] == ["2", "1"]
    with pytest.raises(ConfigError, match="replaced none"):
        rollback("pump")


@pytest.mark.parametrize(
    "command",
    ["score models:/pump@nobody {csv} --output o.csv", "score models:/pump/9 {csv} --output o.csv", "promote nobody",
     "check models:/nobody/1 {csv}", "info runs:/0123/model", "promote pump --version 9", "promote pump --rollback",
     "promote pump --rollback --version 1", "fit --data {csv} --model m --register a/b",
     "fit --data {csv} --model m --register a --no-track", "fit --data {csv} --time load --model m --register a:b"],
)  # fmt: skip
def test_what_is_not_there_is_refused_in_a_sentence(place, here, command):
    done = CliRunner().invoke(app, command.format(csv=place / "normal.csv").split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .+, however: .+\. .+\.\n", done.stderr)
    assert {path.name for path in here.iterdir()} <= {"mlflow.db", "mlruns"}


def test_a_name_that_is_no_address_needs_no_mlflow(place, monkeypatch):
    monkeypatch.setattr(registry, "connected", None)
    assert resolve(place / "champion") == place / "champion"
    assert pinned(place / "champion") == str(place / "champion")


def test_a_model_of_series_is_registered_and_scored_by_its_name(here):
    pump = Path(__file__).parents[1] / "sample_data" / "pump_normal.csv"
    pd.read_csv(pump)[:1500].to_csv("normal.csv", index=False)
    Path("pump.yaml").write_text(
        "SeriesDetector: {views: [{View: {scorer: Mahalanobis, window: 16}}], time: time, random_state: 0}"
    )
    told = json.loads(
        shell("fit", "pump.yaml", "--data", "normal.csv", "--model", "m", "--register", "line", "--json").stdout
    )
    assert (told["registered"], told["alias"]) == ("models:/line/1", "champion")
    for name, output in (("models:/line@champion", "a.csv"), ("m", "b.csv")):
        shell("score", name, "normal.csv", "--output", output)
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()
    run = mlflow.MlflowClient(told["tracking_uri"]).get_run(told["run_id"])
    assert run.data.metrics["threshold"] == load("m").threshold_.value_
    assert run.info.run_name == "fit SeriesDetector on normal.csv"
