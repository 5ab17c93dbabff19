"""Detectors on tables of numbers, booleans, text, dates and gaps; in memory and through the shell."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from anomaly_ae import AutoencoderDetector, Conformal, Preprocessing, VAEDetector, load
from anomaly_ae.cli import app
from anomaly_ae.data.contract import EXACT
from anomaly_ae.errors import DataError
from anomaly_ae.ops.check import check

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
import mixed_table

BOTH = pytest.mark.parametrize("detector", [AutoencoderDetector, VAEDetector])
QUICK = {"max_epochs": 2, "calibration": "split", "random_state": 0}
TRAIN, NORMAL, PLANTED = mixed_table.parts(0)
NAMES = list(TRAIN)


@pytest.fixture(scope="module")
def fitted():
    """Each detector with its defaults, by class."""
    return {detector: detector(random_state=0).fit(TRAIN) for detector in (AutoencoderDetector, VAEDetector)}


@pytest.fixture(scope="module")
def quick():
    """Each detector, hardly trained, by class."""
    return {detector: detector(**QUICK).fit(TRAIN) for detector in (AutoencoderDetector, VAEDetector)}


def ordinary(det, n=20):
    """The least strange normal rows: any change makes them stranger."""
    return NORMAL.iloc[np.argsort(det.anomaly_score(NORMAL), kind="stable")[:n]]


# --- what a detector says --------------------------------------------------------------------------------------------


@BOTH
def test_signs_shapes_and_agreement(fitted, detector):
    det = fitted[detector]
    score = det.anomaly_score(NORMAL)
    assert score.shape == (len(NORMAL),)
    assert np.isfinite(score).all()
    np.testing.assert_array_equal(det.score_samples(NORMAL), -score)
    np.testing.assert_array_equal(det.predict(NORMAL) == -1, score > det.threshold_.value_)
    np.testing.assert_array_equal(det.predict(NORMAL) == -1, det.p_values(NORMAL) <= 0.05)
    contributions = det.explain(NORMAL)
    assert contributions.shape == NORMAL.shape
    assert (contributions >= 0).all()
    assert list(det.feature_names_in_) == NAMES
    assert np.isfinite(det.score(NORMAL))


def test_contributions_add_up_to_the_score(fitted):
    det = fitted[AutoencoderDetector]
    for rows in (NORMAL, *(planted for planted, _ in PLANTED.values())):
        np.testing.assert_allclose(det.explain(rows).sum(axis=1), det.anomaly_score(rows), rtol=1e-9)


@BOTH
def test_false_alarms_are_as_rare_as_promised(fitted, detector):
    alarms = (fitted[detector].predict(NORMAL) == -1).sum()
    assert alarms <= stats.binom.ppf(0.9999, len(NORMAL), 0.05)


@pytest.mark.parametrize("kind", ["unit_error", "sign_flip", "out_of_range_date"])
def test_the_column_at_fault_is_blamed(fitted, kind):
    rows, at_fault = PLANTED[kind]
    blamed = np.take(NAMES, fitted[AutoencoderDetector].explain(rows).argmax(axis=1))
    assert np.mean([column in columns for column, columns in zip(blamed, at_fault, strict=True)]) >= 0.9


@BOTH
@pytest.mark.parametrize("kind", ["unit_error", "sign_flip", "out_of_range_date"])
def test_planted_anomalies_are_stranger_than_the_rows_they_were_made_of(fitted, detector, kind):
    det, (rows, _) = fitted[detector], PLANTED[kind]
    assert np.mean(det.anomaly_score(rows) > det.anomaly_score(NORMAL.loc[rows.index])) > 0.95


CHANGES = {
    "another category": ("site", "elsewhere"),
    "another code": ("referrer", "Q999"),
    "missing date": ("visit", pd.NaT),
    "missing boolean": ("contrast", None),
    "missing constant": ("batch_no", np.nan),
    "constant changed": ("batch_no", 8),
    "empty column filled": ("empty", 1.0),
    "far number": ("mean_area", 1e6),
    "far date": ("visit", pd.Timestamp("1970-01-01")),
    "last date": ("visit", "9999-12-31"),
}
MISSING = {"missing boolean", "missing constant", "missing date"}
FATAL = {"constant changed", "empty column filled", "far number", "far date", "last date"}


@BOTH
@pytest.mark.parametrize("case", CHANGES)
def test_a_change_makes_a_row_stranger_and_its_column_is_blamed(fitted, detector, case):
    det, (name, value) = fitted[detector], CHANGES[case]
    rows = ordinary(det)
    rows = rows[rows.notna()[[name]].any(axis=1) | (name == "empty")]
    changed = rows.assign(**{name: pd.Series([value] * len(rows), rows.index, dtype=object)})
    before, after = det.assess(rows), det.assess(changed)
    # a gap also takes away what its cell cost
    assert (after.anomaly_score > before.anomaly_score).mean() >= (0.8 if case in MISSING else 1)
    assert (after.contributions > before.contributions)[:, NAMES.index(name)].all()
    blamed = (after.contributions.argmax(axis=1) == NAMES.index(name)).mean()
    assert blamed >= (1 if case in FATAL else 0 if case in MISSING else 0.8)  # of single gaps little is made
    assert case not in FATAL or after.is_anomaly.all()


@BOTH
def test_a_change_in_a_constant_column_outweighs_everything(quick, detector):
    det = quick[detector]
    for column, value in (("batch_no", 7.5), ("empty", 0)):
        verdict = det.assess(PLANTED["unit_error"][0].assign(**{column: value}))
        assert verdict.is_anomaly.all()
        assert (verdict.contributions.argmax(axis=1) == NAMES.index(column)).all()


REASONS = [
    ("mean_area", 1e6, r"mean_area 1000000, expected -?[\d.]+ to [\d.]+"),
    ("site", "elsewhere", r"site .+, expected (north|south|east|west|centre)"),
    ("visit", "1970-01-02", r"visit 1970-01-02, expected \d{4}-\d\d-\d\d( [\d:]{8})? to \d{4}-\d\d-\d\d( [\d:]{8})?"),
    ("batch_no", 8, "batch_no 8, expected 7"),
    ("batch_no", None, "batch_no missing, expected 7"),
    ("empty", 1, "empty 1, expected missing"),
    ("visit", None, r"visit missing, expected \d{4}-.* to \d{4}-.*"),
]


@pytest.mark.parametrize(("name", "value", "reason"), REASONS, ids=str)
def test_reasons_say_what_a_cell_holds_and_what_was_expected(fitted, name, value, reason):
    det = fitted[AutoencoderDetector]
    rows = ordinary(det, 5)
    told = det.reasons(rows.assign(**{name: pd.Series([value] * 5, rows.index, dtype=object)}), top=1)
    assert list(told["row"]) == list(range(5))
    assert (told["column"] == name).mean() > 0.5
    assert told["reason"][told["column"] == name].str.fullmatch(reason).all(), list(told["reason"])


def test_many_levels_that_share_a_cell_are_warned_of():
    rng = np.random.default_rng(0)

    def table(levels, n=1000):
        return pd.DataFrame({"line": [f"k{level}" for level in rng.integers(0, levels, n)], "x": rng.normal(size=n)})

    for levels, rows, most, warned in (
        (50, 1000, 20, True),
        (50, 1000, 50, False),
        (22, 1000, 20, False),
        (50, 200, 20, False),
    ):
        det = AutoencoderDetector(effort="fast", preprocessing=Preprocessing(max_levels=most), random_state=0)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            det.fit(table(levels, rows))
        told = [str(one.message) for one in said if "max_levels=50" in str(one.message)]
        assert len(told) == warned
        assert all("however: 'line' has 50, and those beyond the 20 most frequent hold" in one for one in told)


@pytest.mark.filterwarnings("ignore:AutoencoderDetector needs cells")
def test_a_fit_that_goes_on_meets_levels_that_it_has_never_seen():
    rng = np.random.default_rng(0)

    def table(levels):
        return pd.DataFrame({"line": [f"k{n}" for n in rng.integers(0, levels, 1000)], "x": rng.normal(size=1000)})

    det = AutoencoderDetector(effort="fast", warm_start=True, random_state=0).fit(table(50)).fit(table(60))
    assert np.isfinite(det.anomaly_score(table(60))).all()


def test_a_reason_tells_a_value_that_is_odd_by_itself_from_one_that_is_odd_beside_the_others():
    rng = np.random.default_rng(0)
    a = rng.gamma(1.0, 1.0, 1000)
    det = AutoencoderDetector(random_state=0).fit(pd.DataFrame({"a": a, "b": a + 0.05 * rng.gamma(1.0, 1.0, 1000)}))
    told = det.reasons(pd.DataFrame({"a": [40.0, 0.5], "b": [0.5, 1.5]}), top=2)
    column = det.contract_.columns[0]
    codes, expected, margins = (
        np.array([0.5, 0.9, 0.5, 2.0]),
        np.array([0.6, 0.6, 0.0, np.nan]),
        np.array([0.2, 0.2, 1.0, 1.0]),
    )
    usual = column.intervals(expected, margins)
    assert usual == ["0.40 to 0.80", "0.40 to 0.80", "0.0 to 1.0", "missing"]  # not from -1 on: none was below 0
    assert column.reasons(["0.5", "0.9", "0.5", "2"], usual, codes, expected, margins) == [
        "0.5, odd beside the others (expected 0.40 to 0.80)",
        "0.9, expected 0.40 to 0.80",
        "0.5, odd beside the others (expected 0.0 to 1.0)",
        "2, expected missing",
    ]
    assert told["reason"].iloc[0].startswith("a 40, expected")


def test_reasons_of_a_boolean_name_the_opposite():
    X = pd.DataFrame({"a": np.linspace(-1, 1, 300)}).assign(b=lambda X: X.a > 0, c=lambda X: 2 * X.a)
    det = AutoencoderDetector(calibration="split", random_state=0).fit(X)
    told = det.reasons(pd.DataFrame({"a": [0.8, -0.8], "b": [False, True], "c": [1.6, -1.6]}), top=1)
    assert list(told["reason"]) == ["b False, expected True", "b True, expected False"]


@BOTH
def test_scores_know_no_other_row(quick, detector):
    det, score = quick[detector], quick[detector].anomaly_score(NORMAL)
    order = np.random.default_rng(0).permutation(len(NORMAL))
    np.testing.assert_array_equal(det.anomaly_score(NORMAL), score)
    np.testing.assert_allclose(det.anomaly_score(NORMAL.iloc[order]), score[order], rtol=1e-9)
    one_by_one = [det.anomaly_score(NORMAL.iloc[[i]])[0] for i in range(20)]
    np.testing.assert_allclose(one_by_one, score[:20], rtol=1e-9)
    mixed = pd.concat([PLANTED["unit_error"][0], NORMAL.assign(site="elsewhere"), NORMAL])
    np.testing.assert_allclose(det.anomaly_score(mixed)[-len(NORMAL) :], score, rtol=1e-9)


# --- what a detector makes -------------------------------------------------------------------------------------------


@BOTH
def test_codes_reconstructions_and_samples_are_like_the_table(fitted, detector):
    det = fitted[detector]
    Z = det.transform(NORMAL)
    assert Z.shape == (len(NORMAL), len(det.get_feature_names_out()))
    whole = NORMAL.drop(columns="empty").notna().all(axis=1).to_numpy()  # codes do not say where gaps are
    rebuilt = det.reconstruct(NORMAL)[whole].reset_index(drop=True)
    remade = det.inverse_transform(Z[whole])
    times = remade.pop("visit") - rebuilt.pop("visit")
    assert times.abs().max() < pd.Timedelta("1ms")  # floats of other batches round otherwise
    pd.testing.assert_frame_equal(remade, rebuilt)
    pd.testing.assert_frame_equal(det.sample(50, random_state=1), det.sample(50, random_state=1))
    for made in (det.reconstruct(NORMAL), det.sample(200, random_state=0)):
        assert list(made) == NAMES
        for name in ("site", "scanner", "grade"):
            assert set(made[name]) <= set(TRAIN[name].dropna())
        assert set(made["referrer"]) <= {*TRAIN["referrer"], "(unseen)"}  # rare codes share a cell
        assert made["contrast"].dtype == bool
        assert pd.api.types.is_datetime64_dtype(made["visit"].dtype)
        assert (made["batch_no"] == 7).all()
        assert made["empty"].isna().all()
        assert made[mixed_table.NUMERIC].notna().to_numpy().all()


def test_a_detector_rebuilds_what_depends_on_other_columns(fitted):
    made = fitted[AutoencoderDetector].reconstruct(NORMAL)
    for name in ("site", "scanner", "grade", "contrast"):
        there = NORMAL[name].notna().to_numpy()
        assert (made[name].to_numpy() == NORMAL[name].to_numpy())[there].mean() > 0.8


def test_a_far_row_can_be_rebuilt(quick):
    far = NORMAL[:3].assign(visit=["0001-01-01", "1000-01-01", "9999-12-31"], mean_area=[-1e300, 1e9, 1e300])
    assert quick[AutoencoderDetector].reconstruct(far)["visit"].notna().all()


@BOTH
def test_a_saved_model_is_the_same_to_the_bit(quick, detector, tmp_path):
    det, again = quick[detector], load(quick[detector].save(tmp_path / "model"))
    rows = pd.concat([NORMAL, PLANTED["missing_burst"][0], NORMAL[:9].assign(site="elsewhere")])
    np.testing.assert_array_equal(again.anomaly_score(rows), det.anomaly_score(rows))
    np.testing.assert_array_equal(again.explain(rows), det.explain(rows))
    pd.testing.assert_frame_equal(again.reasons(rows[:9]), det.reasons(rows[:9]))
    pd.testing.assert_frame_equal(again.sample(9, random_state=0), det.sample(9, random_state=0))
    assert again.contract_ == det.contract_


# --- among scikit-learn's --------------------------------------------------------------------------------------------


@BOTH
def test_it_works_in_pipelines_and_searches(detector):
    frame = clone(detector(**QUICK)).set_output(transform="pandas").fit(TRAIN).transform(NORMAL)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.index) == list(NORMAL.index)
    scaled = ColumnTransformer([("z", StandardScaler(), mixed_table.NUMERIC)], remainder="passthrough")
    pipe = make_pipeline(scaled.set_output(transform="pandas"), detector(**QUICK)).fit(TRAIN)
    kinds = [column.kind for column in pipe[-1].contract_.columns]
    assert sorted(kinds) == sorted(["number"] * 12 + ["category"] * 4 + ["boolean", "date"])
    alone = detector(**QUICK).fit(TRAIN)
    np.testing.assert_allclose(pipe.score_samples(NORMAL), alone.score_samples(NORMAL), rtol=1e-3)
    search = GridSearchCV(detector(**QUICK), {"max_epochs": [1, 3]}, cv=2, error_score="raise").fit(TRAIN)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert set(search.predict(NORMAL)) <= {-1, 1}


@BOTH
def test_partial_fit_goes_on(detector):
    det = detector(random_state=0)
    for start in range(0, 341, 114):
        det.partial_fit(TRAIN[start : start + 114])
    assert det.n_rows_seen_ == len(TRAIN)
    assert np.isfinite(det.anomaly_score(NORMAL)).all()


OTHER_TABLES = {
    "reversed": (lambda X: X[X.columns[::-1]], "same order"),
    "fewer": (lambda X: X.drop(columns="site"), "missing:\n- site"),
    "more": (lambda X: X.assign(extra=1), "unseen at fit time:\n- extra"),
    "array": (lambda X: X.to_numpy(), "ndarray.*DataFrame"),
    "numbers": (lambda X: np.zeros(X.shape), "ndarray.*DataFrame"),
    "no rows": (lambda X: X[:0], "needs a row or more"),
    "no columns": (lambda X: X[[]], "columns to look at.* none"),
    "repeated names": (lambda X: X.set_axis(["site", *NAMES[1:]], axis=1), "site are repeated"),
    "nested": (lambda X: X.assign(site=[["north"]] * len(X)), r"'site' has \['north'\]"),
    "text in numbers": (lambda X: X.assign(mean_area="big"), "'mean_area' was numbers and has 'big'"),
    "numbers in dates": (lambda X: X.assign(visit=5.0), "'visit' was dates and has '5.0'"),
    "text in booleans": (lambda X: X.assign(contrast="maybe"), "'contrast' was true or false and has 'maybe'"),
    "infinity": (lambda X: X.assign(mean_area=np.inf), "'mean_area' has infinity"),
}


@pytest.mark.parametrize("case", OTHER_TABLES)
def test_another_table_is_refused(quick, case):
    change, said = OTHER_TABLES[case]
    for method in ("anomaly_score", "explain", "transform", "reconstruct"):
        with pytest.raises(ValueError, match=said):
            getattr(quick[AutoencoderDetector], method)(change(NORMAL))


UNFIT = {
    "repeated names": (lambda X: X.set_axis(["site", *NAMES[1:]], axis=1), "site are repeated"),
    "nested": (lambda X: X.assign(tags=[{"a": 1}] * len(X)), "'tags' has {'a': 1}"),
    "long integers": (lambda X: X.assign(key=EXACT + 1 + np.arange(len(X))), r"'key' has integers beyond 2\^53"),
    "huge": (lambda X: X.assign(mean_area=np.where(np.arange(len(X)) % 2, 1e300, 1)), r"'mean_area' reaches 1e\+300"),
    "two rows": (lambda X: X[:2], "3 rows or more.* 2"),
    "no values": (lambda X: X[["empty"]], "every cell is missing"),
    "no columns": (lambda X: X[[]], "columns to look at.* none"),
    "a mapping": (lambda X: dict(X), "an array or a DataFrame.* dict"),
    "records": (lambda X: X.to_records(), "an array or a DataFrame.* recarray"),
}


@BOTH
@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_be_learned_is_refused(detector, case):
    change, said = UNFIT[case]
    with pytest.raises(DataError, match=said):
        detector(**QUICK).fit(change(TRAIN))


# --- odd tables ------------------------------------------------------------------------------------------------------


@BOTH
def test_a_third_of_the_cells_may_be_missing(detector):
    rng = np.random.default_rng(0)
    fit, new = (X.mask(rng.random(X.shape) < 0.3) for X in (TRAIN.convert_dtypes(), NORMAL.convert_dtypes()))
    det = detector(**QUICK).fit(fit)
    assert np.isfinite(det.anomaly_score(new)).all()
    assert np.isfinite(det.explain(new)).all()
    nothing = new[:1].mask(np.ones((1, new.shape[1]), dtype=bool))
    assert np.isfinite(det.anomaly_score(nothing)).all()
    assert set(det.reasons(nothing)["value"]) == {"missing"}


@BOTH
def test_one_huge_value_spoils_nothing(detector):
    det = detector(**QUICK).fit(TRAIN.assign(mean_area=[1e300, *TRAIN["mean_area"][1:]]))
    assert np.isfinite(det.anomaly_score(NORMAL)).all()
    huge = detector(**QUICK).fit(TRAIN).assess(NORMAL.assign(mean_area=-1e300))
    assert np.isfinite(huge.contributions).all()
    assert huge.is_anomaly.all()
    assert (huge.contributions.argmax(axis=1) == NAMES.index("mean_area")).all()


def test_ten_thousand_categories_are_a_few_cells():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"code": [f"k{i}" for i in rng.permutation(10_000)] * 2, "x": rng.normal(size=20_000)})
    det = AutoencoderDetector(**QUICK).fit(X)
    assert len(det.contract_.columns[0].levels) == 10_000
    assert det.folds_[0].encoding.width == 23
    assert np.isfinite(det.anomaly_score(X.assign(code="another"))).all()


def test_a_thousand_columns_and_few_rows():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(20, 1000))).rename(columns=str).assign(word=["a", "b"] * 10)
    with pytest.warns(UserWarning, match="calibrate rows"):
        det = AutoencoderDetector(**QUICK | {"max_epochs": 1}).fit(X)
    assert np.isfinite(det.anomaly_score(X)).all()
    assert det.explain(X.assign(**{"17": 1e6})).argmax(axis=1).tolist() == [17] * 20


@BOTH
@pytest.mark.filterwarnings("ignore:Conformal")
def test_three_rows_are_enough(detector):
    det = detector(max_epochs=2, random_state=0).fit(TRAIN[:3])
    assert np.isfinite(det.anomaly_score(NORMAL)).all()
    assert list(det.reconstruct(NORMAL[:2])) == NAMES
    # a column that three rows show constant may only be rare: its change costs the logarithm of two or more rows
    assert (det.anomaly_score(NORMAL.assign(batch_no=8)) > det.anomaly_score(NORMAL) + np.log(2) - 1e-9).all()


# --- the shell -------------------------------------------------------------------------------------------------------

SITES = {"north": 'the "north"', "south": "south, by the sea", "east": "east", "west": "wést", "centre": "two\nlines"}


def dressed(X):
    """The table as people write it: text with quotes, `true` and `false`, ISO dates, empty cells."""
    shown = X.assign(site=X["site"].astype(object).map(SITES, na_action="ignore"))
    return shown.assign(
        contrast=[str(flag).lower() for flag in X["contrast"]], visit=X["visit"].dt.strftime("%Y-%m-%d")
    )


def typed(X):
    return dressed(X).assign(contrast=X["contrast"], visit=X["visit"])


def run(*args):
    return CliRunner().invoke(app, [*map(str, args), "--no-track"])


def done(*args):
    result = run(*args)
    assert result.exit_code == 0, result.stderr + repr(result.exception)
    return result


def refused(*args, words, code=2):
    result = run(*args)
    assert result.exit_code == code, result.stderr + repr(result.exception)
    assert result.stderr.startswith("error: ")
    assert all(word in result.stderr for word in words), result.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a mixed table, a quick configuration and a model of the two; nobody writes there."""
    place = tmp_path_factory.mktemp("mixed")
    dressed(TRAIN).to_csv(place / "train.csv", index=False)
    typed(TRAIN).to_parquet(place / "train.parquet", index=False)
    dressed(NORMAL).to_csv(place / "new.csv", index=False)
    typed(NORMAL).to_parquet(place / "new.parquet", index=False)
    (place / "quick.yaml").write_text("AutoencoderDetector: {max_epochs: 2, calibration: split, random_state: 0}\n")
    done("fit", place / "quick.yaml", "--data", place / "train.csv", "--model", place / "model")
    return place


