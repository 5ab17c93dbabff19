"""Any bytes at all: every record of a text is scored as in memory or set aside, once, wherever the text is cut."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shell
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomaly_ae import AutoencoderDetector, load
from anomaly_ae.data import records
from anomaly_ae.data.dialect import NULLS, Dialect
from anomaly_ae.data.formats import FORMATS
from anomaly_ae.data.rejects import as_table
from anomaly_ae.errors import AnomalyError
from anomaly_ae.ops import job as scoring_job
from anomaly_ae.ops.tally import Allowed

HEADER = b"load,flow,site,name\n"
LONGEST = 200  # bytes, here: what is too long for a record is met as well
SITES = ["north", "old, south", 'the "new" one', "two\nlines"]


class Memory:
    """A sink that keeps what it is given."""

    def begin(self, schema):
        self.scores, self.rejects, self.rows = [], [], []

    def write(self, scores, rejects):
        self.scores.append(scores)
        self.rejects.append(rejects)

    def checkpoint(self, done):
        pass

    finish = note = checkpoint

    def refuse(self):
        pass


@pytest.fixture(scope="module")
def detector():
    rng = np.random.default_rng(0)
    normal = pd.DataFrame({"load": rng.normal(size=300), "flow": rng.normal(size=300), "site": rng.choice(SITES, 300)})
    return AutoencoderDetector(effort="fast", max_epochs=2, calibration="split", random_state=0).fit(normal)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("dirt") / "new.csv"


@pytest.fixture(autouse=True)
def short_records(monkeypatch):
    monkeypatch.setattr(records, "LONGEST", LONGEST)
    monkeypatch.setattr(scoring_job, "at_once", lambda columns: 8)


def judged(detector, path, chunk, monkeypatch, **dialect):
    """Rows of scores and of rejects, and how many rows there were."""
    monkeypatch.setattr(records, "CHUNK", chunk)
    sink = Memory()
    job = scoring_job.Job([detector], [str(path)], False, Dialect(**dialect), ["name"], 0)
    tables, aside, teller = {}, {}, job.tellers[0]

    def spy(rows, codes, table):
        told = teller(rows, codes, table)
        if len(rows):
            tables[int(rows[0])] = told.table
        return told

    def set_aside(some):
        aside.update({reject.row: reject for reject in some})
        return as_table(some)

    job.tellers[0] = spy
    monkeypatch.setattr(scoring_job, "as_table", set_aside)
    tally = job.run(sink, FORMATS["csv"], Allowed(np.inf, np.inf), None)
    empty = [teller.schema.empty_table()]
    scores = pa.concat_tables([tables[row] for row in sorted(tables)] or empty).to_pandas()
    rejects = [aside[row] for row in sorted(aside)]
    assert tally.rows == tally.scored + tally.rejected == len(scores) + len(rejects)
    return scores, rejects, [bytes(memoryview(part)) for part in sink.scores]


def found(text):
    """The records of a text, one after the other, by the rule in words: (start, end, well-formed)."""
    place = 0
    while place < len(text):
        end, fields = whole(text, place)
        newline = text.find(b"\n", place)
        after = len(text) if newline < 0 else newline + 1
        if end is None:
            stripped = place + len(text[place:after].rstrip(b"\r\n"))
            if stripped > place:
                yield place, stripped, None
            place = after
        else:
            if end > place:
                yield place, end, fields
            place = end + (2 if text[end : end + 2] == b"\r\n" else 1)


def whole(text, place):
    """Where a well-formed record that begins here ends, and its fields; None where there is none."""
    start, fields = place, []
    while True:
        field = b""
        if text[place : place + 1] == b'"':
            place += 1
            while True:
                quote = text.find(b'"', place)
                if quote < 0:
                    return None, None
                field += text[place:quote]
                place = quote + 1
                if text[place : place + 1] != b'"':
                    break
                field, place = field + b'"', place + 1
        else:
            while text[place : place + 1] not in (b",", b"\n", b"\r", b""):
                field, place = field + text[place : place + 1], place + 1
        fields.append(field)
        follows = text[place : place + 2]
        if follows[:1] == b",":
            place += 1
            continue
        ends = follows[:1] in (b"\n", b"") or follows == b"\r\n" or (follows == b"\r" and place + 1 == len(text))
        return (place, fields) if ends and place - start <= LONGEST else (None, None)


def check(detector, path, text, monkeypatch):
    """All that is promised of a text."""
    path.write_bytes(HEADER + text)
    expected = list(found(text))
    if not expected:
        with pytest.raises(AnomalyError, match="no row"):
            judged(detector, path, 1 << 16, monkeypatch)
        return
    scores, rejects, written = judged(detector, path, 1 << 16, monkeypatch)
    assert len(scores) + len(rejects) == len(expected)
    assert sorted([*scores["row"], *(reject.row for reject in rejects)]) == list(range(1, len(expected) + 1))
    for reject in rejects:
        start, end, fields = expected[reject.row - 1]
        assert reject.raw == text[start:end][:LONGEST].decode("utf-8", "backslashreplace")
        assert reject.byte_offset == len(HEADER) + start
        assert reject.line == 2 + text.count(b"\n", 0, start)
        assert fields is None or len(fields) != 4 or reject.column in ("load", "flow", "site", "name")
    good = [expected[row - 1][2] for row in scores["row"]]
    assert all(fields is not None and len(fields) == 4 for fields in good)
    if good:
        frame = pd.DataFrame([[field.decode() for field in fields] for fields in good])
        numbers = frame[[0, 1]].map(lambda cell: np.nan if cell in NULLS else float(cell))
        sites = frame[2].mask(frame[2].isin(NULLS))
        rows = pd.DataFrame({"load": numbers[0], "flow": numbers[1], "site": sites.astype(object)})
        assert np.allclose(scores["anomaly_score"], detector.anomaly_score(rows), rtol=1e-4)
        assert list(scores["name"]) == list(frame[3])
    chunk = 90 + len(text) % 211
    again = judged(detector, path, chunk, monkeypatch)
    assert again[0].equals(scores)
    assert again[1:] == (rejects, written)


# --- valid tables ----------------------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr), st.sampled_from(["", "NA", " 1"])
)
WORDS = st.one_of(st.sampled_from(SITES), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6))
ROWS = st.lists(st.tuples(CELLS, CELLS, WORDS, WORDS), min_size=1, max_size=20)


def quoted(cell, always):
    unsafe = any(c in cell for c in '",\n\r')
    return '"' + cell.replace('"', '""') + '"' if always or unsafe else cell


@given(rows=ROWS, always=st.booleans(), ending=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_of_a_valid_table_is_scored(detector, place, monkeypatch, rows, always, ending, last):
    lines = [",".join(quoted(cell, always) for cell in row) for row in rows]
    text = (ending.join(lines) + (ending if last else "")).encode()
    monkeypatch.setattr(records, "LONGEST", LONGEST)
    place.write_bytes(HEADER + text)
    scores, rejects, _ = judged(detector, place, 1 << 16, monkeypatch)
    assert not rejects
    assert list(scores["name"]) == [row[3] for row in rows]
    check(detector, place, text, monkeypatch)


# --- broken ones -----------------------------------------------------------------------------------------------------

PIECES = [
    b'"',
    b'""',
    b",",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\xff",
    b"\x00",
    b"x",
    b"inf",
    b"nan",
    b"1e999",
    b" ",
    b"-",
]


def mutated(seed):
    """Rows of a table whose bytes were changed at random in a few places."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 25))
    sites = [quoted(str(site), rng.random() < 0.3) for site in rng.choice(SITES, n)]
    lines = [f"{a:.3f},{b:.2f},{site},n{i}" for i, (a, b, site) in enumerate(zip(*rng.normal(size=(2, n)), sites))]  # noqa: B905
    text = bytearray(("\r\n" if rng.random() < 0.2 else "\n").join(lines).encode())
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, len(text) + 1))
        match int(rng.integers(0, 5)):
            case 0:
                text[at:at] = PIECES[rng.integers(0, len(PIECES))]
            case 1:
                del text[at : at + int(rng.integers(1, 30))]
            case 2:
                text[at : at + 1] = bytes([int(rng.integers(0, 256))])
            case 3:
                text[at:at] = text[at : at + int(rng.integers(1, 80))]
            case _:
                text[at:at] = b"y" * int(rng.integers(1, 300))
    return bytes(text)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 51))])
