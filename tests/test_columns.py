"""What columns are, and what becomes of them before a net sees them."""

import datetime
import decimal
import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from anomaly_ae import Preprocessing
from anomaly_ae.data.contract import EXACT, UNSEEN, Column, Contract
from anomaly_ae.data.preprocessing import (
    CHANGED,
    DAY_COS,
    DAY_SIN,
    LOG_FREQUENCY,
    VALUE,
    WEEK_COS,
    WEEK_SIN,
    Encoding,
)
from anomaly_ae.errors import ConfigError, DataError

DAY = 86_400
UTC = datetime.UTC


def table(n=200, seed=0):
    """Every kind of column, with and without gaps."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "number": rng.normal(20, 3, n),
            "gappy": rng.exponential(size=n),
            "flag": rng.random(n) < 0.3,
            "gappy flag": pd.array(rng.random(n) < 0.6, dtype="boolean"),
            "level": rng.choice(["low", "medium", "high"], n),
            "code": [f"R{k}" for k in np.minimum(rng.zipf(1.5, n), 60)],
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, n), unit="D"),
            "moment": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 10**7, n), unit="s"),
            "constant": 7.0,
            "same word": "yes, this",
            "empty": np.nan,
        }
    )
    for name in ("gappy", "gappy flag", "level", "moment"):
        X[name] = X[name].mask(rng.random(n) < 0.1)
    return X


def charges(cells):
    """What no net can judge, `(n, d)`."""
    nats = np.zeros((len(cells.x), cells.surprise.shape[1]))
    nats[cells.charged] = cells.surprise
    return nats


def learned(X, **rule):
    contract = Contract.learn(X)
    codes = contract.codes(X)
    return contract, codes, Preprocessing(**rule).learn(contract.columns, codes)


def of_numbers(codes, **rule):
    codes = np.asarray(codes, dtype=float)
    return Preprocessing(**rule).learn(Contract.numeric(codes).columns, codes)


def of_column(values, **rule):
    return learned(pd.DataFrame({"a": values}), **rule)


def docstring_cells(fit, x, bend=16.0):
    m, s = np.mean(fit), np.std(fit)
    return np.arcsinh((x - m) / (bend * s)) / np.std(np.arcsinh((fit - m) / (bend * s)))


def priced(z):
    return 4 * np.arcsinh(z / 4)


# --- kinds -----------------------------------------------------------------------------------------------------------

SECONDS = datetime.datetime(2024, 1, 1, tzinfo=UTC).timestamp()
NUMBERS = {
    "floats": [1.0, 2.5],
    "integers": [1, 2],
    "single floats": np.float32([1, 2]),
    "objects": np.array([1, 2.5], dtype=object),
    "decimals": [decimal.Decimal("1.5"), decimal.Decimal(2)],
    "nullable": pd.array([1, None, 3], dtype="Int64"),
    "nullable floats": pd.array([1.5, None, 3], dtype="Float64"),
    "nothing": [np.nan, np.nan],
    "nothing at all": [None, None],
    "no text": pd.array([None, None], dtype="string"),
    "largest": [EXACT, -EXACT],
}
BOOLEANS = {
    "booleans": [True, False],
    "objects": [True, None, False],
    "nullable": pd.array([True, None, False], dtype="boolean"),
}
CATEGORIES = {
    "text": ["b", "a", "b"],
    "objects": np.array(["b", None, "a"], dtype=object),
    "nullable": pd.array(["b", None, "a"], dtype="string"),
    "categories": pd.Categorical(["b", "a", None], ["unused", "b", "a"]),
    "ordered": pd.Categorical(["b", "a"], ["b", "a"], ordered=True),
}
DATES = {
    "timestamps": pd.to_datetime(["2024-01-01", "2024-01-03"]),
    "with a gap": [pd.Timestamp("2024-01-01"), pd.NaT, pd.Timestamp("2024-01-03")],
    "dates": [datetime.date(2024, 1, 1), datetime.date(2024, 1, 3)],
    "ISO text": ["2024-01-01", None, "2024-01-03T00:00:00"],
    "ISO text with zones": ["2024-01-01T02:00+02:00", "2024-01-03 00:00:00Z"],
    "zones": pd.to_datetime(["2024-01-01", "2024-01-03"]).tz_localize("UTC").tz_convert("Asia/Tokyo"),
}
COLUMNS = [
    pytest.param(kind, values, id=f"{kind}: {name}")
    for kind, cases in {"number": NUMBERS, "boolean": BOOLEANS, "category": CATEGORIES, "date": DATES}.items()
    for name, values in cases.items()
]


@pytest.mark.parametrize(("kind", "values"), COLUMNS)
def test_a_column_is_what_its_values_are(kind, values):
    X = pd.DataFrame({"a": values})
    column = Contract.learn(X).columns[0]
    codes = column.codes(X["a"])
    assert (column.name, column.kind) == ("a", kind)
    assert column.missing == X["a"].isna().mean()
    assert codes.dtype == np.float64
    np.testing.assert_array_equal(np.isnan(codes), X["a"].isna())
    present = codes[~np.isnan(codes)]
    if kind == "category":
        assert (column.low, column.high, column.levels) == (None, None, ("a", "b"))
        assert [column.levels[int(code)] for code in present] == list(X["a"].dropna())
    elif len(present):
        assert (column.low, column.high) == (present.min(), present.max())
    else:
        assert column.low is column.high is None
        assert column.constant
    if kind == "number":
        np.testing.assert_array_equal(present, X["a"].dropna().astype(float))
    if kind == "boolean":
        np.testing.assert_array_equal(present, [1.0, 0.0])
    if kind == "date":
        np.testing.assert_array_equal(present, [SECONDS, SECONDS + 2 * DAY])


TEXTS = [["2024-01-01", "soon"], ["1", "2"], ["01.02.2024", "02.02.2024"], [1, "a"], ["true", "false"]]


@pytest.mark.parametrize("values", TEXTS, ids=str)
def test_text_that_is_not_all_dates_stays_text(values):
    column = Contract.learn(pd.DataFrame({"a": values})).columns[0]
    assert column.kind == "category"
    assert column.levels == tuple(sorted(map(str, values)))


def test_the_contract_of_an_array_has_numbers_only():
    X = np.array([[1, np.nan, np.nan], [3, np.nan, 5]])
    contract = Contract.numeric(X)
    assert contract.names == ["x0", "x1", "x2"]
    assert contract.all_numbers
    assert [(c.low, c.high, c.missing) for c in contract.columns] == [(1, 3, 0), (None, None, 1), (5, 5, 0.5)]
    assert [c.constant for c in contract.columns] == [False, True, True]


def test_codes_become_the_table_again():
    X = table()
    contract = Contract.learn(X)
    codes = contract.codes(X)
    back = contract.table(codes)
    assert list(back) == list(X)
    np.testing.assert_array_equal(back.isna(), X.isna())
    for name in X:
        there = X[name].notna()
        assert back[name][there].tolist() == X[name][there].tolist()
    np.testing.assert_array_equal(contract.codes(back), codes)


def test_dates_beyond_nanoseconds_become_the_table_again():
    X = pd.DataFrame({"a": ["0001-01-01", "2024-02-29T12:30:00.25", "9999-12-31"]})
    contract = Contract.learn(X)
    codes = contract.codes(X)
    assert codes[2, 0] == 253_402_214_400
    np.testing.assert_array_equal(contract.codes(contract.table(codes)), codes)
    assert [contract.columns[0].shown(code) for code in codes[[0, 2], 0]] == ["0001-01-01", "9999-12-31"]


@pytest.mark.parametrize("code", [1e12, -1e12, 1e300, -1e300])
def test_a_code_beyond_all_dates_is_the_first_or_last_moment(code):
    column = Column("a", "date", 0.0, 1.0, 0.0)
    assert column.value(code).year == (9999 if code > 0 else 1)
    assert column.shown(code) == "beyond all dates"


def test_json_gives_the_same_contract():
    for contract in (Contract.learn(table()), Contract.numeric(np.array([[1.5, np.nan], [2, np.nan]]))):
        assert Contract.from_json(json.loads(json.dumps(contract.to_json(), allow_nan=False))) == contract


def test_an_unseen_level_and_a_gap_have_codes_of_their_own():
    contract = Contract.learn(pd.DataFrame({"a": ["x", "y"], "b": [1.0, 2.0], "c": [True, False]}))
    new = pd.DataFrame({"a": ["z", None, "nan"], "b": [None, 1, 9], "c": pd.array([None, "yes", 0], dtype=object)})
    np.testing.assert_array_equal(contract.codes(new), [[UNSEEN, np.nan, np.nan], [np.nan, 1, 1], [UNSEEN, 9, 0]])
    assert contract.table(contract.codes(new))["a"][0] == "(unseen)"


OTHER_TYPES = [
    ("number", "oops", "oops"),
    ("number", pd.Timestamp("2024-01-01"), "2024-01-01"),
    ("number", [1], "[1]"),
    ("number", {"a": 1}, "{'a': 1}"),
    ("flag", "perhaps", "perhaps"),
    ("flag", 2, "2"),
    ("flag", pd.Timestamp("2024-01-01"), "2024-01-01"),
    ("flag", [True], "[True]"),
    ("day", "oops", "oops"),
    ("day", "2024-02-30", "2024-02-30"),
    ("day", 5, "5"),
    ("day", [1], "[1]"),
    ("level", ["low"], "['low']"),
    ("level", {"low": 1}, "{'low': 1}"),
    ("number", np.inf, "infinity"),
    ("number", -np.inf, "infinity"),
    ("number", "1e400", "infinity"),
]


@pytest.mark.filterwarnings("ignore:Parsing integer or float")
@pytest.mark.parametrize(("name", "value", "said"), OTHER_TYPES, ids=str)
def test_a_value_of_another_type_is_refused_with_its_place(name, value, said):
    X = table(30)
    contract = Contract.learn(X)
    cells = pd.Series([*X[name][:17], value, *X[name][18:]], dtype=object)
    for index, place in ((pd.RangeIndex(30), "at index 17"), (pd.RangeIndex(1, 31, name="row"), "in row 18")):
        with pytest.raises(DataError) as refusal:
            contract.codes(X.assign(**{name: cells}).set_axis(index))
        assert all(word in str(refusal.value) for word in (repr(name), said, place)), str(refusal.value)


WHOLE_COLUMNS = [
    ("number", pd.to_datetime(["2024-01-01"] * 30)),
    ("number", pd.to_timedelta([1] * 30, unit="s")),
    ("number", [1j] * 30),
    ("number", ["a"] * 30),
    ("day", np.arange(30)),
    ("day", np.linspace(0, 1, 30)),
    ("day", [True] * 30),
    ("flag", np.arange(30) + 2),
    ("flag", ["low"] * 30),
]


@pytest.mark.parametrize(("name", "values"), WHOLE_COLUMNS, ids=lambda v: v if isinstance(v, str) else str(v[0]))
def test_a_column_that_changed_its_type_is_refused(name, values):
    contract = Contract.learn(table(30))
    with pytest.raises(DataError, match=f"'{name}'.* at index 0"):
        contract.codes(table(30).assign(**{name: values}))


@pytest.mark.parametrize("value", ["1.5", 1, True, decimal.Decimal("1.5")], ids=repr)
def test_a_number_may_be_written_as_text(value):
    column = Column("a", "number", 0.0, 9.0, 0.0)
    np.testing.assert_array_equal(column.codes(pd.Series([value, None], dtype=object)), [float(value), np.nan])


UNFIT = {
    "list": ([[1], [2]], "[1]"),
    "dict": ([{"k": 1}, {"k": 2}], "{'k': 1}"),
    "set": ([{1}, {2}], "{1}"),
    "tuple": ([(1,), (2,)], "(1,)"),
    "array": ([np.ones(2), np.ones(2)], "array"),
    "list among text": (["a", ["b"]], "['b']"),
    "infinity": ([1.0, np.inf], "infinity"),
    "beyond 2^53": ([EXACT + 1, 1], "2^53"),
    "below -2^53": ([-EXACT - 1, 1], "2^53"),
    "unsigned": (np.array([2**64 - 1, 1], dtype=np.uint64), "2^53"),
    "nullable beyond 2^53": (pd.array([EXACT + 1, None], dtype="Int64"), "2^53"),
    "beyond all integers": ([10**30, 1], "2^53"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_no_model_can_read_is_refused_at_fit(case):
    values, said = UNFIT[case]
    with pytest.raises(DataError) as refusal:
        Contract.learn(pd.DataFrame({"good": [1, 2], "bad one": values}))
    assert "'bad one'" in str(refusal.value)
    assert said in str(refusal.value)


N = 40
SUSPICIOUS = {
    "counter": ("identifiers", "key", np.arange(N)),
    "counter in floats": ("identifiers", "key", np.arange(N) + 100.0),
    "nullable counter": ("identifiers", "key", pd.array(range(N), dtype="Int64")),
    "names": ("identifiers", "key", [f"u{i}" for i in range(N)]),
    "labels": ("labels", "label", [0, 1] * (N // 2)),
    "labels in capitals": ("labels", "Target", ["ok", "bad"] * (N // 2)),
    "flags": ("labels", "is_anomaly", [True, False] * (N // 2)),
}
ORDINARY = {
    "number": ("key", np.random.default_rng(0).normal(size=N)),
    "integers": ("key", np.random.default_rng(0).permutation(N)),
    "category": ("key", ["a", "b"] * (N // 2)),
    "numbers as categories": ("key", ["1", "2"] * (N // 2)),
    "versions": ("key", ["4.1", "4.2"] * (N // 2)),
    "addresses": ("key", ["10.0.0.1", "10.0.0.2"] * (N // 2)),
    "many versions": ("key", [f"4.1.{value // 2}" for value in range(N)]),
    "codes": ("key", [f"{value // 2:05d}" for value in range(N)]),
    "articles": ("key", [f"ABC {value // 2}" for value in range(N)]),
    "dates": ("key", pd.date_range("2024-01-01", periods=N)),
    "constant": ("key", np.ones(N)),
    "target of many values": ("target", np.random.default_rng(0).normal(size=N)),
    "y among other letters": ("yield", [0, 1] * (N // 2)),
}


WRITTEN = {
    "decimal commas": ("numbers", [f"{value},5" for value in range(N)]),
    "units": ("numbers", [f"{value / 7:.1f} °C" for value in range(N)]),
    "shares": ("numbers", [f"{value}%" for value in range(N)]),
    "thousands": ("numbers", [f"{value},013.4" for value in range(1, N + 1)]),
    "thousands beside hundreds": ("numbers", [f"{value * 77:,}" for value in range(1, N + 1)]),
    "dollars": ("numbers", [f"${value * 77:,.2f}" for value in range(N)]),
    "euros": ("numbers", [f"€ {value / 7:.2f}" for value in range(N)]),
    "euros behind": ("numbers", [f"{value / 7:.2f}€" for value in range(N)]),
    "debts": ("numbers", [f"-$ {value}" for value in range(N)]),
    "pounds": ("numbers", [f"GBP {value}" for value in range(N)]),
    "beyond a limit": ("numbers", [f"<{value / 7:.2f}" for value in range(N)]),
    "some beyond a limit": ("numbers", [f"{'>= ' * (value % 3 == 0)}{value / 7:.2f}" for value in range(N)]),
    "minus signs": ("numbers", [f"\N{MINUS SIGN}{value / 7:.2f}" for value in range(N)]),
    "German dates": ("dates", [f"{day % 28 + 1:02d}.{day % 12 + 1:02d}.2026" for day in range(N)]),
    "American dates": ("dates", [f"{day % 12 + 1}/{day % 28 + 1}/2026 08:00" for day in range(N)]),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_numbers_and_dates_written_as_text_are_warned_of(case):
    what, values = WRITTEN[case]
    with pytest.warns(UserWarning, match=f"Columns of text that look like {what}: odd, such as") as said:
        Contract.learn(pd.DataFrame({"plain": [1.0, 3.0] * (N // 2), "odd": values}))
    assert len(said) == 1  # they are no identifiers as well


@pytest.mark.parametrize(
    "values",
    [pd.to_timedelta(range(N), unit="s"), pd.period_range("2026", periods=N, freq="D"), np.full(N, 1j)],
    ids=["spans of time", "periods", "complex numbers"],
)
def test_values_of_no_kind_are_refused_by_name(values):
    with pytest.raises(DataError, match="column 'odd' has values of type"):
        Contract.learn(pd.DataFrame({"odd": values}))


@pytest.mark.parametrize(
    ("index", "where"),
    [
        (pd.Index(np.arange(3) + 7), "at index 8"),
        (pd.Index(["u", "v", "w"]), "at index 'v'"),
        (pd.date_range("2026-01-01", periods=3), "at index 2026-01-02 00:00:00"),
        (pd.Index([1, 2, 3], name="row"), "in row 2"),
    ],
    ids=["numbers", "text", "dates", "rows of a file"],
)
def test_a_place_is_told_as_a_person_writes_it(index, where):
    X = pd.DataFrame({"a": [1.0, np.inf, 2.0], "site": ["north", "south", "north"]}, index=index)
    with pytest.raises(DataError, match=f"column 'a' has infinity {re.escape(where)}\\."):
        Contract.learn(X)


@pytest.mark.parametrize("case", SUSPICIOUS)
def test_identifiers_and_labels_are_warned_of_by_name(case):
    what, name, values = SUSPICIOUS[case]
    with pytest.warns(UserWarning, match=f"look like {what}: {name}\\.") as said:
        Contract.learn(pd.DataFrame({"plain": [1.0, 3.0] * (N // 2), name: values}))
    assert len(said) == 1


@pytest.mark.parametrize("case", ORDINARY)
def test_ordinary_columns_are_not_warned_of(case):
    name, values = ORDINARY[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Contract.learn(pd.DataFrame({name: values})).names == [name]


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_numbers_of_fit_rows_are_standardised():
    X = np.random.default_rng(0).normal([0, 5, -1e6], [1, 1e-3, 1e4], size=(500, 3))
    X[::7, 1] = np.nan
    cells = of_numbers(X).transform(X)
    z = np.where(np.isnan(X), np.nan, cells.x[:, :3])
    np.testing.assert_allclose(np.nanmean(z, axis=0), 0, atol=0.02)
    np.testing.assert_allclose(np.nanstd(z, axis=0), 1, rtol=1e-8)
    np.testing.assert_array_equal(cells.surprise, 0)


@pytest.mark.parametrize(("unit", "shift"), [(1e-6, 0), (1e6, -3), (7.3, 1e4), (-2.0, 5)])
def test_units_of_numbers_do_not_matter(unit, shift):
    rng = np.random.default_rng(0)
    fit, new = rng.normal(size=(300, 2)), rng.normal(size=(50, 2)) * 10
    one, two = of_numbers(fit).transform(new), of_numbers(fit * unit + shift).transform(new * unit + shift)
    np.testing.assert_allclose(two.x * np.sign(unit), one.x, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(charges(two), charges(one), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("bend", [0.5, 4.0, 30.0])
def test_cells_bend_as_documented_and_come_back(bend):
    X = np.random.default_rng(0).normal(3, 2, size=(400, 1))
    encoding, m, s = of_numbers(X, bend=bend), X.mean(), X.std()
    there = np.sort(np.r_[np.linspace(-40, 40, 401), -1e3, 1e3, 1e9, 1e150, 1e250])
    z = encoding.transform((there * s + m)[:, None]).x
    np.testing.assert_allclose(z[:, 0], docstring_cells(X, there * s + m, bend), rtol=1e-9, atol=1e-9)
    assert (np.diff(z[:, 0]) > 0).all()
    np.testing.assert_allclose(encoding.inverse_transform(z)[:, 0], there * s + m, rtol=1e-9, atol=1e-9)
    assert np.isfinite(encoding.inverse_transform(z * 1e6)).all()


def test_without_a_bend_and_with_a_wide_one_cells_are_linear():
    X = np.random.default_rng(0).normal(3, 2, size=(400, 1))
    linear = (X - X.mean()) / X.std()
    np.testing.assert_allclose(of_numbers(X, bend=None).transform(X).x, linear, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_numbers(X, bend=1e4).transform(X).x, linear, rtol=1e-6, atol=1e-9)
    far = of_numbers(X, bend=None).transform(X + 1e6).x
    np.testing.assert_allclose(far, linear + 1e6 / X.std(), rtol=1e-9)


@pytest.mark.parametrize("spoiled", [1, 5, 10])
@pytest.mark.parametrize("far", [1e6, -1e6, 1e12])
def test_a_few_far_values_do_not_flatten_the_bulk(far, spoiled):
    X = np.random.default_rng(0).normal(size=(1000, 1))
    bulk = X[spoiled:].copy()
    X[:spoiled] = far
    encoding = of_numbers(X)
    z = encoding.transform(X)
    assert 0.5 < encoding.transform(bulk).x.std() < 2
    assert np.abs(z.x).max() > 20
    np.testing.assert_array_equal(charges(z), 0)  # they were there at fit


def test_one_far_value_among_few_rows_does_not_flatten_the_others():
    X = np.r_[np.random.default_rng(0).normal(size=59), 1e300][:, None]
    assert 0.5 < of_numbers(X).transform(X).x[:59].std() < 2


@pytest.mark.parametrize("value", [3.3, 0.1, 230.4, 19.99, -1e9 / 3])
@pytest.mark.parametrize("rows", [1000, 20_000])
def test_a_column_that_hardly_ever_changes_has_the_same_cells_whatever_its_value(value, rows):
    """Of values that binary numbers do not hold, a mean is not the value itself."""
    changes = np.zeros((rows, 1))
    changes[::400] = 1.0
    told, expected = (of_numbers(of).transform(of).x for of in (value + changes * abs(value), changes))
    np.testing.assert_allclose(told, expected, rtol=1e-6)
    assert np.abs(told).max() < 100


def test_a_column_whose_squares_are_infinite_is_named():
    X = np.random.default_rng(0).normal(size=(20, 3))
    X[::2, 1] = 1e200
    with pytest.raises(DataError, match=r"'x1' reaches 1e\+200"):
        of_numbers(X)


def test_without_standardising_cells_are_the_numbers():
    X = np.random.default_rng(0).normal(size=(50, 2))
    encoding = of_numbers(X, standardize=False)
    new = np.array([[50.0, -1e4], [1e15, 0]])
    cells = encoding.transform(new)
    np.testing.assert_array_equal(cells.x, new)
    np.testing.assert_array_equal(encoding.transform(new * 1e180).x, [[1e16, -1e16], [1e16, 0]])  # squares are finite
    assert charges(cells)[0, 0] == pytest.approx(0.5 * (priced(50) - priced(X[:, 0].max())) ** 2)
    assert np.isfinite(cells.surprise).all()
    np.testing.assert_array_equal(encoding.inverse_transform(cells.x), new)


FINITE = st.floats(allow_nan=False, allow_infinity=False)
CELLS = st.one_of(FINITE, st.floats(-5, 5), st.sampled_from([0.0, 1.0, np.nan]))


@settings(max_examples=150, deadline=None)
@given(
    fit=arrays(np.float64, st.tuples(st.integers(1, 8), st.just(3)), elements=CELLS),
    new=arrays(np.float64, st.tuples(st.integers(1, 4), st.just(3)), elements=CELLS),
    standardize=st.booleans(),
)
@example(fit=np.full((1, 3), 1e292), new=np.full((1, 3), -np.finfo(float).max), standardize=False)
def test_cells_of_any_finite_table_are_finite_and_add_up(fit, new, standardize):
    try:
        encoding = of_numbers(fit, standardize=standardize)
    except DataError:
        assert np.nanmax(np.abs(fit)) > 1e150
        return
    for rows in (fit, new):
        cells = encoding.transform(rows)
        assert cells.x.shape == (len(rows), encoding.width)
        assert np.isfinite(cells.x).all()
        assert np.isfinite(cells.surprise).all()
        assert (cells.surprise >= 0).all()
        bounded = np.clip(cells.x, -1e100, 1e100)
        totals = encoding.by_column(bounded)
        assert totals.shape == rows.shape
        size = np.abs(bounded).sum(axis=1).max()
        np.testing.assert_allclose(totals.sum(axis=1), bounded.sum(axis=1), rtol=1e-9, atol=1e-12 * size)


# --- every kind ------------------------------------------------------------------------------------------------------


def test_present_cells_come_back():
    X = table(400)
    _, codes, encoding = learned(X, max_levels=10)
    far = codes[:50].copy()
    far[:, 0] = np.linspace(-1e4, 1e4, 50)
    far[:, 6] += 30 * 365 * DAY
    rows = np.concatenate([codes, far])
    expected = rows.copy()
    counts = np.bincount(codes[:, 5].astype(int))
    pooled = ~np.isin(rows[:, 5], np.argsort(-counts, kind="stable")[:10])
    assert 0 < pooled.mean() < 0.5
    expected[pooled, 5] = UNSEEN
    back = encoding.inverse_transform(encoding.transform(rows).x)
    there = ~np.isnan(rows)
    np.testing.assert_allclose(back[there], expected[there], rtol=1e-9)
    assert np.isnan(back[:, 10]).all()


def test_cells_by_kind_are_where_owner_says():
    X = table()
    _, codes, encoding = learned(X, max_levels=10)
    cells = encoding.transform(codes)
    assert cells.x.shape == cells.mask.shape == (200, encoding.width)
    assert charges(cells).shape == codes.shape
    assert sum(width for _, width in encoding.groups) == encoding.width == len(encoding.owner)
    assert [int((encoding.owner == j).sum()) for j in range(11)] == [1, 1, 1, 1, 3, 12, 3, 5, 1, 1, 1]
    order = [kind for kind, _ in encoding.groups]
    assert order == sorted(order, key=["numeric", "binary", "category"].index)
    x = np.random.default_rng(0).normal(size=cells.x.shape)
    by_column = encoding.by_column(x)
    np.testing.assert_allclose(by_column.sum(axis=1), x.sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(by_column[:, 5], x[:, encoding.owner == 5].sum(axis=1), rtol=1e-9)


def test_a_stored_encoding_is_the_same():
    _, codes, encoding = learned(table(), max_levels=10)
    state = {
        name: np.array(array.tolist(), dtype=array.dtype).reshape(array.shape) for name, array in encoding.state.items()
    }
    one, two = encoding.transform(codes), Encoding(Preprocessing(max_levels=10), state).transform(codes)
    for name in ("x", "mask", "surprise", "charged"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert Encoding(encoding.rule, state).groups == encoding.groups


def test_an_encoding_reads_no_other_row():
    _, codes, encoding = learned(table())
    whole = encoding.transform(codes)
    for i in (0, 57, 199):
        one = encoding.transform(codes[[i]])
        np.testing.assert_array_equal(one.x[0], whole.x[i])
        np.testing.assert_array_equal(charges(one)[0], charges(whole)[i])


@pytest.mark.parametrize(
    "rule", [{"max_levels": 1}, {"max_levels": 2.5}, {"missing": "drop"}, {"bend": 0}, {"bend": np.inf}], ids=str
)
def test_a_rule_out_of_range_is_refused(rule):
    with pytest.raises(ConfigError, match=repr(next(iter(rule.values())))):
        of_numbers(np.arange(5.0)[:, None], **rule)


# --- categories ------------------------------------------------------------------------------------------------------

LETTERS = list("a" * 8 + "b" * 6 + "c" * 4 + "d" * 2 + "e")


@pytest.mark.parametrize(("most", "width", "frequency"), [(2, 3, 1), (3, 4, 1), (4, 5, 1), (5, 5, 0), (20, 5, 0)])
def test_levels_have_cells_and_rare_ones_share_one(most, width, frequency):
    _, codes, encoding = of_column(LETTERS, max_levels=most)
    assert encoding.groups == (*[("numeric", 1)] * frequency, ("category", width))
    x = encoding.transform(codes).x[:, frequency:]
    np.testing.assert_array_equal(x.sum(axis=1), 1)
    for row, letter in zip(x, LETTERS, strict=True):
        assert row.argmax() == min("abcde".index(letter), width - 1)


def test_a_level_s_frequency_is_a_cell():
    _, codes, encoding = of_column(LETTERS, max_levels=2)
    assert encoding.numeric == [(0, LOG_FREQUENCY)]
    log = np.log([LETTERS.count(letter) + 0.5 for letter in LETTERS])
    z = encoding.transform(np.r_[codes, [[UNSEEN]]]).x[:, 0]
    np.testing.assert_allclose(z[:-1], docstring_cells(log, log), rtol=1e-9)
    assert z[-1] == pytest.approx(docstring_cells(log, np.log(0.5)))


# --- dates -----------------------------------------------------------------------------------------------------------

DAYS = np.arange(100)
SCHEDULES = {
    "days": (DAYS * DAY, [VALUE, WEEK_COS, WEEK_SIN]),
    "Mondays": (DAYS * 7 * DAY, [VALUE]),
    "Mondays at several hours": (DAYS * 7 * DAY + DAYS % 5 * 3600, [VALUE, DAY_COS, DAY_SIN]),
    "Mondays within an hour": (DAYS * 7 * DAY + DAYS % 5 * 60, [VALUE]),
    "hours": (DAYS * 3600, [VALUE, DAY_COS, DAY_SIN, WEEK_COS, WEEK_SIN]),
    "always the same": (DAYS * 0, [VALUE]),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_dates_have_parts_only_where_they_vary(case):
    seconds, parts = SCHEDULES[case]
    values = pd.Timestamp("2024-01-01") + pd.to_timedelta(seconds, unit="s")
    _, codes, encoding = of_column(values)
    assert encoding.numeric == [(0, part) for part in parts]
    raw = encoding.raw(codes)
    np.testing.assert_array_equal(raw[:, 0], codes[:, 0])
    for place, part in enumerate(parts[1:], 1):
        turn = 2 * np.pi * codes[:, 0] / (DAY if part in (DAY_COS, DAY_SIN) else 7 * DAY)
        wave = np.cos(turn) if part in (DAY_COS, WEEK_COS) else np.sin(turn)
        np.testing.assert_allclose(raw[:, place], wave, atol=1e-9)


# --- what is missing and what was never seen -------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["score", "ignore"])
def test_a_gap_is_an_absent_cell_and_the_net_is_told_of_usual_ones(missing):
    X = table()
    _, codes, encoding = learned(X, missing=missing)
    assert [X.columns[j] for j in encoding.gappy] == ["gappy", "gappy flag", "level", "moment"]
    rows = codes[:50].copy()
    rows[:25] = np.nan
    cells = encoding.transform(rows)
    np.testing.assert_array_equal(cells.gaps, np.isnan(rows[:, encoding.gappy]))
    gone = np.isnan(rows[:, encoding.owner])
    np.testing.assert_array_equal(cells.mask, ~gone)
    np.testing.assert_array_equal(cells.x[gone], 0)


def test_gaps_cost_what_they_exceed_the_usual_by():
    _, codes, encoding = learned(table())
    gaps = np.isnan(codes).sum(axis=0)
    gappy = (gaps > 0) & (gaps < 200)
    nats = np.isnan(codes)[:, gappy] @ np.log(201 / (gaps + 1))[gappy]
    usual = encoding.state["gap_level"][0]
    assert np.mean(nats <= usual + 1e-9) >= 0.95
    assert np.mean(nats < usual - 1e-9) < 0.95
    np.testing.assert_allclose(charges(encoding.transform(codes)).sum(axis=1), np.maximum(nats - usual, 0), atol=1e-9)
    rows = np.repeat(codes[:1], 3, axis=0)
    rows[0], rows[1, [0, 2]], rows[2, [1, 3, 4, 7]] = np.nan, np.nan, np.nan
    cost = np.isnan(rows) * np.where(gaps > 0, np.log(201 / (gaps + 1)), never(200, len(gaps)))
    total = cost[:, gappy].sum(axis=1, keepdims=True)
    expected = cost * np.where(gappy, np.maximum(total - usual, 0) / total, 1)
    np.testing.assert_allclose(charges(encoding.transform(rows)), expected, rtol=1e-9, atol=1e-12)


def test_ignored_gaps_cost_nothing():
    _, codes, encoding = learned(table(), missing="ignore")
    np.testing.assert_array_equal(charges(encoding.transform(np.full_like(codes[:3], np.nan))), 0)


def test_a_full_table_has_no_mask():
    X = np.random.default_rng(0).normal(size=(20, 2))
    cells = of_numbers(X).transform(X)
    assert cells.mask is cells.gaps is None


def never(rows, columns):
    """What it costs to be what none of so many rows was, and none let expect."""
    return np.log(rows + 1) + np.sqrt(columns * np.log(rows + 1))


def test_what_none_was_is_stranger_than_all_rows_but_few_by_all_their_columns():
    for columns in (1, 10, 100):
        for rows in (100, 3000):
            exceeds = never(rows, columns) + columns / 2  # half a sum of squares, and its mean
            assert 0.001 / rows < stats.chi2.sf(2 * exceeds, columns) < 1 / rows


def charge(encoding, values):
    return charges(encoding.transform(np.asarray(values, dtype=float).reshape(-1, 1)))[:, 0]


def test_beyond_the_range_costs_half_the_squared_distance():
    x = np.random.default_rng(0).normal(5, 2, 300)
    encoding, m, s = of_numbers(x[:, None]), x.mean(), x.std()
    low, high = x.min(), x.max()
    for value in (high + 0.5, high + 3, m + 100 * s, low - 1, m - 1e6 * s):
        edge = high if value > m else low
        distance = priced(docstring_cells(x, value)) - priced(docstring_cells(x, edge))
        assert charge(encoding, [value])[0] == pytest.approx(0.5 * distance**2, rel=1e-9)
    np.testing.assert_array_equal(charge(encoding, [low, m, high]), 0)


def test_a_date_beyond_the_range_costs_and_its_hours_do_not():
    values = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(100) * 3600, unit="s")
    _, codes, encoding = of_column(values[::-1])
    x = codes[:, 0]
    new = x.max() + 10 * DAY
    distance = priced(docstring_cells(x, new)) - priced(docstring_cells(x, x.max()))
    assert charge(encoding, [new])[0] == pytest.approx(0.5 * distance**2, rel=1e-9)


def test_of_a_date_that_rises_from_row_to_row_hours_count_alone():
    values = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(100) * 3600, unit="s")
    _, codes, encoding = of_column(values)
    later = encoding.transform(codes[:24] + 1000 * 7 * DAY)
    np.testing.assert_array_equal(charges(later), 0)
    np.testing.assert_allclose(later.x, encoding.transform(codes[:24]).x, atol=1e-9)
    assert np.ptp(later.x, axis=0).max() > 1
    for hour, rises in ((2, True), (1, False)):  # of the fourth row: as of the one before, and earlier
        hours = np.arange(100)
        hours[3] = hour
        times = pd.Timestamp("2024-01-01") + pd.to_timedelta(hours, unit="h")
        assert Contract.learn(pd.DataFrame({"t": times})).columns[0].rising == rises


@pytest.mark.parametrize("most", [2, 20])
@pytest.mark.parametrize("once", [0, 1, 3])
def test_an_unseen_level_costs_what_good_and_turing_say(once, most):
    letters = ["a"] * 9 + ["b"] * 6 + ["c"] * 4 + [f"only {i}" for i in range(once)]
    _, _, encoding = of_column(letters, max_levels=most)
    cost = np.log((len(letters) + 1) / (once + 1)) if once else never(len(letters), 1)
    np.testing.assert_allclose(charge(encoding, [UNSEEN, 0]), [cost, 0], rtol=1e-12)


def test_a_level_of_other_rows_than_fit_rows_is_unseen():
    columns = Contract.learn(pd.DataFrame({"a": ["x", "y", "z"]})).columns
    encoding = Preprocessing().learn(columns, np.array([[0.0], [1], [0]]))
    np.testing.assert_allclose(charge(encoding, [2, UNSEEN, 1]), [np.log(4 / 2), np.log(4 / 2), 0])


@pytest.mark.parametrize("values", [[1.0, 2, 3], [True, False, True], ["x", "y", "x"], DATES["timestamps"]], ids=repr)
def test_an_unusual_gap_costs_what_none_was(values):
    _, _, encoding = of_column(values)
    _, _, lenient = of_column(values, missing="ignore")
    assert charge(encoding, [np.nan])[0] == pytest.approx(never(len(values), 1))
    assert charge(lenient, [np.nan])[0] == 0


CONSTANTS = {
    "number": ([7.0] * 4, [7, 7.001, -1]),
    "zero": ([0.0] * 4, [0, 1e-300, 1]),
    "boolean": ([True] * 4, [1, 0]),
    "category": (["x"] * 4, [0, UNSEEN]),
    "date": (["2024-01-01"] * 4, [SECONDS, SECONDS + 1]),
    "with gaps": ([7.0, None, None, 7.0], [7, 8]),
    "empty": ([None] * 4, [np.nan, 0, 1]),
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_a_change_in_a_constant_column_costs_a_million_and_is_hidden_from_the_net(case):
    values, (same, *others) = CONSTANTS[case]
    contract, codes, few = of_column(values)
    assert contract.columns[0].constant
    np.testing.assert_allclose(charge(few, [same, *others]), [0, *[np.log(5)] * len(others)])  # of four rows
    contract, codes, encoding = of_column(values * 25)
    np.testing.assert_array_equal(charge(encoding, [same, *others]), [0, *[CHANGED] * len(others)])
    cells = encoding.transform(np.array([[same], *[[code] for code in others]], dtype=float))
    np.testing.assert_array_equal(cells.x[:, encoding.owner == 0][:, 0], 0)
    np.testing.assert_array_equal(charge(encoding, codes), 0)
    assert CHANGED == 1e6