def test_a_mixed_file_has_the_kinds_that_its_cells_have(place):
    model, columns = load(place / "model"), typed(TRAIN)
    in_memory = AutoencoderDetector(**QUICK).fit(columns)
    assert [c.kind for c in model.contract_.columns] == [c.kind for c in in_memory.contract_.columns]
    assert {*SITES.values()} == {*model.contract_.columns[NAMES.index("site")].levels}
    np.testing.assert_array_equal(model.anomaly_score(typed(NORMAL)), in_memory.anomaly_score(typed(NORMAL)))


def stamped(n, start):
    """A load that follows the time of day, taken every five hours."""
    rng, when = np.random.default_rng(n), pd.date_range(start, periods=n, freq="5h")
    load = 3 * np.sin(2 * np.pi * when.hour.to_numpy() / 24) + rng.normal(0, 0.3, n)
    return pd.DataFrame({"when": when, "load": load, "mode": rng.choice(list("ab"), n)})


@pytest.mark.parametrize("effort", ["fast", "default"])
def test_rows_of_next_year_are_no_alarms_where_a_date_says_when_rows_were_taken(effort, tmp_path):
    det = AutoencoderDetector(effort=effort, random_state=0).fit(stamped(1500, "2024-01-01"))
    new = stamped(1001, "2025-06-01")
    assert (det.predict(new) == -1).mean() < 0.1
    odd = new.assign(load=-new["load"])[new["load"].abs() > 1.5]  # right by itself, at the wrong time of day
    assert (det.predict(odd) == -1).mean() > 0.95
    loaded = load(det.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.anomaly_score(new), det.anomaly_score(new))
    new.to_csv(tmp_path / "new.csv", index=False)
    assert "when" not in {found.column for found in check(tmp_path / "model", tmp_path / "new.csv").findings}
    shuffled = stamped(1500, "2024-01-01").sample(frac=1, random_state=0)
    assert (AutoencoderDetector(effort=effort, random_state=0).fit(shuffled).predict(new) == -1).mean() > 0.9


