"""The shell, as people use it: files in, files out, an exit code, and one sentence when something is wrong."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest
import typer
from typer.testing import CliRunner

from anomaly_ae import config, load
from anomaly_ae.cli import app
from anomaly_ae.cli.app import Command
from anomaly_ae.errors import BadRowsError
from anomaly_ae.version import __version__

SHELL = Path(sys.executable).with_name("anomaly-ae")
COLUMNS = ["a", "b", "c", "d"]
NAMES = ["x,1", 'say "x"', "007", ""]  # what must come back as it went in
COMMANDS = {command.callback.__name__: command.callback.__doc__ for command in app.registered_commands} | {
    f"{group.name} {command.callback.__name__}": command.callback.__doc__
    for group in app.registered_groups
    for command in group.typer_instance.registered_commands
}
FIT = "fit {place}/quick.yaml --data {place}/normal.csv --model {tmp}/"
SCORE = "score {place}/model {place}/normal.csv --output {tmp}/"


def rows(n, seed=0):
    return pd.DataFrame(np.random.default_rng(seed).normal(size=(n, 4)), columns=COLUMNS)


def write(frame, path):
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


def read(path):
    if path.suffix != ".csv":
        return pd.read_parquet(path)
    verbatim = pyarrow.csv.ConvertOptions(column_types={"name": pa.string()}, strings_can_be_null=False)
    return pyarrow.csv.read_csv(path, convert_options=verbatim).to_pandas()


def run(*args, track=False):
    return CliRunner().invoke(app, [*map(str, args), *([] if track or args[0] == "info" else ["--no-track"])])


def done(*args, track=False):
    result = run(*args, track=track)
    assert result.exit_code == 0, result.stderr + repr(result.exception)
    return result


def refused(folder, job, words=(), code=2):
    """Says one line with these words in it, and leaves whatever is in the folder as it is."""
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    result = run(*job)
    assert result.exit_code == code, repr(result.exception)
    assert result.stdout == ""
    assert re.fullmatch("error: .+\n", result.stderr)
    assert all(word in result.stderr for word in words), result.stderr
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with normal rows, a quick configuration and a model of the two; nobody writes there."""
    place = tmp_path_factory.mktemp("place")
    write(rows(300), place / "normal.csv")
    (place / "quick.yaml").write_text("AutoencoderDetector: {max_epochs: 3, random_state: 0}\n")
    done(*(FIT + "model").format(place=place, tmp=place).split())
    return place


# --- what it does ----------------------------------------------------------------------------------------------------


def test_a_file_becomes_a_model_and_a_model_says_which_rows_are_strange(place, tmp_path):
    write(rows(100, 1) + np.eye(100, 4) * 50, tmp_path / "new.csv")
    for job in (FIT + "model", "score {tmp}/model {tmp}/new.csv --output {tmp}/out.csv"):
        args = [SHELL, *job.format(place=place, tmp=tmp_path).split(), "--no-track", "--json"]
        ran = subprocess.run(args, capture_output=True, text=True, check=True)
        summary = json.loads(ran.stdout)
        assert ran.stderr == ""
    out = read(tmp_path / "out.csv")
    assert list(out["top_1"][:4]) == COLUMNS
    assert out["is_anomaly"][:4].all()
    assert sorted(row["row"] for row in summary["top_anomalies"])[:4] == [1, 2, 3, 4]
    assert {path.name for path in tmp_path.iterdir()} == {"new.csv", "model", "out.csv", "out.csv.job.json"}


@pytest.mark.parametrize("source", ["new.csv", "new.parquet"])
@pytest.mark.parametrize("target", ["out.csv", "out.parquet", "out.pq"])
@pytest.mark.parametrize("keep", [["--keep", "name,day"], ["--keep", "name", "--keep", "day"]])
def test_the_output_is_what_the_model_says_to_the_bit(place, tmp_path, source, target, keep):
    new, model = rows(40, 1).assign(name=NAMES * 10, day="2024-02-30"), load(place / "model")
    done("score", place / "model", write(new, tmp_path / source), "--output", tmp_path / target, *keep)
    out = read(tmp_path / target)
    blamed = [f"top_{k}{suffix}" for k in (1, 2, 3) for suffix in ("", "_share")]
    assert list(out.columns) == ["row", "name", "day", "anomaly_score", "p_value", "is_anomaly", *blamed, "reasons"]
    assert list(out["row"]) == list(range(1, 41))
    assert out[["name", "day"]].to_numpy().tolist() == new[["name", "day"]].to_numpy().tolist()
    assert np.array_equal(out["anomaly_score"], model.anomaly_score(new[COLUMNS]))
    assert np.array_equal(out["p_value"], model.p_values(new[COLUMNS]))
    assert np.array_equal(out["is_anomaly"], model.predict(new[COLUMNS]) == -1)
    assert np.array_equal(out["top_1"], np.take(COLUMNS, model.explain(new[COLUMNS]).argmax(1)))
    told = model.reasons(new[COLUMNS]).groupby("row")["reason"].agg("; ".join)
    assert out["is_anomaly"].any()
    assert out["reasons"].fillna("").tolist() == told.where(out["is_anomaly"], "").tolist()


