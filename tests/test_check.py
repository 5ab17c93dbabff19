"""The check of a file against the columns of the fit: every kind of finding, with its count and first row."""

import json
import math
import re
import tracemalloc
from dataclasses import asdict
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from anomaly_ae import AutoencoderDetector, SeriesDetector, load
from anomaly_ae.cli import FailOn, app
from anomaly_ae.data import coding
from anomaly_ae.data.contract import Column
from anomaly_ae.errors import DataError
from anomaly_ae.ops import check as checking
from anomaly_ae.ops.check import check

N = 400
ENDINGS = [".csv", ".parquet"]
CATEGORIES = ["M1", "M2", "M3"]


def plant(n=N, seed=0):
    """Rows of every kind of column; `vibration` has gaps, `stuck` is constant, `empty` has no value."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "temperature": rng.uniform(10.2, 88.0, n).round(3),
            "vibration": np.where(rng.random(n) < 0.05, np.nan, rng.normal(size=n)),
            "stuck": 7.0,
            "empty": np.nan,
            "running": rng.random(n) < 0.5,
            "machine": rng.choice(CATEGORIES, n),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 90, n), unit="D"),
        }
    )
    rows.loc[:2, "temperature"] = [10.2, 88.0, 50.0]
    rows.loc[:1, "day"] = pd.to_datetime(["2024-01-01", "2024-03-30"])
    return rows


def write(frame, path):
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


def run(*args):
    return CliRunner().invoke(app, ["check", *map(str, args)])


def kinds(summary):
    return [(finding.kind, finding.column) for finding in summary.findings]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    det = AutoencoderDetector(max_epochs=1, calibration="split", random_state=0).fit(plant())
    return det.save(tmp_path_factory.mktemp("check") / "model")


def found(model, tmp_path, frame, ending=".csv"):
    """The one finding of a file."""
    (finding,) = check(model, write(frame, tmp_path / f"new{ending}")).findings
    assert finding.share == finding.rows / len(frame)
    return finding


# --- what it finds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_rows_of_the_fit_have_no_findings(model, tmp_path, ending):
    path = write(plant(), tmp_path / f"same{ending}")
    summary = check(model, path)
    assert (summary.rows, summary.columns, summary.findings) == (N, 7, [])
    result = run(model, path, "--fail-on", "any")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "as at fit: 400 rows, 7 columns\n", "")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_was_fitted_on_from_the_shell_has_no_findings(tmp_path, ending):
    """Also after pandas has read it: its floats are neighbours of arrow's."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame(rng.normal(size=(50, 20)) * 10.0 ** rng.integers(-90, 90, 20)).rename(columns="c{}".format)
    path = write(data, tmp_path / f"data{ending}")
    for number, rows in enumerate([data, pd.read_csv(path) if ending == ".csv" else pd.read_parquet(path)]):
        det = AutoencoderDetector(max_epochs=1, calibration="split", random_state=0).fit(rows)
        assert check(det.save(tmp_path / f"model{number}"), path).findings == []


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("row", [0, 16, N - 1])
def test_beyond_the_range_says_how_many_and_which_is_first(model, tmp_path, ending, row):
    frame = plant()
    frame.loc[[row, *range(100, 111)], "temperature"] = [93.1, *[-5.0] * 11]
    finding = found(model, tmp_path, frame, ending)
    first = (row + 1, "93.1") if row < 100 else (101, "-5")
    assert (finding.kind, finding.column, finding.rows, finding.first_row) == ("range", "temperature", 12, first[0])
    told = f"temperature: 12 of 400 rows beyond 10.2 to 88 (first in row {first[0]}: {first[1]})"
    assert finding.sentence == told


RANGES = [
    ("temperature", 88.0000001, "beyond 10.2 to 88.0 (first in row 5: 88.0000001)"),
    ("stuck", 7.5, "other than 7 (first in row 5: 7.5)"),
    ("empty", 1.0, "with a value, none had one at fit (first in row 5: 1)"),
    ("day", pd.Timestamp("2024-07-01"), "beyond 2024-01-01 to 2024-03-30 (first in row 5: 2024-07-01)"),
]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("column", "value", "words"), RANGES)
def test_a_range_is_told_in_the_units_of_the_column(model, tmp_path, ending, column, value, words):
    frame = plant()
    frame.loc[4, column] = value
    finding = found(model, tmp_path, frame, ending)
    assert (finding.kind, finding.rows, finding.first_row) == ("range", 1, 5)
    assert finding.sentence == f"{column}: 1 of 400 rows {words}"