@pytest.mark.parametrize("effort", ["fast", "default"])
def test_what_was_never_seen_is_an_alarm_though_there_are_many_columns(effort):
    rng = np.random.default_rng(0)

    def table(n):
        numbers = pd.DataFrame(rng.normal(size=(n, 12))).add_prefix("x")
        return numbers.assign(kind=rng.choice(list("abc"), n))

    det = AutoencoderDetector(effort=effort, random_state=0).fit(table(3000))
    new = table(300)
    assert (det.predict(new) == -1).mean() < 0.1
    for changed, column in ((new.assign(kind="z"), 12), (new.assign(x4=np.nan), 4)):
        assert (det.predict(changed) == -1).mean() > 0.9
        assert (det.explain(changed).argmax(1) == column).mean() > 0.9


def test_csv_and_parquet_give_the_same_scores(place, tmp_path):
    done("fit", place / "quick.yaml", "--data", place / "train.parquet", "--model", tmp_path / "model")
    outs = []
    for model in (place / "model", tmp_path / "model"):
        for new in ("new.csv", "new.parquet"):
            done("score", model, place / new, "--output", tmp_path / "out.csv", "--overwrite", "--keep", "site,visit")
            outs.append(pd.read_csv(tmp_path / "out.csv"))
    blamed = [f"top_{k}{suffix}" for k in (1, 2, 3) for suffix in ("", "_share")]
    assert list(outs[0])[:12] == ["row", "site", "visit", "anomaly_score", "p_value", "is_anomaly", *blamed]
    assert outs[0]["site"].tolist()[:9] == pd.Series(dressed(NORMAL)["site"].tolist()[:9]).tolist()
    np.testing.assert_array_equal(outs[0]["anomaly_score"], load(place / "model").anomaly_score(typed(NORMAL)))
    said = [name for name in outs[0] if name not in ("site", "visit")]
    for out in outs[1:]:
        pd.testing.assert_frame_equal(out[said], outs[0][said])