def test_no_row_of_a_broken_table_is_lost(detector, place, monkeypatch, part):
    for seed in range(200 * part, 200 * part + (200 if part else 50)):
        try:
            check(detector, place, mutated(seed), monkeypatch)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {mutated(seed)!r}") from error


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_the_shell_has_no_traceback_for_anything(detector, tmp_path, part):
    command = Path(sys.executable).with_name("anomaly-ae")
    detector.save(tmp_path / "model")
    for seed in range(10 * part, 10 * (part + 1)):
        text = mutated(20_000 + seed)
        (tmp_path / "new.csv").write_bytes(HEADER[: None if seed % 5 else 9] + text)
        out = tmp_path / f"{seed}.csv"
        arguments = ["score", "model", "--no-track", "--output", out, "new.csv"]
        if seed % 10 == 0:
            done = subprocess.run([command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        else:
            done = shell.run(arguments, tmp_path)
        assert done.returncode in (0, 2, 3), done.stderr
        assert "Traceback" not in done.stderr
        assert out.exists() == (done.returncode == 0)
        rejects = tmp_path / f"{seed}.csv.rejects.csv"
        if done.returncode == 0 and seed % 5:
            rows = sum(len(pd.read_csv(path)) for path in (out, rejects) if path.exists())
            records.LONGEST = 1 << 20
            assert rows == len(list(found(text)))


def test_the_oracle_knows_a_record():
    assert [fields for _, _, fields in found(b'1,"a\n""b""",c\nx,"y\n\n2"z,"\r\n')] == [
        [b"1", b'a\n"b"', b"c"], None, None,
    ]  # fmt: skip


def test_a_detector_from_disk_is_the_same(detector, tmp_path):
    assert load(detector.save(tmp_path / "model")).threshold_.value_ == detector.threshold_.value_