def test_decimal_commas_are_read_beside_text(tmp_path):
    table = rows(60).assign(site=["north", "south"] * 30)
    table.to_csv(tmp_path / "dn.csv", sep=";", decimal=",", index=False)
    table.to_csv(tmp_path / "plain.csv", index=False)
    for name, how in (("dn", ["--decimal", ","]), ("plain", [])):
        done("fit", "--data", tmp_path / f"{name}.csv", "--model", tmp_path / name, *how)
        checked = CliRunner().invoke(app, ["check", str(tmp_path / name), str(tmp_path / f"{name}.csv"), *how])
        assert checked.stdout == "as at fit: 60 rows, 5 columns\n"
    assert np.array_equal(*(load(tmp_path / name).anomaly_score(table) for name in ("dn", "plain")))


@pytest.mark.parametrize("header", [",,a,b,c,d", "a,b,c,d,,", ",a,b,,c,d"])
def test_columns_without_a_name_are_ignored_where_there_are_several(place, tmp_path, header):
    names, plain = header.split(","), rows(300).sort_values("d", ignore_index=True)
    write(plain, tmp_path / "plain.csv")
    other = pd.Series([f"text {row}" for row in range(len(plain))])
    odd = pd.concat([plain[name] if name else other for name in names], axis=1).set_axis(names, axis=1)
    lines = odd.to_csv(index=False).splitlines()
    (tmp_path / "odd.csv").write_text("\n".join([header, *lines[1:], "1,2,3,4"]))
    ran = done("score", place / "model", tmp_path / "odd.csv", "--output", tmp_path / "odd_out.csv")
    assert ran.stderr.count("(without a name)") == 1
    assert "4 fields where the header has 6" in (tmp_path / "odd_out.csv.rejects.csv").read_text()
    (tmp_path / "odd.csv").write_text("\n".join([header, *lines[1:]]))
    done("score", place / "model", tmp_path / "plain.csv", "--output", tmp_path / "out.csv")
    assert (tmp_path / "odd_out.csv").read_text() == (tmp_path / "out.csv").read_text()
    for kind in ("", "--time d"):
        ran = done(*f"fit --data {tmp_path}/odd.csv --model {tmp_path}/model --overwrite {kind}".split())
        assert ran.stderr.count("(without a name)") == 1
        assert load(tmp_path / "model").contract_.names == COLUMNS[: 3 if kind else 4]
    checked = CliRunner().invoke(app, ["check", str(place / "model"), str(tmp_path / "odd.csv")])
    assert checked.stdout == "(without a name): a column that the model does not know\n"


