"""The benchmark: protocols, going on where it stopped, summaries, planted anomalies."""

import queue
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
import benchmark
import mixed_table
import speeds

QUICK = "AutoencoderDetector: {max_epochs: 1, steps_per_epoch: 1, calibration: split}\n"


def run(*args, code=0):
    result = CliRunner().invoke(benchmark.app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture
def data(tmp_path):
    """A folder of two labelled tables, and nothing else; anomalies lie far off."""
    folder = tmp_path / "data"
    folder.mkdir()
    for seed, name in enumerate(["one", "two"]):
        rng = np.random.default_rng(seed)
        y = np.arange(120) % 12 == 0
        np.savez(folder / f"{name}.npz", X=rng.normal(size=(120, 3)) + 6 * y[:, None], y=y.astype(int))
    return folder


@pytest.fixture
def quick(tmp_path):
    path = tmp_path / "quick.yaml"
    path.write_text(QUICK)
    return path


def keys(text):
    return sorted(tuple(line.split(",")[:4]) for line in text.splitlines()[1:])


# --- protocols -------------------------------------------------------------------------------------------------------


def labels(n):
    return (np.random.default_rng(n).random(n) < 0.1).astype(int)


@pytest.mark.parametrize("protocol", ["clean", "dte"])
@pytest.mark.parametrize("n", [120, 3000, 60_000])
def test_train_rows_are_normal_and_half_of_the_normal_ones(protocol, n):
    y = labels(n)
    train, test = benchmark.split(y, protocol, 0)
    assert not y[train].any()
    assert y[test].any()
    assert (y[test] == 0).sum() - len(train) in (0, 1)


@pytest.mark.parametrize(("n", "used"), [(120, 120), (3000, 3000), (30_000, 10_000)])
def test_clean_shuffles_and_shares_no_row(n, used):
    y = labels(n)
    parts = [np.concatenate(benchmark.split(y, "clean", seed)) for seed in (0, 0, 1)]
    assert [len(np.unique(part)) for part in parts] == [used] * 3 == [len(part) for part in parts]
    assert np.array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[0], parts[2])


@pytest.mark.parametrize(("anomalies", "among"), [(40, 20), (4000, 111)])
def test_a_tenth_of_train_rows_are_anomalies_or_half_of_those_there_are(anomalies, among):
    y = np.repeat([0, 1], [2000, anomalies])
    (train, test), (normal, others) = (benchmark.split(y, protocol, 0) for protocol in ("contaminated", "clean"))
    assert np.array_equal(train[:1000], normal)
    assert y[train].sum() == among
    assert sorted([*train, *test]) == sorted([*normal, *others])