def test_booleans_may_have_empty_cells(place, tmp_path):
    X = dressed(TRAIN).assign(contrast=lambda X: X["contrast"].mask(np.arange(len(X)) % 5 == 0))
    X.to_csv(tmp_path / "gaps.csv", index=False)
    done("fit", place / "quick.yaml", "--data", tmp_path / "gaps.csv", "--model", tmp_path / "model")
    column = load(tmp_path / "model").contract_.columns[NAMES.index("contrast")]
    assert column.kind == "boolean"
    assert column.missing == pytest.approx(0.2, abs=0.01)
    done("score", tmp_path / "model", tmp_path / "gaps.csv", "--output", tmp_path / "out.csv")
    assert np.isfinite(pd.read_csv(tmp_path / "out.csv")["anomaly_score"]).all()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["site", "visit", "contrast", "mean_area", "batch_no"])
def test_a_column_may_be_empty_in_the_scored_file(place, tmp_path, suffix, name):
    new = typed(NORMAL).assign(**{name: None})
    new.to_csv(tmp_path / "new.csv", index=False) if suffix == "csv" else new.to_parquet(tmp_path / "new.parquet")
    done("score", place / "model", tmp_path / f"new.{suffix}", "--output", tmp_path / "out.csv")
    expected = load(place / "model").anomaly_score(new)
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "out.csv")["anomaly_score"], expected)