@pytest.mark.parametrize("ending", ENDINGS)
def test_unseen_categories_are_named(model, tmp_path, ending):
    frame = plant()
    frame.loc[[8, 30, 31], "machine"] = ["M7", "M8", "M7"]
    finding = found(model, tmp_path, frame, ending)
    assert (finding.kind, finding.rows, finding.first_row) == ("unseen category", 3, 9)
    assert finding.sentence == "machine: 3 of 400 rows of a category unseen at fit (first in row 9: 'M7')"


TYPES = [("temperature", "hot", "a finite number"), ("running", "maybe", "true or false"), ("day", "monday", "a date")]


@pytest.mark.parametrize(("column", "cell", "wanted"), TYPES)
def test_cells_of_another_type_are_counted_and_not_fatal(model, tmp_path, column, cell, wanted):
    frame = plant().astype({column: object})
    frame.loc[[2, 3, 300], column] = [cell, "?", "?"]
    for ending, rows in zip(ENDINGS, [frame, frame.astype({column: str})], strict=True):  # Parquet has text or has not
        finding = found(model, tmp_path, rows, ending)
        assert (finding.kind, finding.column, finding.rows, finding.first_row) == ("type", column, 3, 3)
        way = "; say that 'hot' stands for a missing value (--missing hot)" if column == "temperature" else ""
        assert finding.sentence == f"{column}: 3 of 400 rows not {wanted} (first in row 3: {cell!r}){way}"


def test_columns_of_another_type_in_parquet(model, tmp_path):
    frame = plant()
    frame["temperature"], frame["day"] = frame["day"], frame["temperature"]
    frame["vibration"] = np.where(np.arange(N) == 6, np.inf, frame["vibration"])
    summary = check(model, write(frame, tmp_path / "new.parquet"))
    assert [(f.kind, f.column, f.rows, f.first_row) for f in summary.findings] == [
        ("type", "temperature", N, 1),
        ("type", "vibration", 1, 7),
        ("type", "day", N, 1),
    ]


def test_a_column_that_may_be_there_by_another_name_is_asked_for(model, tmp_path):
    renamed = plant().rename(columns={"stuck": "Stuck ", "day": "date"})
    summary = check(model, write(renamed, tmp_path / "new.csv"))
    assert [finding.sentence for finding in summary.findings[:2]] == [
        "stuck: a column of the model that is not in the file. Did you mean 'Stuck '?",
        "day: a column of the model that is not in the file",
    ]


@pytest.mark.parametrize("ending", ENDINGS)
def test_gaps_are_a_finding_where_chance_does_not_explain_them(model, tmp_path, ending):
    frame = plant()
    usual = frame["vibration"].isna().mean()
    frame["vibration"] = 0.5
    for gaps in range(60):
        # the binomial tail, summed by hand
        tail = 1 - sum(math.comb(N, k) * usual**k * (1 - usual) ** (N - k) for k in range(gaps))
        if abs(tail - 1e-3) > 5e-4 and gaps % 10:
            continue
        frame.loc[10 : 9 + gaps, "vibration"] = np.nan
        findings = check(model, write(frame, tmp_path / f"new{ending}")).findings
        assert bool(findings) == (tail < 1e-3)
    (finding,) = findings
    assert (finding.kind, finding.rows, finding.first_row) == ("missing values", gaps - gaps % 10, 11)
    assert finding.sentence == f"vibration: 50 of 400 rows missing, {usual:.2%} at fit (first in row 11)"


@pytest.mark.parametrize(("gaps", "finds"), [(1, False), (5, False), (6, True)])
def test_a_column_without_gaps_at_fit_may_have_as_many_as_one_in_the_rows_of_the_fit(model, tmp_path, gaps, finds):
    frame = plant()
    frame.loc[: gaps - 1, "machine"] = None
    findings = check(model, write(frame, tmp_path / "new.csv")).findings
    assert [(f.kind, f.rows, f.first_row) for f in findings] == [("missing values", gaps, 1)] * finds


@pytest.mark.parametrize("ending", ENDINGS)
def test_missing_and_extra_columns_and_any_order(model, tmp_path, ending):
    frame = plant().assign(patient="p").drop(columns=["stuck", "day"])[::-1]
    summary = check(model, write(frame[frame.columns[::-1]], tmp_path / f"new{ending}"))
    assert kinds(summary) == [("missing column", "stuck"), ("missing column", "day"), ("extra column", "patient")]
    assert {(f.rows, f.share, f.first_row) for f in summary.findings} == {(N, 1.0, 1)}
    assert (summary.rows, summary.columns) == (N, 6)