def test_dte_takes_the_first_half_in_file_order():
    y = labels(3000)
    normal = np.flatnonzero(y == 0)
    train, test = benchmark.split(y, "dte", 7)
    assert np.array_equal(train, normal[: len(normal) // 2])
    assert sorted(test) == sorted({*range(3000)} - {*train})


def test_dte_draws_small_tables_up_and_large_ones_down():
    small, large = (np.concatenate(benchmark.split(labels(n), "dte", 0)) for n in (120, 60_000))
    assert (len(small), len(large)) == (1000, 50_000)
    assert len(np.unique(small)) <= 120
    assert len(np.unique(large)) == 50_000


# --- measuring -------------------------------------------------------------------------------------------------------


def test_goes_on_where_it_stopped(data, tmp_path):
    output = tmp_path / "results.csv"
    args = ["tabular", "--data", data, "--output", output, "--seeds", 2, "--methods", "1-NN,5-NN"]
    run(*args, "--tables", "one")
    first = output.read_text()
    assert len(keys(first)) == 4
    run(*args, "--tables", "one")
    assert output.read_text() == first
    run(*args)
    whole = output.read_text()
    assert len(keys(whole)) == len(set(keys(whole))) == 8
    assert whole.startswith(first)
    lines = whole.splitlines(keepends=True)
    failed = f"clean,one,1,1-NN{9 * ','}ValueError: no\n"
    for spoiled in (
        [*lines[:3], *lines[4:]],
        [*lines[:-1], lines[-1][:20]],
        [*lines[:3], failed, *lines[4:]],
        lines[:1],
    ):
        output.write_text("".join(spoiled))
        run(*args)
        assert keys(output.read_text()) == keys(whole)
        assert not pd.read_csv(output)["auroc"].isna().any()


def test_measures_ours_peers_and_configurations(data, tmp_path, quick):
    output = tmp_path / "results.csv"
    args = ["--output", output, "--seeds", 1, "--methods", "AutoencoderDetector,1-NN,5-NN", "--config", quick]
    result = CliRunner(env={"ANOMALY_AE_BENCH": str(data)}).invoke(
        benchmark.app, ["tabular", *map(str, args), "--tables", "one", "--protocol", "dte"]
    )
    assert result.exit_code == 0, result.output
    lines = pd.read_csv(output).set_index("method")
    assert list(lines.index) == ["AutoencoderDetector", "1-NN", "5-NN", "quick"]
    assert lines["error"].isna().all()
    assert (lines["auroc"] > 0.9).all()
    assert (lines["rows_train"] + lines["rows_test"] == 1000).all()
    assert (lines[["fit_seconds", "score_seconds"]] > 0).all().all()
    assert lines["alarms_5"].isna().tolist() == [False, True, True, False]  # peers have no p-values
    assert (lines["alarms_1"].dropna() <= lines["alarms_5"].dropna()).all()
    assert (lines["alarms_5"].dropna() < 0.1).all()


def test_a_failure_is_a_line(data, tmp_path):
    np.savez(data / "three.npz", X=np.zeros((8, 2)), y=np.ones(8))
    output = tmp_path / "results.csv"
    run("tabular", "--data", data, "--output", output, "--seeds", 1, "--methods", "1-NN")
    lines = pd.read_csv(output).set_index("table")
    assert lines["error"].notna().to_dict() == {"one": False, "three": True, "two": False}


@pytest.mark.slow
def test_pyod_peers_run(data, tmp_path):
    pytest.importorskip("pyod")
    pytest.importorskip("tqdm")
    output = tmp_path / "results.csv"
    names = "PCA,PyOD-AutoEncoder,PyOD-VAE"
    run("tabular", "--data", data, "--output", output, "--seeds", 1, "--methods", names, "--tables", "one")
    lines = pd.read_csv(output)
    assert lines["error"].isna().all()
    assert (lines["auroc"] > 0.9).all()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--methods", "6-NN"], "6-NN"),
        (["--tables", "four"], "four"),
        (["--seeds", "0"], "seeds"),
        (["--config", "odd.yaml"], "Strange"),
    ],
)
def test_refuses_what_it_does_not_know(data, tmp_path, args, said):
    output = tmp_path / "results.csv"
    (tmp_path / "odd.yaml").write_text("Strange: {}")
    given = ["tabular", "--data", data, "--output", output, "--methods", "1-NN"]
    given += [tmp_path / arg if arg.endswith(".yaml") else arg for arg in args]
    assert said in run(*given, code=2).stderr
    assert not output.exists()


def test_refuses_a_file_of_other_columns(data, tmp_path):
    output = tmp_path / "results.csv"
    output.write_text("a,b\n1,2\n")
    assert "other columns" in run("tabular", "--data", data, "--output", output, "--methods", "1-NN", code=2).stderr
    assert output.read_text() == "a,b\n1,2\n"


def test_peers_read_standardised_rows():
    X = np.random.default_rng(0).normal(size=(100, 3))
    scaled = X * [1, 1000, 0.01] + 5
    for name in ("1-NN", "5-NN", "IsolationForest"):
        scores = [benchmark.METHODS[name](0).fit(rows[:60]).anomaly_score(rows[60:]) for rows in (X, scaled)]
        np.testing.assert_allclose(*scores, rtol=1e-6)
    one = benchmark.METHODS["1-NN"](0).fit(X)
    assert one.anomaly_score(X).max() == 0 < one.anomaly_score(X + 10).min()


