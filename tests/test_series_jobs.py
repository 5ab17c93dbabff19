"""Scoring a series from a file: bad rows, policies, formats, standard output."""

import io
import re
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from test_series import QUICK, table
from typer.testing import CliRunner

from anomaly_ae import SeriesDetector, load
from anomaly_ae.cli import app
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.errors import BadRowsError, ConfigError, OutputError
from anomaly_ae.ops import series
from anomaly_ae.ops.series_summary import told_score


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A model of two machines, and rows of theirs, some of which are bad."""
    folder = tmp_path_factory.mktemp("machines")
    X = pd.concat([table(500, seed).assign(unit=f"P{seed}") for seed in (1, 2)], ignore_index=True)
    SeriesDetector(views=QUICK, time="time", group="unit", random_state=0).fit(X).save(folder / "model")
    new = pd.concat([table(200, seed).assign(unit=f"P{seed - 2}") for seed in (3, 4)], ignore_index=True)
    new.loc[100:119, "sensor_2"] += 9
    lines = new.to_csv(index=False).splitlines()
    lines[31] = re.sub("^[^,]*", "yesterday", lines[31])  # row 31 of the file
    lines[51] = re.sub("P1$", "", lines[51])
    lines[71] = lines[71].replace(",", ",Bad", 1)
    lines[91] += ",1"
    (folder / "bad.csv").write_text("\n".join(lines))
    return folder, new.drop(index=[30, 50, 70, 90])


@pytest.mark.parametrize("policy", ["quarantine", "skip"])
def test_bad_rows_of_a_series_are_set_aside_and_missing_in_it(machines, tmp_path, policy):
    folder, good = machines
    out, rejects = tmp_path / "out.csv", tmp_path / "out.csv.rejects.csv"
    rejects.write_text("of another job")  # and no file of rejects
    with pytest.raises(OutputError, match=r"rejects\.csv exists") if policy == "quarantine" else nullcontext():
        series.score(folder / "model", folder / "bad.csv", out, max_bad_rows=4, on_bad_row=policy)
    done = series.score(folder / "model", folder / "bad.csv", out, max_bad_rows=4, on_bad_row=policy, overwrite=True)
    told = pd.read_csv(out)
    assert told["row"].tolist() == (good.index + 1).tolist()
    np.testing.assert_allclose(told["anomaly_score"], load(folder / "model").anomaly_score(good), rtol=1e-9)
    assert (done.rows, done.scored, done.rejected, len(done.events)) == (400, 396, 4, 1)
    assert "bad rows  4 of 400" in told_score(done)
    if policy == "skip":
        assert rejects.read_text() == "of another job"
        return
    bad = pd.read_csv(rejects)
    assert bad["row"].tolist() == [31, 51, 71, 91]
    assert bad["column"].tolist()[:3] == ["time", "unit", "sensor_0"]
    for reason, part in zip(
        bad["reason"], ["'yesterday' is no time", "names no group", "no number", "fields"], strict=True
    ):
        assert part in reason
    series.score(folder / "model", rows_file(tmp_path, good), out, overwrite=True)
    assert not rejects.exists()  # they were of a job that is no more


def rows_file(folder, rows):
    rows.to_csv(folder / "good.csv", index=False)
    return folder / "good.csv"


def test_too_many_bad_rows_of_a_series_leave_the_rejects_alone(machines, tmp_path):
    folder, _ = machines
    out = tmp_path / "out.csv"
    with pytest.raises(BadRowsError, match="at most 3, however: 4 of 400"):
        series.score(folder / "model", folder / "bad.csv", out, max_bad_rows=3, report=tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv.rejects.csv"]
    with pytest.raises(BadRowsError, match="'yesterday' is no time"):
        series.score(folder / "model", folder / "bad.csv", out, on_bad_row="fail")
    again = series.score(folder / "model", folder / "bad.csv", out, max_bad_rows=4)  # its own rejects are in no way
    assert again.rejected == 4
    lines = (folder / "bad.csv").read_text().splitlines()
    (tmp_path / "all.csv").write_text("\n".join([lines[0], lines[71], lines[91]]))
    for most in ("1%", "100%"):
        with pytest.raises(
            BadRowsError, match=f"at most {most[:-1]} %.*none of 2 rows can be read .the first: .*row 1"
        ):
            series.score(folder / "model", tmp_path / "all.csv", tmp_path / "all.scores.csv", max_bad_rows=most)
    assert len(pd.read_csv(tmp_path / "all.scores.csv.rejects.csv")) == 2


@pytest.mark.parametrize(
    ("cell", "reason"), [("now", "'now' is no time"), ("", "is missing"), ("1" + 30 * "0", "is no time")]
)
def test_words_and_numbers_that_are_no_times(tmp_path, cell, reason):
    epochs = reason == "is no time"
    X = table(300).assign(time=60 * np.arange(300)) if epochs else table(300)
    SeriesDetector(views=QUICK, time="time", random_state=0).fit(X).save(tmp_path / "model")
    lines = X.to_csv(index=False).splitlines()
    lines[6] = re.sub("^[^,]*", cell, lines[6])
    (tmp_path / "new.csv").write_text("\n".join(lines))
    series.score(tmp_path / "model", tmp_path / "new.csv", tmp_path / "o.csv")
    (bad,) = pd.read_csv(tmp_path / "o.csv.rejects.csv").to_dict("records")
    assert (bad["row"], bad["column"]) == (6, "time")
    assert bad["reason"].endswith(reason)


@pytest.mark.parametrize("most", ["1%", "100%"])
def test_a_series_without_one_time_that_can_be_read_says_so_with_an_example(machines, tmp_path, most):
    folder, good = machines
    days = pd.to_datetime(good["time"]).dt.strftime("%d.%m.%Y %H:%M")
    good.assign(time=days).to_csv(tmp_path / "new.csv", index=False)
    said = (
        f"at most {most[:-1]} % of all, however: none of 396 times can be read (the first: .*, row 1, line 2, column "
        f"'time': '{days.iloc[0]}' is no time). Repair them (.* says what is wrong with each), or write times as ISO "
        "8601 (2026-11-27 14:30:00) or as a count."
    )
    with pytest.raises(BadRowsError, match=re.escape(said).replace(r"\.\*", ".*")):
        series.score(folder / "model", tmp_path / "new.csv", tmp_path / "out.csv", max_bad_rows=most)
    good.assign(time=good["time"].mask(np.arange(396) % 10 == 0, "noon")).to_csv(tmp_path / "some.csv", index=False)
    with pytest.raises(BadRowsError, match=r"at most 1 % of all, however: 40 of 396 .* write times as ISO 8601 .*, or"):
        series.score(folder / "model", tmp_path / "some.csv", tmp_path / "some.out.csv")


def test_numbers_that_a_parquet_file_has_as_text(machines, tmp_path):
    folder, good = machines
    path = tmp_path / "new.parquet"
    written = good["sensor_0"].astype(str).mask(good.index == 75).mask(good.index == 5, "Bad")
    good.assign(sensor_0=written).to_parquet(path)
    done = series.score(folder / "model", path, tmp_path / "o.csv")
    assert (done.rejected, pd.read_csv(done.rejects)["reason"][0]) == (1, "'Bad' is no number")
    cells = good["sensor_0"].mask(good.index == 75)
    expected = load(folder / "model").anomaly_score(good.assign(sensor_0=cells).drop(index=5))
    np.testing.assert_allclose(pd.read_csv(tmp_path / "o.csv")["anomaly_score"], expected, rtol=1e-9)


def test_another_word_for_no_group_and_files_that_are_not_ours(machines, tmp_path):
    folder, good = machines
    lines = rows_file(tmp_path, good).read_text().splitlines()
    lines[5] = re.sub("P1$", "?", lines[5])
    (tmp_path / "new.csv").write_text("\n".join(lines))
    out, mine = tmp_path / "o.csv", tmp_path / "mine.csv"
    told = series.score(folder / "model", tmp_path / "new.csv", out, dialect=Dialect(missing=("?",)))
    assert (told.rejected, pd.read_csv(told.rejects)["reason"][0]) == (1, "names no group")
    mine.write_text("precious")
    series.score(folder / "model", tmp_path / "good.csv", out, rejects=mine, overwrite=True)
    assert mine.read_text() == "precious"
    with pytest.raises(ConfigError, match="Events need a file"):
        series.score(folder / "model", tmp_path / "good.csv", tmp_path / "p.csv", "-")


def test_a_series_goes_to_standard_output(machines, tmp_path, monkeypatch):
    folder, good = machines
    run = CliRunner().invoke
    asked = [
        "score",
        str(folder / "model"),
        str(rows_file(tmp_path, good)),
        "--output",
        "-",
        "--format",
        "jsonl",
        "--no-track",
    ]
    done = run(app, asked)
    assert done.exit_code == 0
    told = pd.read_json(io.StringIO(done.stdout), lines=True)
    np.testing.assert_allclose(told["anomaly_score"], load(folder / "model").anomaly_score(good), rtol=1e-9)
    asked[2] = str(folder / "bad.csv")
    assert run(app, asked).exit_code == 3  # nowhere to put a bad row
    done = run(app, [*asked, "--rejects", str(tmp_path / "r.csv"), "--max-bad-rows", "2%"])
    assert (len(done.stdout.splitlines()), len(pd.read_csv(tmp_path / "r.csv"))) == (396, 4)


def test_rows_without_times_are_numbered_as_in_the_file(tmp_path):
    det = SeriesDetector(views=QUICK, random_state=0).fit(table(600).drop(columns="time"))
    det.save(tmp_path / "model")
    new = table(300, seed=1).drop(columns="time")
    new.loc[100:119, "sensor_2"] += 9
    lines = new.to_csv(index=False).splitlines()
    lines[11] = "Bad" + lines[11]
    (tmp_path / "new.csv").write_text("\n".join(lines))
    done = series.score(tmp_path / "model", tmp_path / "new.csv", tmp_path / "o.csv")
    (event,), found = done.events, det.events(new.drop(index=10))
    assert event["peak"] == found["peak"][0] + 1
    assert pd.read_csv(tmp_path / "o.csv")["row"].tolist() == [*range(1, 11), *range(12, 301)]