def test_columns_of_time_and_group_belong_to_a_series(tmp_path):
    rows = pd.DataFrame({"day": pd.date_range("2026-01-01", periods=60), "unit": "a"})
    rows["load"] = np.random.default_rng(0).normal(size=60)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    SeriesDetector(time="day", group="unit", random_state=0).fit(rows).save(tmp_path / "series")
    assert check(tmp_path / "series", tmp_path / "rows.csv").findings == []
    rows.drop(columns="day").to_csv(tmp_path / "rows.csv", index=False)
    found = check(tmp_path / "series", tmp_path / "rows.csv").findings
    assert [(finding.kind, finding.column) for finding in found] == [("missing column", "day")]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_of_something_else_altogether(model, tmp_path, ending):
    path = write(pd.DataFrame({"x": [1, 2, 3], "y": ["a", "b", None]}), tmp_path / f"new{ending}")
    summary = check(model, path)
    assert summary.rows == 3
    assert [kind for kind, _ in kinds(summary)] == ["missing column"] * 7 + ["extra column"] * 2


def test_a_model_without_names_takes_columns_by_place(tmp_path):
    X = np.random.default_rng(0).uniform(size=(50, 3))
    model = AutoencoderDetector(max_epochs=1, calibration="split", random_state=0).fit(X).save(tmp_path / "model")
    rows = pd.DataFrame(X, columns=["a", "b", "c"])
    rows.loc[3, "b"] = 9.0
    assert kinds(check(model, write(rows, tmp_path / "new.csv"))) == [("range", "b")]
    assert kinds(check(model, write(rows[["a"]], tmp_path / "one.csv"))) == [
        ("missing column", "x1"),
        ("missing column", "x2"),
    ]
    more = write(rows[["a", "c"]].assign(d=X[:, 2], e=1), tmp_path / "more.csv")
    assert kinds(check(model, more))[0] == ("extra column", "e")


def test_rows_of_later_blocks_are_numbered_from_the_start_of_the_file(model, tmp_path):
    frame = plant(30_000, 3)
    frame["vibration"] = 0.5
    frame["temperature"] = 50.0
    frame = frame.astype({"temperature": object})
    frame.loc[[20_000, 29_999], "temperature"] = ["x", 99.0]
    summary = check(model, write(frame, tmp_path / "new.csv"))
    assert [(f.kind, f.rows, f.first_row) for f in summary.findings] == [("type", 1, 20_001), ("range", 1, 30_000)]


def test_rows_that_cannot_be_read_are_counted_and_the_others_looked_at(model, tmp_path):
    lines = write(plant(20_000, 3), tmp_path / "new.csv").read_text().splitlines()
    lines[11_001] += ",9"
    lines[15_001] = "1,2"
    cells = lines[19_001].split(",")
    lines[19_001] = ",".join(["x", *cells[1:]])
    (tmp_path / "new.csv").write_text("\n".join(lines) + "\n")
    summary = check(model, tmp_path / "new.csv")
    bad, of_a_type = (next(f for f in summary.findings if f.kind == kind) for kind in ("unreadable row", "type"))
    assert (summary.rows, bad.rows, bad.first_row) == (20_000, 2, 11_001)
    assert bad.sentence == (
        f"2 of 20,000 rows cannot be read, the first: {tmp_path}/new.csv, row 11001, line 11002: 8 fields where the "
        "header has 7"
    )
    assert (of_a_type.rows, of_a_type.first_row) == (1, 19_001)  # rows that cannot be read are counted as well
    assert run(model, tmp_path / "new.csv", "--fail-on", "unreadable-row").exit_code == 4
    (tmp_path / "bad.csv").write_text(lines[0] + "\n1,2\n")
    (only,) = check(model, tmp_path / "bad.csv").findings
    assert (only.kind, only.share) == ("unreadable row", 1.0)


CELLS = [None, "", "1", "-1.5", " 5", "1e5", "0x10", "1_0", "inf", "1e400", "true", "No", "x", "2024-01-01", "1.0"]
CELLS += ["2024-01-01T10:00+02:00", "01/02/2024", "9999-01-01", "2024-13-01", "0"]


@pytest.mark.parametrize("kind", ["number", "boolean", "date", "category"])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_misread_is_what_scoring_refuses(kind, cell):
    column = Column("a", kind, 0.0, 1.0, 0.0, ("1",))
    values = pd.Series([cell], dtype=object)
    try:
        column.codes(values)
        refused = False
    except DataError:
        refused = True
    if kind != "category":
        assert (coding._suspect(column, values) & values.notna()).tolist() == [refused]
    assert coding.misread(column, values).tolist() == [refused]