# --- summary ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def results():
    """Two seeds of four tables: mine wins on a and b, ties on c, loses on d; on e the peer failed."""
    mine, peer = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.5, "e": 1.0}, {"a": 0.7, "b": 0.6, "c": 0.7005, "d": 0.7}
    lines = []
    for method, values in {"mine": mine, "1-NN": peer}.items():
        for table in mine:
            for seed, shift in enumerate([-0.05, 0.05]):
                auroc = values.get(table, np.nan) + shift
                lines.append({"protocol": "clean", "table": table, "seed": seed, "method": method, "auroc": auroc})
    lines = pd.DataFrame(lines)
    seconds = lines["table"].map({"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0, "e": 99.0})
    return lines.assign(ap=lines["auroc"] / 2, fit_seconds=seconds, score_seconds=seconds / 10)


def test_means_are_over_tables_that_all_finished(results):
    complete = benchmark.complete(results)
    assert set(complete["table"]) == {"a", "b", "c", "d"}
    means = benchmark.means(complete).set_index("method")
    assert list(means.index) == ["mine", "1-NN"]
    np.testing.assert_allclose(means["auroc"], [0.725, 0.675125])
    np.testing.assert_allclose(means["ap"], [0.3625, 0.3375625])
    np.testing.assert_allclose(means["fit_seconds"], 3.0)
    np.testing.assert_allclose(means["score_seconds"], 0.3)


def test_duels_count_tables_and_draw_them(results):
    (duel,) = benchmark.duels(benchmark.complete(results), ["mine"], ["1-NN"]).to_dict("records")
    assert duel["auroc won/tied/lost"] == duel["ap won/tied/lost"] == "2/1/1"
    assert duel["auroc difference"] == pytest.approx(0.049875)
    low, high = (float(bound) for bound in duel["auroc 95 %"].strip("[]").split(","))
    assert -0.2 <= low < 0.049875 < high <= 0.2
    even = results.assign(auroc=results["method"].map({"mine": 0.75, "1-NN": 0.5}))
    (duel,) = benchmark.duels(even, ["mine"], ["1-NN"]).to_dict("records")
    assert duel["auroc 95 %"] == "[+0.2500, +0.2500]"


def test_summary_prints_markdown(results, tmp_path):
    path = tmp_path / "results.csv"
    pd.concat([results, results.assign(protocol="dte")]).to_csv(path, index=False)
    told = run("summary", path, "--against", "1-NN", "--markdown").stdout
    assert told.count("4 of 5 tables, 2 of 2 seeds finished by all 2 methods") == 2
    assert told.count("| mine | 0.7250 | 0.3625 | 3.0000 | 0.3000 |") == 2
    assert told.count("| mine | 1-NN | 2/1/1 | 0.0499 |") == 2
    assert "|" not in run("summary", path).stdout
    assert "5-NN" in run("summary", path, "--against", "5-NN", code=2).stderr


# --- mixed columns ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    return mixed_table.mixed_table(0)


def test_mixed_table_is_what_it_says(table):
    pd.testing.assert_frame_equal(table, mixed_table.mixed_table(0))
    assert not table.equals(mixed_table.mixed_table(1))
    assert len(table) == 569
    known = table.dropna(subset=["site", "scanner"])
    own = [scanner in mixed_table.SCANNERS[site] for site, scanner in zip(known["site"], known["scanner"], strict=True)]
    assert all(own)
    assert table["scanner"].nunique() == 10
    assert table["visit"].between("2021-01-01", "2023-12-31").all()
    assert table["empty"].isna().all()
    assert set(table["batch_no"]) == {7}
    assert 60 < table["referrer"].nunique() <= 120
    assert table[[*mixed_table.NUMERIC, "site", "scanner", "grade"]].isna().mean().between(0.01, 0.06).all()
    ends = table.groupby("grade", observed=True)["mean_concave_points"].agg(["min", "max"])
    assert ends.to_numpy().ravel().tolist() == sorted(ends.to_numpy().ravel())


@pytest.mark.parametrize("kind", mixed_table.KINDS)
def test_a_plant_changes_the_columns_it_names(table, kind):
    train, rows = table[:340], table[340:]
    planted, at_fault = mixed_table.plant(rows, kind, np.random.default_rng(0), train)
    again, _ = mixed_table.plant(rows, kind, np.random.default_rng(0), train)
    pd.testing.assert_frame_equal(planted, again)
    assert planted.dtypes.equals(rows.dtypes)
    assert len(planted) == len(at_fault) > 0.85 * len(rows)
    assert (kind in mixed_table.ONE_COLUMN) == (max(map(len, at_fault)) == 1)
    before = rows.loc[planted.index].astype(object)
    same = (planted.astype(object) == before) | (planted.isna() & before.isna())
    changed = [tuple(same.columns[~row]) for row in same.to_numpy()]
    assert [set(columns) for columns in changed] == [set(columns) for columns in at_fault]
    pd.testing.assert_frame_equal(rows, table[340:])


def test_plants_are_the_anomalies_of_their_names(table):
    train, rows, rng = table[:340], table[340:], np.random.default_rng(0)
    cells = {}
    for kind in mixed_table.ONE_COLUMN:
        planted, at_fault = mixed_table.plant(rows, kind, rng, train)
        places = [(index, column) for index, (column,) in zip(planted.index, at_fault, strict=True)]
        cells[kind] = [(rows.loc[place], planted.loc[place], place) for place in places]
    assert all(after == pytest.approx(1000 * before) for before, after, _ in cells["unit_error"])
    assert all(after == -before < 0 for before, after, _ in cells["sign_flip"])
    assert all(after == train[column].median() for _, after, (_, column) in cells["frozen_value"])
    assert {after.year for _, after, _ in cells["out_of_range_date"]} == {1970, 2099}
    assert all(
        after not in mixed_table.SCANNERS[rows.loc[i, "site"]] for _, after, (i, _) in cells["impossible_combination"]
    )
    for before, after, (_, column) in cells["contextual"]:
        assert column in mixed_table.SIZES
        assert train[column].min() <= after <= train[column].max()
        assert (before < train[column].median()) == (after > train[column].median())
    burst, _ = mixed_table.plant(rows, "missing_burst", rng, train)
    assert (burst[mixed_table.NUMERIC].isna().sum(axis=1) >= 5).all()


def test_the_encoding_is_numbers(table):
    encoded = mixed_table.encoding(table[:340]).fit(table[:340]).transform(table)
    assert len(encoded) == len(table)
    assert np.isfinite(np.asarray(encoded, dtype=float)).all()


class Oracle:
    """Blames the date, and finds it strange outside the years of the train rows."""

    def fit(self, rows):
        self.years = set(rows["visit"].dt.year)
        return self

    def anomaly_score(self, rows):
        return 1.0 - rows["visit"].dt.year.isin(self.years).to_numpy()

    def explain(self, rows):
        return np.tile(np.asarray(rows.columns == "visit", dtype=float), (len(rows), 1))


def test_a_trial_reads_scores_and_blame():
    lines = benchmark.detect_planted(0, "oracle", lambda seed: Oracle())
    read = pd.DataFrame(lines).set_index("kind").astype({"auroc": float})
    assert list(read.index) == list(mixed_table.KINDS)
    assert (read["rows_train"] + read["rows_normal"] == 569).all()
    others = read.drop("out_of_range_date")
    assert read.loc["out_of_range_date", ["auroc", "right_column"]].tolist() == [1.0, 1.0]
    assert (others["auroc"] == 0.5).all()
    assert (others["right_column"].dropna() == 0.0).all()
    assert read["right_column"].isna().to_dict()["missing_burst"]


def test_mixed_goes_on_where_it_stopped(tmp_path):
    output = tmp_path / "mixed.csv"
    told = run("mixed", "--seeds", 1, "--methods", "IsolationForest", "--output", output).stdout
    assert "| missing_burst | 0.9" in told
    whole = output.read_text()
    lines = whole.splitlines(keepends=True)
    output.write_text("".join(lines[:4] + lines[5:]))
    run("mixed", "--seeds", 1, "--methods", "IsolationForest", "--output", output)
    assert sorted(output.read_text().splitlines()) == sorted(whole.splitlines())


# --- gaps and speed --------------------------------------------------------------------------------------------------


def test_gaps_are_the_same_cells_filled_or_not():
    train, test = np.random.default_rng(0).normal(size=(2, 500, 4))
    bare, filled = (mixed_table.with_gaps(train, test, 0.3, 5, filled) for filled in (False, True))
    for whole, gaps, means in zip((train, test), bare, filled, strict=True):
        gone = np.isnan(gaps)
        assert 0.27 < gone.mean() < 0.33
        assert np.array_equal(means[~gone], whole[~gone])
        np.testing.assert_allclose(means[gone], np.broadcast_to(np.nanmean(bare[0], axis=0), gone.shape)[gone])


def test_missing_compares_the_three(data, tmp_path):
    output = tmp_path / "missing.csv"
    told = run("missing", "--data", data, "--output", output, "--seeds", 1, "--methods", "IsolationForest").stdout
    auroc = pd.read_csv(output).groupby("protocol")["auroc"].mean()
    drop = auroc["clean"] - auroc[["clean+nan", "clean+mean"]]
    numbers = [auroc["clean"], auroc["clean+nan"], auroc["clean+mean"], *drop]
    assert f"| IsolationForest | {' | '.join(f'{number:.4f}' for number in numbers)} |" in told


@pytest.mark.slow
def test_labels_are_told_to_those_who_learn_from_them(tmp_path):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [200, 90])
    X = rng.normal(size=(290, 3))
    X[y == 1, 0] += np.where(np.arange(90) % 2, 1.5, -1.5)  # two kinds of anomalies
    np.savez(tmp_path / "one.npz", X=X, y=y)
    output = tmp_path / "labels.csv"
    methods = "AutoencoderDetector,KnownAnomalies,HistGradientBoosting"
    told = run("labels", "--data", tmp_path, "--output", output, "--seeds", 1, "--methods", methods).stdout
    lines = pd.read_csv(output)
    assert lines["error"].isna().all()
    auroc = lines.set_index(["kind", "method", "known"])["auroc"].sort_index()
    assert np.ptp(auroc["same", "AutoencoderDetector"]) == 0  # it is told none
    assert auroc["same", "KnownAnomalies", 0] == auroc["same", "AutoencoderDetector", 0]
    assert auroc["same", "KnownAnomalies", 20] > auroc["same", "KnownAnomalies", 0]
    assert 0 not in auroc["same", "HistGradientBoosting"].index  # one class is none
    assert f"| same | 20 | KnownAnomalies | {auroc['same', 'KnownAnomalies', 20]:.4f}" in told


@pytest.mark.slow
def test_speed_is_measured_in_a_process_of_its_own():
    told = run("speed", "--rows", 600, "--columns", 4, "--methods", "1-NN").stdout
    head, _, row = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told.splitlines() if "|" in line]
    line = dict(zip(head, row, strict=True))
    assert line["method"] == "1-NN"
    assert float(line["fit seconds"]) > 0
    assert float(line["rows/s scored"]) > 0
    assert float(line["MiB at peak"]) >= float(line["MiB at start"]) > 50