@pytest.mark.parametrize(("top", "named"), [(0, 0), (1, 1), (4, 4), (100, 4)])
def test_shares_fall_and_add_up(place, tmp_path, top, named):
    done("score", place / "model", place / "normal.csv", "--output", tmp_path / "out.csv", "--top", top)
    out = read(tmp_path / "out.csv")
    names, share = out.filter(regex=r"^top_\d+$"), out.filter(regex="_share$").to_numpy()
    assert names.shape == share.shape == (300, named)
    assert (np.diff(share, axis=1) <= 0).all()
    assert ((share >= 0) & (share <= 1)).all()
    assert (names.nunique(axis=1) == named).all()
    assert named < 4 or np.allclose(share.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("source", ["new.csv", "new.parquet"])
def test_a_column_of_the_model_can_be_kept(place, tmp_path, source):
    new = write(rows(20, 1).round(2), tmp_path / source)
    done("score", place / "model", new, "--output", tmp_path / "out.csv", "--keep", "c,a")
    assert np.array_equal(read(tmp_path / "out.csv")[["c", "a"]].astype(float), rows(20, 1).round(2)[["c", "a"]])


def test_a_long_table_is_scored_as_in_memory(place, tmp_path):
    new = rows(20_000, 1).assign(name=[f"n{i}" for i in range(20_000)])
    write(new, tmp_path / "new.csv")
    done("score", place / "model", tmp_path / "new.csv", "--output", tmp_path / "out.csv", "--keep", "name")
    out = read(tmp_path / "out.csv")
    assert np.array_equal(out["row"], np.arange(1, 20_001))
    assert list(out["name"]) == list(new["name"])
    assert np.allclose(out["anomaly_score"], load(place / "model").anomaly_score(new[COLUMNS]), rtol=1e-9, atol=0)


def test_order_of_columns_does_not_matter_and_unknown_ones_are_named_once(place, tmp_path):
    other = rows(300)[["c", "a", "d", "b"]].assign(unheard_of="text")
    done("score", place / "model", place / "normal.csv", "--output", tmp_path / "out.csv")
    args = "score", place / "model", write(other, tmp_path / "other.csv"), "--output", tmp_path / "again.csv"
    assert done(*args).stderr.count("unheard_of") == 1
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()


def test_stdout_is_for_json_and_stderr_for_people(place, tmp_path):
    args = ["score", place / "model", place / "normal.csv", "--output", tmp_path / "out.csv", "--overwrite"]
    people, machine, nobody = done(*args), done(*args, "--json"), done(*args, "--quiet")
    assert people.stdout == nobody.stdout == nobody.stderr == machine.stderr == ""
    assert str(tmp_path / "out.csv") in people.stderr
    summary, out = json.loads(machine.stdout), read(tmp_path / "out.csv")
    assert (summary["rows"], summary["alarms"]) == (300, out["is_anomaly"].sum())
    assert [row["row"] for row in summary["top_anomalies"]] == list(out.nlargest(5, "anomaly_score")["row"])
    assert summary["threshold"] == load(place / "model").threshold_.value_


def test_info_tells_what_the_model_is(place):
    facts, told = json.loads(done("info", place / "model", "--json").stdout), done("info", place / "model")
    assert (facts["columns"], facts["rows_seen"], facts["nets"]) == (COLUMNS, 300, 5)
    assert "max_epochs: 3" in told.stdout
    assert "a, b, c, d" in told.stdout
    assert told.stderr == ""


def test_fit_needs_no_configuration_and_notes_constant_columns(tmp_path):
    data = write(rows(50).assign(stuck=7.0, id="x"), tmp_path / "normal.csv")
    said = done("fit", "--data", data, "--model", tmp_path / "model", "--exclude", "id").stderr
    assert re.search("constant.*stuck", said)
    model = load(tmp_path / "model")
    assert (type(model).__name__, list(model.feature_names_in_)) == ("AutoencoderDetector", [*COLUMNS, "stuck"])
    assert np.isfinite(model.anomaly_score(rows(5).assign(stuck=8.0))).all()


@pytest.mark.parametrize("kind", ["VAEDetector: {max_epochs: 3}", "SeriesDetector: {time: time}", "--time time", ""])
def test_the_shell_sets_the_rate_of_false_alarms(tmp_path, kind):
    (tmp_path / "one.yaml").write_text(kind)
    time = pd.DataFrame({"time": np.arange(1200.0)}) if "time" in kind else None
    data = write(pd.concat([time, rows(1200)], axis=1), tmp_path / "normal.csv")
    given = [tmp_path / "one.yaml"] if ":" in kind else kind.split()
    told = {}
    for alpha in ("0.02", "0.2"):
        job = ["fit", *given, "--data", data, "--model", tmp_path / alpha, "--alpha", alpha, "--json"]
        told[alpha] = json.loads(done(*job).stdout)
        model = load(tmp_path / alpha)
        assert model.threshold_.alpha == model.threshold.alpha == float(alpha)
        assert f"threshold=Conformal(alpha={alpha})" in told[alpha]["detector"]
        held_out = model.calibration_scores_
        assert (held_out > model.threshold_.value_).mean() == pytest.approx(float(alpha), abs=2 / len(held_out))
    assert told["0.2"]["threshold"] < told["0.02"]["threshold"]
    assert told["0.2"]["promised_false_alarm_rate"] >= 0.2


def test_the_shell_s_rate_goes_before_that_of_the_configuration_and_is_in_the_run(place, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    store = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    (tmp_path / "one.yaml").write_text("AutoencoderDetector: {max_epochs: 3, threshold: {Conformal: {alpha: 0.01}}}\n")
    job = f"fit one.yaml --data {place}/normal.csv --model model --alpha 0.1 --json".split()
    client, run_id = mlflow.MlflowClient(store), json.loads(done(*job, track=True).stdout)["run_id"]
    assert client.get_run(run_id).data.params["threshold.alpha"] == "0.1"
    written = Path(client.download_artifacts(run_id, "config.yaml", str(tmp_path))).read_text()
    assert repr(config.loads(written)) == repr(load("model").call_)


def test_overwrite_replaces(place, tmp_path):
    shutil.copytree(place / "model", tmp_path / "model")
    (tmp_path / "out.csv").write_text("old")
    (tmp_path / "vae.yaml").write_text("VAEDetector: {max_epochs: 2, random_state: 0}")
    for job in ("fit {tmp}/vae.yaml --data {place}/normal.csv --model {tmp}/model", SCORE + "out.csv"):
        done(*job.format(place=place, tmp=tmp_path).split(), "--overwrite")
    assert type(load(tmp_path / "model")).__name__ == "VAEDetector"
    assert len(read(tmp_path / "out.csv")) == 300
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out.csv", "out.csv.job.json", "vae.yaml"}


@pytest.mark.parametrize("header", ["0,1,2,3", "01,02,03,04", "NA,true,1e3,2024-01-01", ",b,c,d", "é, b ,None,nan"])
def test_a_column_has_the_name_that_its_header_has(place, tmp_path, header):
    (tmp_path / "new.csv").write_text(f"{header}\n{rows(30).to_csv(index=False, header=False)}")
    done("fit", place / "quick.yaml", "--data", tmp_path / "new.csv", "--model", tmp_path / "model")
    assert list(load(tmp_path / "model").feature_names_in_) == header.split(",")
    done("score", tmp_path / "model", tmp_path / "new.csv", "--output", tmp_path / "out.csv")


def test_a_reader_that_has_seen_enough_is_no_error(place):
    command = f"{SHELL} score {place}/model {place}/normal.csv --output - --no-track | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (128 + 13, "")


def test_a_star_brings_the_names_of_the_package():
    names: dict[str, object] = {}
    exec("from anomaly_ae import *", names)  # noqa: S102
    assert {"AutoencoderDetector", "SeriesDetector", "Dense", "score_file"} <= set(names)


def test_tracked_jobs_are_runs_and_a_broken_store_is_only_a_warning(place, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    jobs = [[*job.format(place=place, tmp=tmp_path).split(), "--json"] for job in (FIT + "model", SCORE + "out.csv")]
    summaries = [json.loads(done(*job, track=True).stdout) for job in jobs]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'store.db'}")
    fit, score = (client.get_run(summary["run_id"]) for summary in summaries)
    assert fit.info.status == score.info.status == "FINISHED"
    assert fit.data.params["max_epochs"] == "3"
    assert fit.data.metrics["threshold"] == score.data.metrics["threshold"] == summaries[0]["threshold"]
    assert {"config.yaml", "report.html"} <= {artifact.path for artifact in client.list_artifacts(fit.info.run_id)}
    assert [client.get_logged_model(one.model_id).name for one in fit.outputs.model_outputs] == ["model"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    result = done(*jobs[1], "--top", "1", "--overwrite", track=True)
    assert json.loads(result.stdout)["run_id"] is None
    assert re.fullmatch("warning: .+\n", result.stderr)


# --- what it refuses -------------------------------------------------------------------------------------------------

GOOD = "a,b,c,d\n" + "1,2,3,4\n" * 9
MANY = GOOD + "1.25,2,3,4\n" * 99_991
FILES = {  # what is no table at all: text is a CSV file, bytes are a Parquet file
    "empty": ("", ["empty"]),
    "header only": ("a,b,c,d\n", ["no row"]),
    "header without newline": ("a,b,c,d", []),
    "two of a name": ("a,b,c,d,b\n1,2,3,4,5\n", ["'b'"]),
    "no name at all": (",,,\n1,2,3,4\n", ["''"]),
    "open quote in the header": ('a,"b,c,d\n1,2,3,4\n', ["header"]),
    "carriage returns alone": ("a,b,c,d\r1,2,3,4\r", ["carriage returns"]),
    "Excel's line": ("sep=;\na;b;c;d\n1;2;3;4\n", ["'sep=;'", "Excel"]),
    "a workbook": ("PK\x03\x04" + GOOD, ["xlsx", "Save it as CSV"]),
    "Parquet by another name": ("PAR1" + GOOD, ["Name it .parquet"]),
    "no Parquet": (GOOD.encode(), []),
    "truncated Parquet": (rows(9).to_parquet()[:-100], []),
    "empty Parquet": (rows(0).to_parquet(), ["no row"]),
    "lists in Parquet": (rows(3).assign(c=[[1], [2], [3]]).to_parquet(), ["'c'", "list"]),
}
ROWS = {  # one bad row
    "text": (GOOD + "1,x,3,4\n", ["row 10", "'b'", "'x'"]),
    "text far down": (MANY + "1,x,3,4\n", ["row 100001", "'b'", "'x'"]),
    "infinity": (GOOD + "1,-inf,3,4\n", ["row 10", "'b'", "inf"]),
    "infinity far down": (MANY + "1,inf,3,4\n", ["row 100001", "'b'", "inf"]),
    "too large": (GOOD + "1,2,3,1e400\n", ["row 10", "'d'"]),
    "long row": (GOOD + "1,2,3,4,5\n", ["line 11", "5"]),
    "long row far down": (MANY + "1,2,3,4,5\n", ["line 100002", "5"]),
    "short row": (GOOD + "1,2,3\n", ["line 11", "3"]),
    "open quote": (GOOD + '1,"2,3,4\n', ["line 11", "quotes"]),
    "no UTF-8": (GOOD + "1,\udcff,3,4\n", ["line 11", "'b'"]),
    "infinity in Parquet": (rows(9).assign(c=[1.0, np.inf, *range(7)]).to_parquet(), ["row 2", "'c'", "inf"]),
}


@pytest.mark.parametrize(
    ("job", "code"),
    [("fit {place}/quick.yaml --data {bad} --model", 2), ("score {place}/model {bad} --on-bad-row fail --output", 3)],
)
@pytest.mark.parametrize("case", FILES | ROWS)
def test_a_bad_table_is_refused_with_its_place(place, tmp_path, job, code, case):
    content, words = (FILES | ROWS)[case]
    bad = tmp_path / ("bad.csv" if isinstance(content, str) else "bad.parquet")
    bad.write_bytes(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
    words = [bad.name, *words]
    refused(
        tmp_path, [*job.format(place=place, bad=bad).split(), tmp_path / "new"], words, 2 if case in FILES else code
    )


def run_check(*job):
    return CliRunner().invoke(app, ["check", *job]).stdout


MISREAD = {  # what a file may hold, the option that reads it, and what is said where none does
    "decimal commas": (lambda text: text.replace(",", ";").replace(".", ","), ["--decimal", ","], "(--decimal ,)"),
    "a dash": (
        lambda text: text.replace("7.5", "-"),
        ["--missing", "-"],
        "'-' stands for a missing value (--missing -)",
    ),
    "a question": (lambda text: text.replace("7.5", "?"), ["--missing", "?"], "(--missing '?')"),
    "Latin-1": (lambda text: text.replace("south", "süd"), ["--encoding", "latin-1"], "(--encoding, cp1252 perhaps)"),
    "Latin-1 in a number": (lambda text: text.replace("7.5", "7\xa0500"), [], "(--encoding, cp1252 perhaps)"),
    "thousands": (lambda text: text.replace("7.5", '"1,234.50"'), [], "without separators of thousands"),
    "thousands or decimals": (
        lambda text: text.replace("7.5", '"1,234"'),
        [],
        "(--decimal ,) or write numbers without",
    ),
    "units": (lambda text: text.replace("7.5", "7.5 kW"), [], "without units"),
}


@pytest.fixture(scope="module")
def sited(tmp_path_factory):
    """A model of rows with a text, which is south of some, and 7.5 in others."""
    folder = tmp_path_factory.mktemp("sited")
    table = rows(300).assign(site=["north", "south"] * 150)
    table.loc[::20, "b"] = 7.5
    done("fit", "--data", write(table, folder / "normal.csv"), "--model", folder / "model")
    return folder


@pytest.mark.parametrize("case", MISREAD)
def test_the_option_that_reads_what_cannot_be_read_is_named(sited, tmp_path, case):
    change, option, said = MISREAD[case]
    file = tmp_path / "new.csv"
    file.write_text(change((sited / "normal.csv").read_text()), encoding="latin-1")
    score = ["score", sited / "model", file, "--output", tmp_path / "out.csv"]
    for policy in ([], ["--on-bad-row", "fail"]):
        ran = run(*score, *policy)
        assert (ran.exit_code, said in ran.stderr) == (3, True), ran.stderr
    check = [str(sited / "model"), str(file)]
    assert said in run_check(*check)
    if option:
        assert "bad rows" not in done(*score, *option, "--overwrite").stderr
        assert "not a finite number" not in run_check(*check, *option)


def test_points_where_decimals_are_to_have_commas_are_told_of_as_they_are_written(place, tmp_path):
    rows(50).to_csv(tmp_path / "new.csv", sep=";", index=False)
    job = [str(place / "model"), str(tmp_path / "new.csv"), "--decimal", ","]
    assert "decimals have a point" in run("score", *job, "--output", tmp_path / "out.csv").stderr
    first = rows(50)["a"][0]
    assert f"(first in row 1: '{first}'); say that decimals" in run_check(*job)


def test_of_a_parquet_file_no_option_of_text_is_named(place, tmp_path):
    for cell, way in (("-", "(--missing -)"), ("1,5", "")):
        table = rows(50).astype({"b": object})
        table["b"] = table["b"].astype(str).mask(table.index == 3, cell)
        job = [str(place / "model"), str(write(table, tmp_path / "new.parquet"))]
        for said in (run("score", *job, "--output", tmp_path / "out.csv").stderr, run_check(*job)):
            assert (cell in said, way in said, "--decimal" in said) == (True, True, False)


DAMAGE = {  # of copies of the model
    "model": ("manifest.json", lambda data: data),
    "flipped": ("weights.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "short": ("arrays.safetensors", lambda data: data[:-9]),
    "bare": ("manifest.json", lambda data: b""),
    "newer": ("manifest.json", lambda data: data.replace(b'"version": ', b'"version": 999')),
}
JOBS = [
    (SCORE + "old.csv", ["old.csv", "exists"]),
    (SCORE + "nowhere/out.csv", ["nowhere"]),
    (SCORE + "model --overwrite", ["model", "is a folder"]),
    (SCORE + "out.csv --keep nope", ["--keep", "'nope'", "normal.csv"]),
    ("score {place}/model {tmp}/old.csv --output {tmp}/out.csv --keep row", ["--keep", "'row'"]),
    ("score {place}/model {tmp}/old.csv --output {tmp}/out.csv --keep id,id", ["--keep", "'id'"]),
    (SCORE + "out.csv.gz", [".gz", ".parquet"]),
    (SCORE + "out.csv --rejects {tmp}/old.csv", ["old.csv", "exists"]),
    (SCORE + "out.csv --rejects {tmp}/out.csv", ["out.csv", "both"]),
    (SCORE + "out.csv --max-bad-rows some", ["'some'", "1%"]),
    (SCORE + "out.csv --max-bad-rows 101%", ["'101%'"]),
    (SCORE + "out.csv --delimiter ab", ["'ab'"]),
    (SCORE + "out.csv --decimal , --delimiter ,", ["','"]),
    (SCORE + "out.csv --encoding klingon", ["'klingon'", "utf-8"]),
    (SCORE + "out.csv --format parquet {tmp}/gone-*.csv", ["gone-*.csv"]),
    ("score {place}/model {tmp}/old.csv {tmp}/old.csv --output {tmp}/out.csv", ["old.csv", "twice"]),
    ("score {place}/model {tmp}/old.csv --output - --json", ["--json"]),
    ("score {place}/model {tmp}/old.csv --output - --format parquet", ["parquet"]),
    ("score {place}/model {tmp}/lists.parquet --output {tmp}/out.csv --keep id", ["lists.parquet", "'id'"]),
    ("score {place}/model {tmp}/old.csv --output {tmp}/old.csv --overwrite", ["old.csv", "both"]),
    ("score {place}/model {tmp}/gone.csv --output {tmp}/out.csv", ["there is no", "gone.csv"]),
    ("score {place}/model {tmp}/full --output {tmp}/out.csv", ["full is a folder"]),
    ("score {place}/model {tmp}/short.csv --output {tmp}/out.csv", ["short.csv", "lacks 'd'. It has"]),
    ("score {place}/model {tmp}/case.csv --output {tmp}/out.csv", ["lacks 'c', 'd'. Did you mean 'C', ' d'? It has"]),
    (FIT + "new --exclude B", ["--exclude", "Did you mean 'b'?"]),
    ("score {tmp}/gone {place}/normal.csv --output {tmp}/out.csv", ["gone"]),
    ("info {place}", ["manifest.json"]),
    ("info {tmp}/flipped", ["flipped", "weights.safetensors"]),
    ("info {tmp}/newer", ["newer", "999"]),
    ("score {tmp}/flipped {place}/normal.csv --output {tmp}/out.csv", ["flipped", "weights.safetensors"]),
    ("score {tmp}/short {place}/normal.csv --output {tmp}/out.csv", ["short", "arrays.safetensors"]),
    ("score {tmp}/bare {place}/normal.csv --output {tmp}/out.csv", ["bare", "manifest.json"]),
    ("score {tmp}/newer {place}/normal.csv --output {tmp}/out.csv", ["newer", "999"]),
    (FIT + "model", ["model", "exists"]),
    (FIT + "full --overwrite", ["full", "model folder"]),
    (FIT + "old.csv --overwrite", ["old.csv"]),
    (FIT + "old.csv/model", ["old.csv"]),
    (FIT + "new --exclude nope", ["--exclude", "'nope'", "normal.csv"]),
    (FIT + "new --exclude a,b,c,d", ["normal.csv"]),
    ("fit {tmp}/gone.yaml --data {place}/normal.csv --model {tmp}/new", ["gone.yaml"]),
    ("fit {place}/quick.yaml --data {tmp}/gone.csv --model {tmp}/new", ["gone.csv"]),
    ("fit {place}/quick.yaml --data {tmp}/one.csv --model {tmp}/new", ["one.csv", "1"]),
    (FIT + "new --alpha 0", ["Conformal", "alpha", "0.0", "0.05"]),
    ("fit --data {place}/normal.csv --model {tmp}/new --time a --alpha 1", ["Conformal", "alpha", "1.0"]),
    ("fit {tmp}/quantile.yaml --data {place}/normal.csv --model {tmp}/new --alpha 0.1", ["--alpha", "Quantile()"]),
    ("fit {tmp}/still.yaml --data {place}/normal.csv --model {tmp}/new --alpha 0.1", ["--alpha", "(level=0.9)"]),
]


@pytest.mark.parametrize(("job", "words"), JOBS)
def test_an_impossible_job_is_refused_before_it_begins(place, tmp_path, job, words):
    models = {name: shutil.copytree(place / "model", tmp_path / name) for name in DAMAGE}
    for model, (name, damage) in zip(models.values(), DAMAGE.values(), strict=True):
        (model / name).write_bytes(damage((model / name).read_bytes()))
    (tmp_path / "bare" / "manifest.json").unlink()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("irreplaceable")
    write(rows(9).assign(row=0, id=0), tmp_path / "old.csv")
    write(rows(9).assign(id=[[1]] * 9), tmp_path / "lists.parquet")
    write(rows(9)[["a", "b", "c"]], tmp_path / "short.csv")
    write(rows(9).rename(columns={"c": "C", "d": " d"}), tmp_path / "case.csv")
    write(rows(1), tmp_path / "one.csv")
    (tmp_path / "quantile.yaml").write_text("AutoencoderDetector: {threshold: Quantile}")
    (tmp_path / "still.yaml").write_text("SeriesDetector: {threshold: {Quantile: {level: 0.9}}}")
    refused(tmp_path, job.format(place=place, tmp=tmp_path).split(), words)


CONFIGS = [
    ("AutoencoderDetector: {learning_rat: 0.1}", ["bad.yaml", "'learning_rate'"]),
    ("AutoencoderDetector: {alpha: 0.1}", ["bad.yaml", "'alpha'", "threshold: {Conformal: {alpha: 0.01}}"]),
    ("SeriesDetector: {contamination: 0.1}", ["bad.yaml", "'contamination'", "threshold: {Conformal: {alpha: 0.01}}"]),
    ("AutoencoderDetector: {backbone: {Dens: {}}}", ["bad.yaml", "'Dense'"]),
    ("AutoencoderDetector: {backbone: Dens}", ["bad.yaml", "'Dense'"]),
    ("AutoencoderDetector: {backbone: {Dense: {drop: 0.1}}}", ["bad.yaml", "'dropout'"]),
    ("AutoencodrDetector: {}", ["bad.yaml", "'AutoencoderDetector'"]),
    ("Dense: {}", ["bad.yaml", "Dense", "AutoencoderDetector"]),
    ("", ["bad.yaml", "AutoencoderDetector"]),
    ("AutoencoderDetector: {max_epochs: 3", ["bad.yaml", "line 1"]),
    ("AutoencoderDetector: !!python/object:os.system {}", ["bad.yaml", "os.system"]),
    ("AutoencoderDetector:\n  max_epochs: 2\n  max_epochs: 3", ["max_epochs", "line 2"]),
    ("AutoencoderDetector: {max_epochs: 0}", ["max_epochs", "0"]),
    ("AutoencoderDetector: {max_epochs: many}", ["max_epochs", "'many'"]),
    ("AutoencoderDetector: {threshold: {Conformal: {alpha: 2}}}", ["alpha", "2"]),
    ("AutoencoderDetector: {backbone: {Dense: {dropout: 2}}}", ["dropout", "2"]),
    ("AutoencoderDetector: {backbone: {Dense: {dropout: much}}}", ["dropout", "'much'"]),
    ("AutoencoderDetector: {backbone: {Dense: {hidden: 3}}}", ["hidden", "3"]),
    ("AutoencoderDetector: {latent: {Point: {dim: 2.5}}}", ["dim", "2.5"]),
    ("AutoencoderDetector: {backbone: {Point: {}}}", ["backbone", "Point"]),
    ("AutoencoderDetector: {device: abacus}", ["device", "abacus"]),
]


@pytest.mark.parametrize(("text", "words"), CONFIGS)
def test_a_bad_configuration_is_refused_and_the_nearest_good_one_named(place, tmp_path, text, words):
    (tmp_path / "bad.yaml").write_text(text)
    job = "fit {tmp}/bad.yaml --data {place}/normal.csv --model {tmp}/model"
    refused(tmp_path, job.format(place=place, tmp=tmp_path).split(), words)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("# no SeriesDetector\nAutoencoderDetector: {max_epochs: 3, random_state: 0}\n", "AutoencoderDetector"),
        ('"Series\\u0044etector":\n  views: [{View: {window: 8, scorer: {Mahalanobis: {}}}}]\n', "SeriesDetector"),
    ],
    ids=["a comment", "spelt otherwise"],
)
def test_what_a_configuration_describes_decides_and_not_what_words_it_has(place, tmp_path, text, kind):
    (tmp_path / "one.yaml").write_text(text)
    done("fit", tmp_path / "one.yaml", "--data", place / "normal.csv", "--model", tmp_path / "model")
    assert type(load(tmp_path / "model")).__name__ == kind


def test_a_training_that_ran_away_is_not_published(place, tmp_path):
    (tmp_path / "hot.yaml").write_text("AutoencoderDetector: {max_epochs: 3, learning_rate: 1e30, random_state: 0}")
    assert run("fit", tmp_path / "hot.yaml", "--data", place / "normal.csv", "--model", tmp_path / "m").exit_code != 0
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("job", [SCORE + "out.csv", FIT + "new"])
def test_a_full_disk_leaves_nothing(place, tmp_path, job):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # bytes a file may have
    try:
        refused(tmp_path, job.format(place=place, tmp=tmp_path).split(), code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("job", [SCORE + "locked/out.csv", FIT + "locked/model"])
def test_a_folder_that_cannot_be_written_is_refused(place, tmp_path, job):
    (tmp_path / "locked").mkdir(mode=0o555)
    if os.geteuid() == 0 and os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("root may write anywhere")
    refused(tmp_path, job.format(place=place, tmp=tmp_path).split(), ["locked"])


def test_an_interrupted_job_has_no_output_yet(place, tmp_path):
    (tmp_path / "long.csv").write_text(MANY + "1.25,2.5,3.75,4.5\n" * 900_000)
    job = [SHELL, "score", place / "model", "long.csv", "--output", "out.csv", "--no-track"]
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (a job in the background may ignore it)
    with subprocess.Popen(job, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        while process.poll() is None and not (tmp_path / "out.csv.job.json").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130, said
    assert re.fullmatch("error: interrupted.*\n", said)
    assert not (tmp_path / "out.csv").exists()
    left = {path.name for path in tmp_path.iterdir()} - {".out.csv.rejects.csv.part"}  # which the first bad row begins
    # from where the same command goes on; see test_scoring_job.py
    assert left == {"long.csv", ".out.csv.part", "out.csv.job.json"}


def test_a_command_that_is_interrupted_while_it_is_imported_shows_no_traceback(tmp_path):
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    module, name = project["scripts"]["anomaly-ae"].split(":")
    command = [sys.executable, "-X", "importtime", "-c", f"from {module} import {name}; {name}()", "info", "model"]
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        while "typer" not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130
    assert "Traceback" not in said


# --- how quick it is, and what it says of itself ---------------------------------------------------------------------


QUICK = [
    (1.5, 5, [SHELL, "--help"]),
    (1.5, 5, [sys.executable, "-c", "import anomaly_ae"]),
    (
        10.0,
        8,
        [SHELL, "score", "{place}/model", "{tmp}/new.csv", "--output", "{tmp}/out.csv", "--overwrite", "--no-track"],
    ),
]


def test_bad_rows_are_exit_3_by_what_they_are_and_not_by_a_name():
    class UnscoredError(BadRowsError):
        pass

    one = typer.Typer()

    @one.command(cls=Command)
    def job():
        raise UnscoredError("so many", rows=3)

    assert CliRunner().invoke(one, []).exit_code == 3


@pytest.mark.parametrize(
    ("job", "code", "facts"),
    [
        ("score {place}/model {tmp}/odd.csv --output {tmp}/out.csv --no-track", 3, {"rows": 4, "rejected": 4}),
        ("score {place}/model {tmp}/gone.csv --output {tmp}/out.csv --no-track", 2, {}),
        ("check {place}/model {tmp}/gone.csv", 2, {}),
        ("info {tmp}/gone", 2, {}),
    ],
)
def test_with_json_an_error_is_an_object_as_well(place, tmp_path, job, code, facts):
    (tmp_path / "odd.csv").write_text("a,b,c,d\n" + "1,2\n" * 4)
    result = CliRunner().invoke(app, [*job.format(place=place, tmp=tmp_path).split(), "--json"])
    told = json.loads(result.stdout)
    assert (result.exit_code, told["exit_code"]) == (code, code)
    assert result.stderr == f"error: {told['error']}\n"
    assert facts.items() <= told.items()
    if code == 3:
        assert Path(told["rejects"]).exists()


@pytest.mark.parametrize(
    ("job", "redirected", "code"),
    [
        ("info {place}/model", "> /dev/full", 1),
        ("score {place}/model {place}/normal.csv --output {tmp}/out.csv --json", "> /dev/full", 1),
        pytest.param("score {place}/model {place}/normal.csv --output - -q", "> /dev/full", 1, marks=pytest.mark.slow),
        pytest.param("score {place}/model {place}/normal.csv --output - -q", ">&-", 2, marks=pytest.mark.slow),
        ("score {place}/model - --output {tmp}/out.csv -q", "<&-", 2),
    ],
)
def test_streams_that_are_full_or_closed_are_one_sentence(place, tmp_path, job, redirected, code):
    command = f"{SHELL} {job.format(place=place, tmp=tmp_path)} {'' if 'info' in job else '--no-track'} {redirected}"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert re.fullmatch("error: Standard (in|out)put needs .+\n", done.stderr)


def test_the_strangest_rows_are_told_with_their_kept_columns(place, tmp_path):
    told = done("score", place / "model", place / "normal.csv", "-o", tmp_path / "out.csv", "--keep", "a").stderr
    assert len(re.findall(r"  row \d+ +a -?[\d.]+  score ", told)) == 5


def test_a_closed_standard_error_stops_no_job(place, tmp_path):
    command = f"{SHELL} score {place}/model {place}/normal.csv --output {tmp_path}/out.csv --no-track 2>&-"
    assert subprocess.run(["/bin/bash", "-c", command], check=False).returncode == 0
    assert (tmp_path / "out.csv").exists()


@pytest.mark.timed
@pytest.mark.parametrize(("seconds", "tries", "job"), QUICK, ids=["help", "import", "score"])
def test_it_is_quick(place, tmp_path, seconds, tries, job):
    write(rows(1000, 1), tmp_path / "new.csv")
    took = []
    while len(took) < tries and not any(one < seconds for one in took):  # machines are noisy
        started = time.perf_counter()
        subprocess.run([str(word).format(place=place, tmp=tmp_path) for word in job], check=True, capture_output=True)
        took.append(time.perf_counter() - started)
    assert min(took) < seconds


LOADS = [
    ("", {"torch", "mlflow", "sklearn", "pandas"}),
    ("invoke(app, ['--help']); invoke(app, ['score', '--help'])", {"torch", "mlflow", "sklearn", "pandas"}),
    ("assert invoke(app, sys.argv[1:]).exit_code == 0; assert 'torch' in sys.modules", {"mlflow", "matplotlib"}),
]


@pytest.mark.parametrize(("does", "heavy"), LOADS, ids=["import", "help", "score"])
def test_nothing_is_loaded_before_it_is_needed(place, tmp_path, does, heavy):
    code = "import sys, anomaly_ae; from anomaly_ae.cli import app; from typer.testing import CliRunner"
    code += f"; invoke = CliRunner().invoke; {does}\nprint(*sorted({heavy} & set(sys.modules)))"
    job = [sys.executable, "-c", code, *SCORE.format(place=place, tmp=tmp_path).split(), "--no-track"]
    job[-2] += "out.csv"
    assert subprocess.run(job, capture_output=True, text=True, check=True).stdout.split() == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_is_in_the_readme(name):
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert " ".join(COMMANDS[name].split()[:4]) in result.stdout
    assert f"anomaly-ae {name}" in (Path(__file__).parents[1] / "README.md").read_text()


def test_the_version_is_the_package_s():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"anomaly-ae {__version__}\n")