def test_columns_called_like_the_output_s_stay_apart(place, tmp_path):
    X = dressed(TRAIN).assign(row=np.random.default_rng(0).normal(size=len(TRAIN)), p_value=-3.0)
    X.to_csv(tmp_path / "new.csv", index=False)
    done("fit", place / "quick.yaml", "--data", tmp_path / "new.csv", "--model", tmp_path / "model")
    score = ["score", tmp_path / "model", tmp_path / "new.csv", "--output", tmp_path / "out.csv"]
    for name in ("p_value", "row"):
        refused(*score, "--keep", name, words=["--keep", f"'{name}'"])
    assert not (tmp_path / "out.csv").exists()
    done(*score, "--keep", "site")
    out = pd.read_csv(tmp_path / "out.csv")
    assert len(set(out)) == len(out.columns)
    assert list(out["row"]) == list(range(1, len(X) + 1))
    assert out["p_value"].between(0, 1).all()


CELLS = [
    ("mean_area", "big", 3),
    ("contrast", "maybe", 300),
    ("contrast", "2", 3),
    ("visit", "soon", 341),
    ("visit", "3", 3),
]


@pytest.mark.parametrize(("name", "cell", "row"), CELLS)
def test_a_cell_of_another_type_is_refused_with_its_place(place, tmp_path, name, cell, row):
    cells = dressed(TRAIN)[name].astype(str).tolist()
    cells[row - 1] = cell
    dressed(TRAIN).assign(**{name: cells}).to_csv(tmp_path / "bad.csv", index=False)
    args = "score", place / "model", tmp_path / "bad.csv", "--output", tmp_path / "out.csv", "--on-bad-row", "fail"
    refused(*args, words=["bad.csv", f"row {row}", f"'{name}'", f"'{cell}'"], code=3)
    assert not (tmp_path / "out.csv").exists()