@pytest.mark.slow
def test_the_bare_net_is_faster_than_scoring(quick, monkeypatch):
    lines = queue.SimpleQueue()
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    benchmark.clock(5000, 8, 1, benchmark.chosen("1-NN", [quick], [])["quick"], lines)
    line = lines.get()
    assert 0 < line["rows/s scored"] < line["rows/s bare net"]
    assert line["MB of the model"] > 4000 * 8 * 4 / 1e6  # the rows that it remembers, in float32


@pytest.mark.slow
def test_series_are_timed_in_one_pass_row_by_row_and_beside_a_peer(tmp_path):
    folder = tmp_path / "tsb"
    folder.mkdir()
    X = speeds.plant(600, 3)
    np.savez(folder / "one.npz", X=X, label=np.zeros(600), train_rows=300)
    told = run("series-speed", "--rows", 1000, "--channels", 2, "--epochs", 1, "--data", tmp_path)
    tables = [part for part in told.output.split("\n\n") if part.startswith("|")]
    one_pass, rows, fits = (
        pd.DataFrame([[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()])
        for table in tables
    )
    assert float(one_pass.iloc[2, 4]) == pytest.approx(float(one_pass.iloc[2, 3]) / float(one_pass.iloc[2, 2]), rel=0.1)
    assert set(rows[0][2:]) >= {"TCN", "default"}
    assert (rows[2][2:].astype(float) > 0).all()
    assert set(fits[0][2:]) >= {"default", "net of rows"}
