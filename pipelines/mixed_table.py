"""A table of numbers, categories, codes, booleans, dates and gaps, and eight kinds of anomalies planted in it.

`mixed_table` dresses scikit-learn's breast-cancer table (all 569 rows count as normal here) in the columns that tables
have in practice; `plant` spoils one cell, or one burst of cells, of each row, and says which; `encoding` is the
preprocessing that a detector of plain numbers needs before it can read such a table. Beside it two ways to tables of
numbers: `with_gaps` takes cells away, `factors` draws correlated rows.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

NUMERIC = [name.replace(" ", "_") for name in load_breast_cancer().feature_names if name.startswith("mean ")]
SIZES = ["mean_radius", "mean_perimeter", "mean_area"]  # each is nearly a function of the others
GRADES = ["low", "medium", "high"]
SCANNERS = {
    site: [f"scanner_{2 * i}", f"scanner_{2 * i + 1}"]
    for i, site in enumerate(["north", "south", "east", "west", "centre"])
}
CODES = 120
GAPS = 0.03

Row = dict[Any, Any]
Seen = dict[str, np.ndarray]  # the values of each number among the train rows
Plant = Callable[[Row, Seen, np.random.Generator], Row]  # from a row to the new values of some of its cells


def mixed_table(seed: int) -> pd.DataFrame:
    """569 normal rows of 18 columns; what depends on what: scanner on site, contrast on scanner, grade on a number."""
    rng = np.random.default_rng(seed)
    source = load_breast_cancer(as_frame=True).data
    table = source[[name for name in source if name.startswith("mean ")]].set_axis(NUMERIC, axis=1)
    n = len(table)
    site = rng.choice(list(SCANNERS), n, p=[0.3, 0.25, 0.2, 0.15, 0.1])
    scanner = np.array([rng.choice(SCANNERS[name]) for name in site])
    scanners = [name for pair in SCANNERS.values() for name in pair]
    contrast_rate = np.where(np.isin(scanner, [pair[0] for pair in SCANNERS.values()]), 0.95, 0.1)
    zipf = 1 / np.arange(1, CODES + 1)
    table = table.assign(
        site=pd.Categorical(site, list(SCANNERS)),
        scanner=pd.Categorical(scanner, scanners),
        grade=pd.qcut(table["mean_concave_points"], 3, labels=GRADES),
        contrast=rng.random(n) < contrast_rate,
        visit=pd.Timestamp("2021-01-01") + pd.to_timedelta(rng.integers(0, 3 * 365, n), unit="D"),
        referrer=[f"R{code:03d}" for code in rng.choice(CODES, n, p=zipf / zipf.sum())],
        batch_no=7,
        empty=np.nan,
    )
    for column in [*NUMERIC, "site", "scanner", "grade"]:
        table[column] = table[column].mask(rng.random(n) < GAPS)
    return table


def _present(row: Row, columns: list[str] = NUMERIC) -> list[str]:
    return [column for column in columns if pd.notna(row[column])]


def _one(columns: list[str], rng: np.random.Generator, value: Callable[[str], Any]) -> Row:
    """A new value in one of these columns, at random; nothing where there is none."""
    if not columns:
        return {}
    column = str(rng.choice(columns))
    return {column: value(column)}


def _swapped_category(row: Row, seen: Seen, rng: np.random.Generator) -> Row:
    others = [grade for grade in GRADES if grade != row["grade"]]
    return _one(_present(row, ["grade"]), rng, lambda _: str(rng.choice(others)))


def _impossible_combination(row: Row, seen: Seen, rng: np.random.Generator) -> Row:
    elsewhere = [name for site, pair in SCANNERS.items() if site != row["site"] for name in pair]
    known = pd.notna(row["site"]) and pd.notna(row["scanner"])
    return _one(["scanner"] if known else [], rng, lambda _: str(rng.choice(elsewhere)))


def _unit_error(row: Row, seen: Seen, rng: np.random.Generator) -> Row:
    return _one([c for c in _present(row) if row[c] != 0], rng, lambda c: row[c] * 1000)


def _sign_flip(row: Row, seen: Seen, rng: np.random.Generator) -> Row:
    return _one([c for c in _present(row) if row[c] > 0], rng, lambda c: -row[c])


def _frozen_value(row: Row, seen: Seen, rng: np.random.Generator) -> Row:
    def far(column: str) -> bool:
        low, high = np.quantile(seen[column], [0.2, 0.8])
        return bool(row[column] < low or row[column] > high)

    return _one([c for c in _present(row) if far(c)], rng, lambda c: float(np.median(seen[c])))


def _missing_burst(row: Row, seen: Seen, rng: np.random.Generator) -> Row:
    present = _present(row)
    gone = rng.choice(present, min(len(NUMERIC) // 2, len(present)), replace=False)
    return {str(column): np.nan for column in gone}


def _out_of_range_date(row: Row, seen: Seen, rng: np.random.Generator) -> Row:
    day = pd.Timedelta(days=int(rng.integers(0, 365)))
    return {"visit": pd.Timestamp(f"{rng.choice([1970, 2099])}-01-01") + day}


def _contextual(row: Row, seen: Seen, rng: np.random.Generator) -> Row:
    def opposite(column: str) -> float:
        values = seen[column]
        low, median, high = np.quantile(values, [0.2, 0.5, 0.8])
        return float(rng.choice(values[values >= high] if row[column] < median else values[values <= low]))

    return _one(_present(row, SIZES), rng, opposite)


KINDS: dict[str, Plant] = {
    "swapped_category": _swapped_category,  # another grade than the number it is made from says
    "impossible_combination": _impossible_combination,  # a scanner that stands at another site
    "unit_error": _unit_error,  # a number times 1000
    "sign_flip": _sign_flip,  # a positive number negated
    "frozen_value": _frozen_value,  # a number stuck at the train median, where it was far from it
    "missing_burst": _missing_burst,  # half of the numbers gone
    "out_of_range_date": _out_of_range_date,  # a visit in 1970 or 2099
    "contextual": _contextual,  # a size from the other end of its range: normal alone, not beside the other sizes
}
ONE_COLUMN = [kind for kind in KINDS if kind != "missing_burst"]


def plant(
    rows: pd.DataFrame, kind: str, rng: np.random.Generator, train: pd.DataFrame
) -> tuple[pd.DataFrame, list[tuple[str, ...]]]:
    """Copies of `rows` with an anomaly of `kind` in each, and the columns that were changed, row by row.

    Rows that cannot carry the kind (the cell that it needs is a gap) are left out; the index says which remain.
    """
    seen = {column: train[column].dropna().to_numpy() for column in NUMERIC}
    changes = [KINDS[kind](row, seen, rng) for row in rows.to_dict("records")]
    able = [bool(change) for change in changes]
    planted, changes = rows[able].copy(), [change for change in changes if change]
    for index, change in zip(planted.index, changes, strict=True):
        for column, value in change.items():
            planted.loc[index, column] = value
    return planted, [tuple(change) for change in changes]


def encoding(train: pd.DataFrame) -> ColumnTransformer:
    """The usual encoding of a mixed table as numbers, unfitted; constant and empty columns are dropped."""
    kept = train[[column for column in train if len(train[column].dropna().unique()) > 1]]
    flags = list(kept.select_dtypes("bool"))
    dates = list(kept.select_dtypes("datetime"))
    numbers = list(kept.select_dtypes("number"))
    names = [column for column in kept if column not in {*flags, *dates, *numbers}]
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()), numbers),
            ("names", OneHotEncoder(handle_unknown="ignore", min_frequency=2, sparse_output=False), names),
            ("flags", FunctionTransformer(_as_float), flags),
            ("dates", make_pipeline(FunctionTransformer(_seconds), StandardScaler()), dates),
        ]
    )


def parts(seed: int) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, tuple[pd.DataFrame, list[tuple[str, ...]]]]]:
    """A random 60 % of the rows to train, the others as they are, and the others with each kind planted in them."""
    rng, table = np.random.default_rng(seed), mixed_table(seed)
    order = rng.permutation(len(table))
    cut = round(0.6 * len(table))
    train, normal = table.iloc[order[:cut]], table.iloc[order[cut:]]
    return train, normal, {kind: plant(normal, kind, rng, train) for kind in KINDS}


def trial(seed: int, detector: Any) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """Fit a detector, then for each kind of anomaly: sizes and share of right columns, truth, and scores.

    A detector with an attribute `preparation` gets the encoding there. The column at fault is asked of `explain`, where
    there is one, for kinds that spoil one column.
    """
    train, normal, planted = parts(seed)
    if hasattr(detector, "preparation"):
        detector.preparation = encoding(train)
    detector.fit(train)
    usual = detector.anomaly_score(normal)
    for kind, (rows, at_fault) in planted.items():
        line = {"kind": kind, "rows_train": len(train), "rows_normal": len(normal), "rows_planted": len(rows)}
        if kind in ONE_COLUMN and hasattr(detector, "explain"):
            blamed = train.columns[np.argmax(detector.explain(rows), axis=1)]
            right = [column in columns for column, columns in zip(blamed, at_fault, strict=True)]
            line["right_column"] = round(float(np.mean(right)), 6)
        score = np.concatenate([usual, detector.anomaly_score(rows)])
        yield line, np.arange(len(score)) >= len(usual), score


def with_gaps(
    train: np.ndarray, test: np.ndarray, share: float, seed: int, filled: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both parts without a share of their cells, the same cells for the same seed; or with the train means there."""
    rng = np.random.default_rng(seed)
    train, test = (np.where(rng.random(part.shape) < share, np.nan, part) for part in (train, test))
    if not filled:
        return train, test
    imputer = SimpleImputer(keep_empty_features=True).fit(train)
    return imputer.transform(train), imputer.transform(test)


def factors(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Correlated Gaussian rows: a quarter as many factors as columns, and noise."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(max(1, columns // 4), columns))
    return rng.normal(size=(rows, len(loadings))) @ loadings + 0.3 * rng.normal(size=(rows, columns))


def _as_float(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype(float)


def _seconds(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.apply(lambda column: (column - pd.Timestamp(0)).dt.total_seconds())