WRONG_PARQUET = [
    ("mean_area", "text"),
    ("contrast", "text"),
    ("visit", "text"),
    ("visit", 5.0),
    ("mean_area", pd.Timestamp("2024-01-01")),
    ("contrast", pd.Timestamp("2024-01-01")),
]


@pytest.mark.parametrize(("name", "value"), WRONG_PARQUET, ids=str)
def test_a_parquet_column_of_another_type_is_refused(place, tmp_path, name, value):
    typed(NORMAL).assign(**{name: value}).to_parquet(tmp_path / "bad.parquet")
    args = "score", place / "model", tmp_path / "bad.parquet", "--output", tmp_path / "out.csv", "--on-bad-row", "fail"
    refused(*args, words=["bad.parquet", f"'{name}'", "row 1"], code=3)


BAD_FILES = {
    "repeated names": (lambda X: X.rename(columns={"grade": "site"}), ["'site'"]),
    "long integers": (lambda X: X.assign(key=EXACT + 1 + np.arange(len(X))), ["'key'", "2^53"]),
    "huge": (lambda X: X.assign(mean_area=np.where(np.arange(len(X)) % 2, 1e300, 1)), ["'mean_area'", "1e+300"]),
    "two rows": (lambda X: X[:2], ["3 rows"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_learned_is_refused(place, tmp_path, case):
    change, words = BAD_FILES[case]
    change(dressed(TRAIN)).to_csv(tmp_path / "bad.csv", index=False)
    refused("fit", place / "quick.yaml", "--data", tmp_path / "bad.csv", "--model", tmp_path / "model", words=words)
    assert not (tmp_path / "model").exists()


def test_long_integers_among_numbers_only_are_refused(place, tmp_path):
    X = pd.DataFrame({"x": np.random.default_rng(0).normal(size=50), "key": EXACT + 1 + 2 * np.arange(50)})
    args = "fit", place / "quick.yaml", "--data", tmp_path / "bad.csv", "--model", tmp_path / "model"
    X.to_csv(tmp_path / "bad.csv", index=False)
    refused(*args, words=["'key'", "2^53"])


SUSPICIOUS = {
    "labels": ("labels: label", {"label": ["ok", "bad"] * 170 + ["ok"]}),
    "flags": ("labels: is_anomaly", {"is_anomaly": [0, 1] * 170 + [0]}),
    "counter": ("identifiers: key", {"key": range(341)}),
    "names": ("identifiers: key", {"key": [f"u{i}" for i in range(341)]}),
}


@pytest.mark.parametrize("numbers_only", [False, True])
@pytest.mark.parametrize("case", SUSPICIOUS)
def test_labels_and_identifiers_are_warned_of(place, tmp_path, case, numbers_only):
    said, columns = SUSPICIOUS[case]
    X = dressed(TRAIN)[mixed_table.NUMERIC if numbers_only else NAMES]
    X.assign(**columns).to_csv(tmp_path / "train.csv", index=False)
    args = "fit", place / "quick.yaml", "--data", tmp_path / "train.csv", "--model", tmp_path / "model"
    assert f"warning: Columns that look like {said}." in done(*args).stderr


def test_a_sound_table_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        det = AutoencoderDetector(**QUICK).fit(TRAIN)
    assert det.n_rows_seen_ == len(TRAIN)


def test_of_alarms_the_column_at_fault_is_blamed():
    det = AutoencoderDetector(random_state=0).fit(TRAIN)
    right = []
    for kind in mixed_table.ONE_COLUMN:
        rows, at_fault = PLANTED[kind]
        verdict = det.assess(rows)
        blamed = verdict.contributions.argmax(axis=1)
        right += [NAMES[blamed[i]] in at_fault[i] for i in np.flatnonzero(verdict.is_anomaly)]
    assert len(right) > 500
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_what_was_never_there_is_the_strangest_beside_numbers_without_pattern(seed):
    rng = np.random.default_rng(seed)

    def made(n):
        numbers = pd.DataFrame(rng.normal(size=(n, 3)), columns=["u", "v", "w"])
        return numbers.assign(site=rng.choice(["north", "south"], n))

    det = AutoencoderDetector(threshold=Conformal(0.01), random_state=0).fit(made(1500))
    new = made(200)
    assert (det.predict(new) == -1).mean() < 0.04
    for odd in (new.assign(site="mars"), new.assign(u=np.nan)):
        assert (det.p_values(odd) == 1 / (len(det.calibration_scores_) + 1)).all()
    assert (det.explain(new.assign(site="mars")).argmax(axis=1) == 3).all()
    np.testing.assert_allclose(det.explain(odd).sum(axis=1), det.anomaly_score(odd))
