"""The scoring job: what goes in, what comes out, and what is left of it when something happens on the way."""

import bz2
import gzip
import json
import lzma
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pytest
import shell

from anomaly_ae import AutoencoderDetector, load, score_batches, score_file
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import Draft
from anomaly_ae.data.formats import FORMATS
from anomaly_ae.data.sources import CELLS, at_once
from anomaly_ae.errors import AnomalyError, BadRowsError, ConfigError, DataError, OutputError
from anomaly_ae.folds import BLOCK
from anomaly_ae.ops import job as scoring_job
from anomaly_ae.ops import scoring, sinks

COLUMNS = ["load", "flow", "site", "on", "day"]
N = 20_000  # three times BLOCK
BAD = 40


def table(n, seed=0):
    """Rows of every kind of column, with gaps."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "load": np.where(rng.random(n) < 0.02, np.nan, rng.normal(size=n).round(4)),
            "flow": rng.normal(size=n).round(4),
            "site": rng.choice(["north", "south, old", 'the "new" one', "two\nlines"], n),
            "on": rng.random(n) < 0.5,
            "day": (pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 99, n), unit="D")).astype(str),
            "name": [f"n{i}" for i in range(n)],
        }
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    det = AutoencoderDetector(effort="fast", max_epochs=2, calibration="split", random_state=0)
    return det.fit(typed(table(400))[COLUMNS]).save(tmp_path_factory.mktemp("job") / "model")


def typed(frame):
    return frame.assign(day=pd.to_datetime(frame["day"]))


@pytest.fixture(scope="module")
def new():
    return table(N, 1)


@pytest.fixture
def dirty(new, tmp_path):
    """A long file of which some rows are bad, and which (from 1)."""
    rows = np.sort(np.random.default_rng(2).choice(N, BAD, replace=False))
    text = new.to_csv(index=False).replace("two\nlines", "two lines").splitlines()
    for row in rows:
        text[row + 1] = "x" + text[row + 1]
    path = tmp_path / "dirty.csv"
    path.write_text("\n".join(text) + "\n")
    return path, rows + 1


def read(path):
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)


def expected(model, frame):
    return load(model).anomaly_score(typed(frame)[COLUMNS])


# --- files in and out ------------------------------------------------------------------------------------------------


def as_csv(**options):
    return lambda frame: frame.to_csv(index=False, **options).encode()


def as_arrow(frame):
    sink = pa.BufferOutputStream()
    rows = pa.Table.from_pandas(typed(frame), preserve_index=False)
    with pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows, 700)
    return sink.getvalue().to_pybytes()


def as_zstd(frame):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(frame.to_csv(index=False).encode())
    return sink.getvalue().to_pybytes()


INPUTS = {
    "new.csv": (as_csv(), {}),
    "bom.csv": (lambda frame: b"\xef\xbb\xbf" + frame.to_csv(index=False).encode(), {}),
    "crlf.csv": (as_csv(lineterminator="\r\n"), {}),
    "quoted.csv": (as_csv(quoting=1), {}),
    "tabs.tsv": (as_csv(sep="\t"), {}),
    "german.csv": (as_csv(sep=";", decimal=","), {"decimal": ","}),
    "bars.csv": (as_csv(sep="|"), {"delimiter": "|"}),
    "missing.csv": (as_csv(na_rep="-999"), {"missing": ["-999"]}),
    "latin.csv": (lambda frame: frame.to_csv(index=False).encode("latin-1"), {"encoding": "latin-1"}),
    "wide.csv": (lambda frame: frame.to_csv(index=False).encode("utf-16"), {}),
    "new.csv.gz": (lambda frame: gzip.compress(frame.to_csv(index=False).encode()), {}),
    "twice.gz": (lambda frame: b"".join(map(gzip.compress, halves(frame.to_csv(index=False).encode()))), {}),
    "new.csv.bz2": (lambda frame: bz2.compress(frame.to_csv(index=False).encode()), {}),
    "new.csv.xz": (lambda frame: lzma.compress(frame.to_csv(index=False).encode()), {}),
    "new.csv.zst": (as_zstd, {}),
    "new.parquet": (lambda frame: typed(frame).to_parquet(row_group_size=900), {}),
    "new.arrow": (as_arrow, {}),
}


def halves(data):
    return data[: len(data) // 2], data[len(data) // 2 :]


@pytest.mark.parametrize("name", INPUTS)
def test_whatever_a_table_is_written_in_its_scores_are_the_same(model, new, tmp_path, name):
    write, dialect = INPUTS[name]
    frame = new[:2000].assign(name=[f"é{i}" for i in range(2000)])
    (tmp_path / name).write_bytes(write(frame))
    summary = score_file(model, tmp_path / name, tmp_path / "out.parquet", keep=["name"], dialect=Dialect(**dialect))
    out = read(tmp_path / "out.parquet")
    assert (summary.rows, summary.scored, summary.rejected) == (2000, 2000, 0)
    assert np.array_equal(out["row"], np.arange(1, 2001))
    assert list(out["name"]) == list(frame["name"])
    assert np.allclose(out["anomaly_score"], expected(model, frame), rtol=1e-5)
    assert not list(tmp_path.glob(".*"))


def test_every_format_of_output_says_the_same(model, new, tmp_path):
    new[:9000].to_csv(tmp_path / "new.csv", index=False)
    for name in ("out.csv", "out.parquet", "out.jsonl"):
        score_file(model, tmp_path / "new.csv", tmp_path / name, keep=["site"])
    parquet = read(tmp_path / "out.parquet")
    lines = pd.DataFrame(json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    pd.testing.assert_frame_equal(lines, parquet, check_dtype=False)
    csv = read(tmp_path / "out.csv").assign(reasons=lambda t: t["reasons"].where(t["reasons"] != ""))
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False)


def test_many_inputs_are_one_output_with_their_names(model, new, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = {"a.csv": new[:9000], "b.csv": new[9000:9100][[*reversed(new.columns)]], "c.csv": new[:0]}
    for name, part in parts.items():
        part.to_csv(name, index=False)
    summary = score_file(model, "*.csv", "out.parquet")
    out = pd.read_parquet("out.parquet")
    assert summary.inputs == ["a.csv", "b.csv", "c.csv"]
    assert list(out["file"]) == ["a.csv"] * 9000 + ["b.csv"] * 100
    assert list(out["row"]) == [*range(1, 9001), *range(1, 101)]
    assert np.allclose(out["anomaly_score"], expected(model, new[:9100]), rtol=1e-5)
    assert all("file" in row for row in summary.top_anomalies)


def test_files_without_rows_are_noted_beside_others(model, new, tmp_path):
    folder = tmp_path / "day"
    folder.mkdir()
    new[:9000].to_csv(folder / "b.csv", index=False)
    new[9000:9100].to_csv(folder / "d.csv", index=False)
    score_file(model, [folder / "b.csv", folder / "d.csv"], tmp_path / "whole.csv")
    without = {"a.csv": b"", "c.csv": new[:0].to_csv(index=False).encode(), "e.csv": b"\xef\xbb\xbf\r\n", "f.csv": b""}
    for name, content in without.items():
        (folder / name).write_bytes(content)
    typed(new[:0]).to_parquet(folder / "g.parquet")
    (folder / "h.parquet").write_bytes(b"")
    summary = score_file(model, folder / "*.*", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(summary.empty_inputs) == [str(folder / name) for name in [*without, "g.parquet", "h.parquet"]]
    assert sorted(summary.in_a_run(0)["empty_inputs"]) == [*without, "g.parquet", "h.parquet"]
    assert len(summary.inputs) == 8
    assert "note      without rows: " in scoring.told_score(summary)
    assert score_file(model, folder / "*.*", tmp_path / "out.csv").empty_inputs == summary.empty_inputs
    for names in (["a.csv"], ["c.csv"], ["a.csv", "f.csv", "h.parquet"], ["c.csv", "a.csv"], ["a.csv", "c.csv"]):
        with pytest.raises(DataError, match=r"is empty|has a header and no row"):
            score_file(model, [folder / name for name in names], tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


def test_a_pattern_does_not_stand_for_the_job_s_own_files(model, new, tmp_path):
    for name in ("a.csv", "b.csv"):
        new[:30].assign(load="x" if name == "b.csv" else 1.0).to_csv(tmp_path / name, index=False)
    jobs = [score_file(model, tmp_path / "*.csv", tmp_path / "out.csv", max_bad_rows="60%") for _ in range(2)]
    assert [Path(name).name for name in jobs[0].inputs] == ["a.csv", "b.csv"]
    assert jobs[1].complete_already


def test_a_name_that_is_no_text_is_refused_before_any_row_is_read(model, new, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.csv")
    new[:50].to_csv(path, index=False)
    with pytest.raises(DataError, match=r"caf\\udce9\.csv.*Rename"):
        score_file(model, path, tmp_path / "out.csv", track=False)
    assert list(tmp_path.iterdir()) == [path]


def test_offsets_are_told_of_bytes_as_they_are_alone(model, new, tmp_path):
    text = new[:30].astype({"load": object}).assign(load=["x", *[1.0] * 29]).to_csv(index=False)
    for encoding, known in (("utf-8", True), ("utf-16", False), ("latin-1", False)):
        source = tmp_path / f"{encoding}.csv"
        source.write_bytes(text.encode(encoding))
        how = Dialect(encoding=None if encoding == "utf-16" else encoding)
        score_file(model, source, tmp_path / f"{encoding}.out.csv", dialect=how, max_bad_rows=1)
        offset = pd.read_csv(tmp_path / f"{encoding}.out.csv.rejects.csv")["byte_offset"][0]
        assert offset == text.index("\n") + 1 if known else np.isnan(offset)


def test_standard_input_and_output(model, new, dirty, tmp_path):
    command = [Path(sys.executable).with_name("anomaly-ae"), "score", model, "-", "--output", "-", "--no-track"]
    text = dirty[0].read_bytes()
    kept = [*command, "--rejects", tmp_path / "bad.csv", "--keep", "name"]
    done = subprocess.run(kept, input=text, capture_output=True, check=True)
    score_file(model, dirty[0], tmp_path / "out.csv", keep=["name"])
    assert done.stdout == (tmp_path / "out.csv").read_bytes()
    assert len(read(tmp_path / "bad.csv")) == BAD
    strict = subprocess.run(command, input=text, capture_output=True, check=False)
    assert strict.returncode == 3
    assert b"--rejects" in strict.stderr


# --- bad rows --------------------------------------------------------------------------------------------------------


def test_bad_rows_are_set_aside_with_their_place_and_the_others_keep_their_numbers(model, new, dirty, tmp_path):
    path, bad = dirty
    summary = score_file(model, path, tmp_path / "out.csv")
    out, rejects = read(tmp_path / "out.csv"), read(tmp_path / "out.csv.rejects.csv")
    assert (summary.rows, summary.scored, summary.rejected) == (N, N - BAD, BAD)
    assert sorted([*out["row"], *rejects["row"]]) == list(range(1, N + 1))
    assert list(rejects["row"]) == list(bad)
    assert list(rejects["line"]) == list(bad + 1)
    assert set(rejects["column"]) == {"load"}
    data, lines = path.read_bytes(), path.read_text().splitlines()
    for reject in rejects.itertuples():
        assert reject.raw == lines[reject.line - 1]
        assert data[reject.byte_offset :].startswith(reject.raw.encode())
    good = new.replace("two\nlines", "two lines").drop(index=bad - 1)
    assert np.allclose(out["anomaly_score"], expected(model, good), rtol=1e-5)


KINDS = {
    "1,x,north,true,2026-01-01,n": ("flow", "'x'"),
    "1,2,north,maybe,2026-01-01,n": ("on", "'maybe'"),
    "1,2,north,true,yesterday,n": ("day", "'yesterday'"),
    "1,-inf,north,true,2026-01-01,n": ("flow", "infinite"),
    "1,2,north,true": (np.nan, "4 fields"),
    "1,2,north,true,2026-01-01,n,": (np.nan, "7 fields"),
    '1,2,"north,true,2026-01-01,n': (np.nan, "quotes"),
    "1,2,nor\rth,true,2026-01-01,n": (np.nan, "carriage"),
    "1,2,n\udcffrth,true,2026-01-01,n": ("site", "no text"),
}


@pytest.mark.parametrize("line", KINDS)
def test_each_kind_of_bad_row_has_its_column_and_reason(model, tmp_path, line):
    column, reason = KINDS[line]
    good = "1,2,north,true,2026-01-01,n\n"
    text = "load,flow,site,on,day,name\n" + good * 3 + line + "\n" + good
    (tmp_path / "new.csv").write_bytes(text.encode(errors="surrogateescape"))
    summary = score_file(model, tmp_path / "new.csv", tmp_path / "out.csv", max_bad_rows="100%")
    reject = pd.read_csv(tmp_path / "out.csv.rejects.csv").iloc[0]
    assert (summary.scored, summary.rejected) == (4, 1)
    assert (reject["row"], reject["line"], reject["byte_offset"]) == (4, 5, 27 + 3 * len(good))
    assert reject["column"] == column or np.isnan(column)
    assert reason in reject["reason"]


def test_policies(model, dirty, tmp_path):
    with pytest.raises(BadRowsError, match=r"row .*line .*'load'"):
        score_file(model, dirty[0], tmp_path / "out.csv", on_bad_row="fail")
    assert {path.name for path in tmp_path.iterdir()} == {"dirty.csv"}
    for limit in (BAD - 1, "0.1%", "0%"):
        words = rf"{BAD:,} of .* \(the first: .*dirty\.csv, row \d+, line .*\)\. Repair them \(.*out\.csv\.rejects"
        with pytest.raises(BadRowsError, match=words):
            score_file(model, dirty[0], tmp_path / "out.csv", max_bad_rows=limit)
        assert {path.name for path in tmp_path.iterdir()} == {
            "dirty.csv", "out.csv.rejects.csv", "out.csv.job.json"
        }  # fmt: skip
        assert len(read(tmp_path / "out.csv.rejects.csv")) == BAD
    for limit in (BAD, "0.2%"):
        assert score_file(model, dirty[0], tmp_path / "out.csv", max_bad_rows=limit).rejected == BAD
    with pytest.raises(BadRowsError, match=f"{BAD:,} of"):  # complete already, and fewer are allowed now
        score_file(model, dirty[0], tmp_path / "out.csv", max_bad_rows=BAD - 1)
    summary = score_file(model, dirty[0], tmp_path / "skip.csv", on_bad_row="skip")
    assert (summary.rejected, summary.rejects) == (BAD, None)
    assert (tmp_path / "skip.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()
    assert not (tmp_path / "skip.csv.rejects.csv").exists()


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_unseen_categories_are_scored_or_rejected_as_asked(model, new, tmp_path, ending):
    frame = new[:100].replace({"site": {"north": "moon"}})
    path = tmp_path / f"new{ending}"
    typed(frame).to_parquet(path) if ending == ".parquet" else frame.to_csv(path, index=False)
    moon = int((frame["site"] == "moon").sum())
    assert score_file(model, path, tmp_path / "a.csv").rejected == 0
    with pytest.raises(BadRowsError, match=f"{moon} of 100"):
        score_file(model, path, tmp_path / "b.csv", on_unseen="reject")
    rejects = read(tmp_path / "b.csv.rejects.csv")
    assert set(rejects["column"]) == {"site"}
    assert rejects["reason"].str.contains("'moon'").all()
    assert "moon" in rejects["raw"][0]


def test_a_stream_is_scored_as_a_file_is(model, new, tmp_path):
    frame = typed(new[:3000])
    frame.loc[[5, 2500], "flow"] = np.inf
    frame.to_parquet(tmp_path / "new.parquet")
    score_file(model, tmp_path / "new.parquet", tmp_path / "out.parquet", keep=["name"])
    for cut in (1, 700, 3000):
        batches = [frame[at : at + cut] for at in range(0, 3000 if cut > 1 else 10, cut)]
        scored = list(score_batches(model, batches, keep=["name"]))
        scores = pd.concat([one.scores for one in scored], ignore_index=True)
        rejects = pd.concat([one.rejects for one in scored])
        assert [len(one.scores) + len(one.rejects) for one in scored] == [len(batch) for batch in batches]
        assert list(rejects["row"]) == ([6] if cut == 1 else [6, 2501])
        out = read(tmp_path / "out.parquet")[: len(scores)]
        pd.testing.assert_frame_equal(scores[["row", "name"]], out[["row", "name"]], check_dtype=False)
        assert np.allclose(scores["anomaly_score"], out["anomaly_score"], rtol=1e-5)
    with pytest.raises(DataError, match="'flow'"):
        next(score_batches(model, [frame.drop(columns="flow")]))


# --- interruptions ---------------------------------------------------------------------------------------------------


def stopped(model, source, target, after, **options):
    """Run a job and interrupt it after so many blocks."""
    left = [after]

    def progress(share, what):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(model, source, target, progress=progress, **options)


def test_what_is_judged_together_is_whole_passes_and_no_more_cells_than_a_few_columns_have():
    sizes = [at_once(columns) for columns in range(2000)]
    assert all(size % BLOCK == 0 for size in sizes)
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[30], sizes[1000]) == (4 * BLOCK, BLOCK)
    assert all(size == BLOCK or size * columns <= CELLS for columns, size in enumerate(sizes))


@pytest.mark.usefixtures("short_blocks")
def test_an_interrupted_job_notes_files_without_rows_once(model, new, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "EVERY", 0.0)
    for name, rows in (("a", new[:0]), ("b", new[:9000]), ("c", new[:0]), ("d", new[:9000])):
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "e.csv").write_text("")
    names = [tmp_path / f"{name}.csv" for name in "abcde"]
    for after in range(1, 5):
        stopped(model, names, tmp_path / f"{after}.out.csv", after)
        summary = score_file(model, names, tmp_path / f"{after}.out.csv")
        assert (summary.scored, summary.resumed_rows > 0) == (18_000, True)
        assert sorted(summary.empty_inputs) == [str(tmp_path / f"{name}.csv") for name in "ace"]


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("kind", ["plain", "gzip"])
@pytest.mark.usefixtures("short_blocks")
def test_an_interrupted_job_goes_on_to_the_same_bytes(model, dirty, tmp_path, monkeypatch, ending, kind):
    monkeypatch.setattr(sinks, "EVERY", 0.0)
    source = dirty[0]
    if kind == "gzip":
        source = tmp_path / "dirty.csv.gz"
        source.write_bytes(gzip.compress(dirty[0].read_bytes()))
    whole = score_file(model, source, tmp_path / f"whole{ending}")
    target = tmp_path / f"out{ending}"
    for _ in range(2):
        stopped(model, source, target, 1)
        assert not target.exists()
        assert json.loads((tmp_path / f"{target.name}.job.json").read_text())["state"] == "running"
    summary = score_file(model, source, target)
    assert summary.resumed_rows > N / 2
    assert target.read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert read(tmp_path / f"out{ending}.rejects.csv").equals(read(tmp_path / f"whole{ending}.rejects.csv"))
    same = ("rows", "scored", "rejected", "alarms", "top_anomalies")
    assert all(getattr(summary, name) == getattr(whole, name) for name in same)
    assert not list(tmp_path.glob(".*"))


def test_a_complete_job_does_nothing_and_another_one_is_refused(model, new, tmp_path):
    source, target = tmp_path / "new.csv", tmp_path / "out.csv"
    new[:500].to_csv(source, index=False)
    first = score_file(model, source, target)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for overwrite in (False, True):
        again = score_file(model, source, target, overwrite=overwrite)
        assert again.complete_already
        assert (again.rows, again.alarms, again.top_anomalies) == (first.rows, first.alarms, first.top_anomalies)
    with pytest.warns(UserWarning, match=r"remove .*out\.csv"):
        score_file(model, source, target, report=tmp_path / "page.html")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    for other in ("notes.csv", "empty.html"):
        page = tmp_path.parent / other
        page.write_text("of another job\n")
        with pytest.raises(OutputError, match=f"takes the place of a report, however: .*{other} is none"):
            score_file(model, source, tmp_path / "other.csv", report=page)
        assert page.read_text() == "of another job\n"
    with pytest.raises(OutputError, match="options top"):
        score_file(model, source, target, top=1)
    source.write_bytes(source.read_bytes() + source.read_bytes()[-40:])
    with pytest.raises(OutputError, match=r"new\.csv changed since"):
        score_file(model, source, target)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path != source} == {
        path: stamp for path, stamp in before.items() if path != source
    }
    assert not score_file(model, source, target, overwrite=True, max_bad_rows="100%").complete_already
    target.write_text("edited")
    with pytest.raises(OutputError, match="not as this job left it"):
        score_file(model, source, target, max_bad_rows="100%")


def test_what_comes_after_an_output_is_made_up_for(model, new, tmp_path, monkeypatch):
    source, target, state = tmp_path / "new.csv", tmp_path / "out.csv", tmp_path / "state.json"
    new.to_csv(source, index=False)
    options = {"state": state, "report": tmp_path / "page.html", "event_time": "2026-01-01"}

    def cut_short(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(scoring, "monitored", cut_short)
        with pytest.raises(KeyboardInterrupt):
            score_file(model, source, target, **options)
    kept = target.read_bytes()
    assert not state.exists()
    again = score_file(model, source, target, **options)
    assert again.complete_already
    assert again.monitoring["rows"] == again.scored == len(new)
    assert len(json.loads(state.read_text())["batches"]) == 1
    assert (tmp_path / "page.html").exists()
    assert target.read_bytes() == kept
    assert "tally" not in json.loads((tmp_path / "out.csv.job.json").read_text())
    third = score_file(model, source, target, **options)
    assert third.monitoring == again.monitoring


def test_rejects_of_another_job_are_left_alone(model, new, dirty, tmp_path):
    clean, shared = tmp_path / "clean.csv", tmp_path / "bad.csv"
    new[:50].to_csv(clean, index=False)
    jobs = [(clean, tmp_path / "one.csv"), (dirty[0], tmp_path / "two.csv")]
    for source, target in jobs:
        score_file(model, source, target, rejects=shared, max_bad_rows="50%")
    kept = shared.read_bytes()
    assert score_file(model, *jobs[0], rejects=shared, max_bad_rows="50%").complete_already
    assert shared.read_bytes() == kept
    with pytest.raises(OutputError, match="exists"):
        score_file(model, dirty[0], "-", rejects=shared)
    assert shared.read_bytes() == kept
    with pytest.raises(ConfigError, match="kept by quarantine"):
        score_file(model, dirty[0], tmp_path / "three.csv", rejects=tmp_path / "r.csv", on_bad_row="skip")


def test_where_no_row_may_be_bad_the_first_one_is_in_the_rejects(model, dirty, tmp_path):
    with pytest.raises(BadRowsError, match="max-bad-rows above 0"):
        score_file(model, dirty[0], tmp_path / "out.csv", max_bad_rows=0)
    assert len(pd.read_csv(tmp_path / "out.csv.rejects.csv")) >= 1


def test_what_a_job_cannot_be_asked_is_said(model, new, tmp_path):
    source = tmp_path / "new.csv"
    new[:20].to_csv(source, index=False)
    for arguments, options, said in (
        ((model, []), {}, "an input, however: there is none"),
        ((model, source), {"top": -1}, "top is -1"),
        ((model, source), {"event_time": "yesterday"}, "ISO 8601"),
        ((load(model), source), {}, "folder of a model"),
        (
            (model, [source, tmp_path / "." / "new.csv", source.parent / ".." / source.parent.name / "new.csv"]),
            {},
            "once",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            score_file(*arguments, tmp_path / "out.csv", **options)
    assert not (tmp_path / "out.csv").exists()
    for batches, options, said in (
        (new, {}, "needs batches"),
        (new.to_numpy(), {}, "needs batches"),
        (7, {}, "needs batches"),
        ([new], {"on_unseen": "Reject"}, "score or reject"),
        ([new], {"keep": [new.columns[0]] * 2}, "not yet"),
    ):
        with pytest.raises(AnomalyError, match=said):
            score_batches(model, batches, **options)  # at the call, not at the first batch
    for batch, said in (
        (pd.concat([new, new], axis=1), "distinct column names"),
        (new.drop(columns=new.columns[0]), f"lacks.*{new.columns[0]}.*by their names"),
        (np.full(new.shape, "much"), "arrays of numbers.*Give a DataFrame"),
        ([[1.0, 2.0], [3.0]], "arrays of numbers.*Give a DataFrame"),
    ):
        scored = score_batches(model, [batch])
        with pytest.raises(AnomalyError, match=said):
            next(scored)


@pytest.mark.usefixtures("short_blocks")
def test_what_was_begun_on_another_input_is_not_gone_on_with(model, dirty, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "EVERY", 0.0)
    stopped(model, dirty[0], tmp_path / "out.csv", 2)
    dirty[0].write_text(dirty[0].read_text().replace("n0\n", "n00\n", 1))
    with pytest.raises(OutputError, match=r"begun by another.*changed since"):
        score_file(model, dirty[0], tmp_path / "out.csv")
    summary = score_file(model, dirty[0], tmp_path / "out.csv", overwrite=True)
    assert (summary.rows, summary.resumed_rows) == (N, 0)


def test_an_input_that_changes_while_it_is_read_is_refused(model, dirty, tmp_path):
    def grow(share, what):
        with dirty[0].open("a") as file:
            file.write("1,2,north,true,2026-01-01,n\n")

    with pytest.raises(DataError, match="changed while"):
        score_file(model, dirty[0], tmp_path / "out.csv", progress=grow)
    assert {path.name for path in tmp_path.iterdir()} == {"dirty.csv"}


def test_a_failure_leaves_what_was_there(model, new, dirty, tmp_path, monkeypatch):
    target = tmp_path / "out.csv"
    new[:500].to_csv(tmp_path / "new.csv", index=False)
    score_file(model, tmp_path / "new.csv", target)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    full = lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))  # noqa: E731
    monkeypatch.setattr(sinks.Files, "write", full)
    with pytest.raises(OSError, match="space"):
        score_file(model, dirty[0], target, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"needs to mount a small disk: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["/bin/umount", place], check=True)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_full_disk_leaves_no_output_and_says_so(model, dirty, small_disk, ending):
    done = shell.run(["score", model, dirty[0], "--no-track", "--output", small_disk / f"out{ending}"], dirty[0].parent)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "space" in done.stderr
    assert f"out{ending}" in done.stderr
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_full_disk_leaves_the_job_that_was_there_complete(model, new, dirty, small_disk, ending):
    target = small_disk / f"out{ending}"
    new[:200].to_csv(small_disk.parent / "new.csv", index=False)
    first = ["score", model, small_disk.parent / "new.csv", "--output", target, "--no-track", "--no-remember"]
    assert shell.run(first, small_disk.parent).returncode == 0
    before = {path: path.read_bytes() for path in small_disk.iterdir()}
    filled, room = small_disk / "others", os.statvfs(small_disk)
    filled.write_bytes(bytes(room.f_bavail * room.f_bsize - 16_384))  # all but a little
    failed = shell.run([*first[:2], dirty[0], *first[3:], "--overwrite"], small_disk.parent)
    assert failed.returncode == 1
    assert f"out{ending}" in failed.stderr
    assert {path: path.read_bytes() for path in small_disk.iterdir() if path != filled} == before
    again = shell.run(first, small_disk.parent)
    assert again.returncode == 0
    assert "complete  already" in again.stderr


def test_one_output_has_one_writer(model, dirty, tmp_path):
    with Draft(tmp_path / "out.csv") as held:
        held.write(b"theirs")
        with pytest.raises(OutputError, match="another process"):
            score_file(model, dirty[0], tmp_path / "out.csv")
        with pytest.raises(OutputError, match="another process"):
            score_file(model, dirty[0], tmp_path / "more.csv", rejects=tmp_path / "out.csv")
        assert held.draft.read_bytes() == b"theirs"
        assert not (tmp_path / "more.csv").exists()
    score_file(model, dirty[0], tmp_path / "out.csv")


def _job(model, source, target, outcome=None):
    sinks.EVERY, scoring_job.at_once = 0.0, lambda columns: BLOCK
    try:
        scoring.score_file(model, source, target)
    except OutputError:
        os._exit(2)


def spawned():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["anomaly_ae.ops.scoring"])
    return context


@pytest.mark.slow
@pytest.mark.usefixtures("short_blocks")
def test_two_jobs_at_once_make_one_whole_output(model, dirty, tmp_path):
    score_file(model, dirty[0], tmp_path / "whole.csv")
    for number in range(5):
        jobs = [spawned().Process(target=_job, args=(model, dirty[0], tmp_path / f"{number}.csv")) for _ in range(3)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        assert {job.exitcode for job in jobs} <= {0, 2}
        assert 0 in {job.exitcode for job in jobs}
        assert (tmp_path / f"{number}.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".csv", ".parquet"])  # 25 times each
@pytest.mark.usefixtures("short_blocks")
def test_killed_fifty_times_it_still_ends_in_the_same_bytes(model, dirty, tmp_path, ending):
    target, whole = tmp_path / f"out{ending}", tmp_path / f"whole{ending}"
    job, started = spawned().Process(target=_job, args=(model, dirty[0], whole)), time.monotonic()
    job.start()
    job.join()
    took, kills, rng = time.monotonic() - started, 0, random.Random(0)  # noqa: S311
    resumed = 0
    while kills < 25:
        job = spawned().Process(target=_job, args=(model, dirty[0], target))
        job.start()
        job.join(rng.uniform(0.3 * took, 1.2 * took))  # much of it is the start of a process
        job.kill()  # a job that ends just now is not missed: `kill` asks before it sends
        job.join()
        if job.exitcode == -signal.SIGKILL:
            kills += 1
            assert not target.exists() or target.read_bytes() == whole.read_bytes()
            took *= 1.05
            journal = tmp_path / f"{target.name}.job.json"
            resumed += journal.exists() and json.loads(journal.read_text())["state"] == "running"
        else:
            took *= 0.9  # this machine is faster now than it was
            assert job.exitcode == 0
            assert score_file(model, dirty[0], target).complete_already
            assert target.read_bytes() == whole.read_bytes()
            rejects = (tmp_path / f"{path.name}.rejects.csv" for path in (target, whole))
            assert len({path.read_bytes() for path in rejects}) == 1
            for path in tmp_path.glob(f"*{target.name}*"):
                path.unlink()
    score_file(model, dirty[0], target)
    assert target.read_bytes() == whole.read_bytes()
    assert resumed > 0


def test_csv_of_columns_with_empty_chunks_is_what_they_hold():
    name = pa.chunked_array([[], ["a"], [], ["b"], []], pa.string())
    assert bytes(FORMATS["csv"].body(pa.table({"row": [1, 2], "name": name}))) == b'1,"a"\n2,"b"\n'


def test_a_link_stays_and_the_file_it_names_is_written(model, new, tmp_path):
    path, link = tmp_path / "new.csv", tmp_path / "latest.csv"
    new[:50].to_csv(path, index=False)
    link.symlink_to(tmp_path / "scores.csv")
    score_file(model, path, link, track=False)
    assert link.is_symlink()
    assert len(read(tmp_path / "scores.csv")) == 50
    assert score_file(model, path, tmp_path / "scores.csv", track=False).complete_already  # one and the same job


def test_a_pipe_is_no_place_for_an_output(model, new, tmp_path):
    path, pipe = tmp_path / "new.csv", tmp_path / "pipe"
    new[:50].to_csv(path, index=False)
    os.mkfifo(pipe)
    for stream in ("/dev/stdout", "/dev/fd/1"):
        with pytest.raises(OutputError, match="Give - for standard output"):
            score_file(model, path, stream)
    with pytest.raises(OutputError, match="pipe or a device"):
        score_file(model, path, pipe, track=False, overwrite=True)
    assert pipe.is_fifo()