# --- how it says so --------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path):
    """A file with every kind of finding."""
    frame = plant().astype({"running": object}).drop(columns="empty").assign(patient=1)
    frame.loc[7, "running"] = "maybe"
    frame.loc[16:20, "temperature"] = 93.1
    frame.loc[8, "machine"] = "M7"
    frame["vibration"] = np.nan
    path = write(frame, tmp_path / "odd.csv")
    path.write_text(path.read_text() + "1,2\n")
    return path


def test_findings_are_data_and_notes_are_not(model, odd):
    summary = check(model, odd)
    assert {finding.kind for finding in summary.findings} == set(get_args(checking.Kind))
    result = run(model, odd)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [finding.sentence for finding in summary.findings]
    assert result.stderr == "checked   401 rows: 7 findings\n"
    quiet, machine = run(model, odd, "--quiet"), run(model, odd, "--json")
    assert (quiet.stdout, quiet.stderr, machine.stderr) == (result.stdout, "", "")
    assert json.loads(machine.stdout) == asdict(summary)


@pytest.mark.parametrize("kind", [one for one in FailOn if one.replace("-", " ") in ("any", *get_args(checking.Kind))])
def test_a_gate_that_is_crossed_exits_4(model, odd, tmp_path, kind):
    result = run(model, odd, "--json", "--fail-on", kind)
    assert result.exit_code == 4
    assert json.loads(result.stdout) == asdict(check(model, odd))
    assert re.fullmatch("error: --fail-on .*odd.csv.\n", result.stderr)
    extra = write(plant().assign(patient=1), tmp_path / "extra.csv")
    crossed = kind in ("any", "extra-column")
    assert run(model, extra, "--fail-on", kind, "--fail-on", kind).exit_code == (4 if crossed else 0)


def test_every_kind_has_a_gate_and_help_lists_it(model):
    gates = [kind.replace(" ", "-") for kind in checking.KINDS]
    assert list(FailOn) == ["any", *gates]
    told = CliRunner().invoke(app, ["check", "--help"], env={"COLUMNS": "400", "TERM": "dumb"}).stdout
    assert all(gate in told for gate in gates)
    assert run(model, "x.csv", "--fail-on", "nonsense").exit_code == 2


def test_progress_reaches_the_end(model, tmp_path):
    told = []
    check(model, write(plant(20_000), tmp_path / "new.csv"), lambda share, what: told.append((share, what)))
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert told[-1] == (1.0, "checking")


# --- what it refuses, and what it leaves alone -----------------------------------------------------------------------

HEADER = ",".join(plant().columns) + "\n"
REFUSED = {
    "gone.csv": None,
    "empty.csv": b"",
    "header.csv": HEADER.encode(),
    "twice.csv": b"stuck,stuck\n1,2\n",
    "no.parquet": HEADER.encode(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_read_is_refused(model, tmp_path, name):
    if REFUSED[name] is not None:
        (tmp_path / name).write_bytes(REFUSED[name])
    result = run(model, tmp_path / name, "--fail-on", "any")
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(f"error: .*{name}.*\n", result.stderr)


def test_a_damaged_model_is_refused(model, tmp_path):
    path = write(plant(), tmp_path / "same.csv")
    assert run(tmp_path, path).exit_code == 2
    bad = load(model).save(tmp_path / "bad")
    (bad / "weights.safetensors").write_bytes(b"x")
    result = run(bad, path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "weights.safetensors" in result.stderr


def test_nothing_is_written(model, odd, monkeypatch):
    monkeypatch.chdir(odd.parent)
    content = lambda: {p: p.is_file() and p.read_bytes() for f in (odd.parent, model) for p in f.rglob("*")}  # noqa: E731
    before = content()
    for path in (odd, odd.with_name("gone.csv")):
        run(model, path, "--fail-on", "any")
    assert content() == before


def test_memory_does_not_grow_with_the_file(model, tmp_path):
    """Of Parquet: of CSV arrow reads up to 32 MB ahead, which only larger files than these would show to be a bound."""
    peaks = []
    for rows in (20_000, 160_000):
        path = tmp_path / f"{rows}.parquet"
        plant(rows, 1).to_parquet(path, row_group_size=5_000)
        tracemalloc.start()
        assert check(model, path).rows == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
