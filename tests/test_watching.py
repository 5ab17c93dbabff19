"""Watching a model: the jobs that monitor, what a store then draws over real time, and pages for people."""

import html
import html.parser
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from servers import mlflow_server
from typer.testing import CliRunner

from anomaly_ae import AutoencoderDetector, Mahalanobis, SeriesDetector, View, load, score_file
from anomaly_ae.cli import app
from anomaly_ae.ops.describe import describe, told
from anomaly_ae.ops.report import batch_page, fit_page

COLUMNS = ["flow", "head", "speed"]
STRANGE = "<script>alert('x')</script> & $a_1$"
NEEDS_BROWSER = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")


def rows(n, seed, shift=0.0):
    X = np.random.default_rng(seed).normal(size=(n, 3))
    X[:, 1] += shift
    return pd.DataFrame(X, columns=COLUMNS)


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """A model, three quiet days and one on which the head has moved."""
    folder = tmp_path_factory.mktemp("plant")
    AutoencoderDetector(effort="fast", calibration="split", random_state=0).fit(rows(2000, 0)).save(folder / "model")
    for day in (1, 2, 3):
        rows(400, day).to_csv(folder / f"day{day}.csv", index=False)
    rows(400, 4, 1.5).to_csv(folder / "day4.csv", index=False)
    return folder


def shell(*words, exits=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == exits, done.output
    return done


def watch(plant, day, *more, exits=0, track="--no-track"):
    when = ["--event-time", f"2026-03-0{day}T00:00+00:00"]
    done = shell(
        "monitor", plant / "model", plant / f"day{day}.csv", *when, "--state", "s.json", track, "--json", *more,
        exits=exits,
    )  # fmt: skip
    return json.loads(done.stdout)


# --- the job ---------------------------------------------------------------------------------------------------------


def test_a_batch_that_comes_again_changes_nothing_and_a_late_one_stands_at_its_time(plant, here):
    for day in (1, 3):
        assert not watch(plant, day)["batches"][0]["repeated"]
    before = Path("s.json").read_bytes()
    assert watch(plant, 3)["batches"][0]["repeated"]
    assert Path("s.json").read_bytes() == before
    watch(plant, 2)
    told = json.loads(Path("s.json").read_text())
    assert [batch["name"] for batch in told["batches"]] == ["day1.csv", "day2.csv", "day3.csv"]
    minutes = [batch["minute"] for batch in told["batches"]]
    assert minutes == sorted(minutes)
    assert len(set(minutes)) == 3


def test_each_batch_through_a_pipe_is_a_new_one(plant, here):
    def piped(day):
        text = (plant / f"day{day}.csv").read_text()
        done = CliRunner().invoke(
            app, ["monitor", str(plant / "model"), "-", "--state", "s.json", "--no-track", "--json"], input=text
        )
        return json.loads(done.stdout)["batches"][0]

    assert not piped(1)["crossed"]
    moved = piped(4)
    assert not moved["repeated"]
    assert "features" in moved["crossed"]


def test_json_that_is_asked_for_is_told_quietly_too(plant, here):
    loud, quiet = (watch(plant, 1, *more) for more in ([], ["--quiet"]))
    assert quiet["batches"][0]["rows"] == loud["batches"][0]["rows"] > 0


def test_assets_whose_names_look_alike_in_a_file_s_name_are_two(plant, here):
    for asset in ("pump 1", "pump-1"):
        shell("monitor", plant / "model", plant / "day1.csv", "--asset", asset, "--no-track")
    assert len(list(Path("anomaly-ae-monitor").glob("*.json"))) == 2


def test_a_drift_crosses_the_gates_and_its_column_is_named(plant, here):
    quiet = watch(plant, 1, "--fail-on", "any")
    assert quiet["crossed"] == []
    done = CliRunner().invoke(
        app, ["monitor", str(plant / "model"), str(plant / "day4.csv"), "--no-track", "--fail-on", "features"]
    )
    assert done.exit_code == 4
    assert re.search(r"head has drifted", done.stdout)
    moved = watch(plant, 4)
    assert moved["batches"][0]["drifting"][0] == "head"
    assert {"scores", "features"} <= set(moved["crossed"])
    shell(
        "monitor", plant / "model", plant / "day4.csv", "--no-track", "--state", "t.json", "--fail-on", "any", exits=4
    )


def test_scores_are_remembered_whether_or_not_a_run_is_logged(plant, here):
    def scored(day, *more):
        job = ["score", plant / "model", plant / f"day{day}.csv", "--output", f"{day}.csv", "--no-track", *more]
        return json.loads(shell(*job, "--json").stdout)["monitoring"]

    scored(4, "--no-remember")
    assert not Path("anomaly-ae-monitor").exists()
    scored(1)
    scored(2)
    (memory,) = Path("anomaly-ae-monitor").glob("*.json")
    names = [batch["name"] for batch in json.loads(memory.read_text())["batches"]]
    assert names == ["day1.csv", "day2.csv"]
    again = json.loads(shell("monitor", plant / "model", plant / "day2.csv", "--no-track", "--json").stdout)
    assert again["batches"][0]["repeated"]


def test_memory_may_be_elsewhere_and_python_asks_for_it(plant, here, monkeypatch):
    monkeypatch.setenv("ANOMALY_AE_MONITOR", str(here / "memory"))
    score_file(plant / "model", plant / "day1.csv", "first.csv")
    assert not (here / "memory").exists()
    score_file(plant / "model", plant / "day1.csv", "second.csv", remember=True)
    assert len(list((here / "memory").glob("*.json"))) == 1
    assert not Path("anomaly-ae-monitor").exists()


def test_assets_are_watched_each_by_itself(plant, here):
    for asset in ("north", "south"):
        shell("monitor", plant / "model", plant / "day1.csv", "--asset", asset, "--no-track")
    files = sorted(path.name.split("-")[0] for path in Path("anomaly-ae-monitor").glob("*.json"))
    assert files == ["north", "south"]


def test_what_is_found_is_the_same_in_the_pass_that_scores(plant, here):
    alone = watch(plant, 4)["batches"][0]
    done = shell(
        "score", plant / "model", plant / "day4.csv", "--output", "out.csv", "--state", "other.json", "--no-track",
        "--event-time", "2026-03-04T00:00+00:00", "--json", "--fail-on", "any", exits=4,
    )  # fmt: skip
    assert len(pd.read_csv("out.csv")) == 400  # the gate comes after the scores
    again = shell(
        "score", plant / "model", plant / "day4.csv", "--output", "out.csv", "--state", "other.json", "--no-track",
        "--event-time", "2026-03-04T00:00+00:00", "--json", "--fail-on", "any", exits=4,
    )  # fmt: skip
    assert json.loads(again.stdout)["monitoring"] == json.loads(done.stdout)["monitoring"]  # told again
    beside = json.loads(done.stdout)["monitoring"]
    assert {name: alone[name] for name in beside} == beside


def test_a_state_that_is_damaged_or_of_another_model_is_refused_and_kept(plant, here):
    watch(plant, 1)
    whole = Path("s.json").read_text()
    for broken in (
        whole[:-50],
        "[]",
        whole.replace('"asset": ""', '"asset": "other"'),
        whole.replace("monitor 2", "monitor 1"),
    ):
        Path("s.json").write_text(broken)
        done = shell("monitor", plant / "model", plant / "day2.csv", "--state", "s.json", "--no-track", exits=2)
        assert "Traceback" not in done.output
        assert "s.json" in done.stderr
        assert Path("s.json").read_text() == broken
    done = shell("score", plant / "model", plant / "day2.csv", "--output", "o.csv", "--state", "s.json", "--no-track")
    assert "not monitored" in done.stderr  # scores are worth more
    assert len(pd.read_csv("o.csv")) == 400


def test_a_model_of_series_is_watched_as_well(here):
    t = np.arange(3000)
    X = pd.DataFrame({"a": np.sin(t / 9), "b": np.cos(t / 9)}) + np.random.default_rng(0).normal(size=(3000, 2)) / 20
    X.insert(0, "time", pd.date_range("2026-03-01", periods=3000, freq="min"))
    view = [View(Mahalanobis(), window=8)]
    SeriesDetector(views=view, time="time", random_state=0).fit(X[:2000]).save("model")
    X[2000:].to_csv("quiet.csv", index=False)
    X[2000:].assign(b=X["b"] + 3).to_csv("moved.csv", index=False)
    done = shell("monitor", "model", "quiet.csv", "moved.csv", "--no-track", "--json")
    quiet, moved = json.loads(done.stdout)["batches"]
    assert "b" not in quiet["drifting"]
    assert "b" in moved["drifting"]


@pytest.mark.parametrize("empty", ["", "flow,head,speed\n"], ids=["no byte", "a header"])
def test_a_file_without_rows_beside_others_is_passed_over_and_told_of(plant, here, empty):
    Path("empty.csv").write_text(empty)
    files = ["empty.csv", plant / "day1.csv", plant / "day2.csv"]
    done = shell("monitor", plant / "model", *files, "--no-track", "--json")
    told = json.loads(done.stdout)
    assert [batch["name"] for batch in told["batches"]] == ["day1.csv", "day2.csv"]
    assert told["empty_inputs"] == ["empty.csv"]
    assert "without rows: empty.csv" in shell("monitor", plant / "model", *files, "--no-track").output
    alone = shell("monitor", plant / "model", "empty.csv", "--no-track", exits=2)
    assert "empty.csv" in alone.output


def test_a_series_without_rows_beside_others_is_passed_over(here):
    X = pd.DataFrame({"a": np.sin(np.arange(900) / 9)}) + np.random.default_rng(0).normal(size=(900, 1)) / 20
    SeriesDetector(views=[View(Mahalanobis(), window=8)], random_state=0).fit(X[:600]).save("model")
    X[600:].to_csv("rows.csv", index=False)
    X[:0].to_csv("empty.csv", index=False)
    told = json.loads(shell("monitor", "model", "rows.csv", "empty.csv", "--no-track", "--json").stdout)
    assert [batch["name"] for batch in told["batches"]] == ["rows.csv"]
    assert told["empty_inputs"] == ["empty.csv"]
    shell("monitor", "model", "empty.csv", "--no-track", exits=2)


# --- what a store draws ----------------------------------------------------------------------------------------------


@pytest.fixture
def client(here):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    return lambda: mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")


def test_one_long_run_has_a_point_a_batch_at_the_time_of_the_batch(plant, client):
    for day in (1, 3, 2, 3, 4):  # one late, one twice
        watch(plant, day, track="--track")
    (experiment,) = client().search_experiments(filter_string="name = 'anomaly-ae'")
    runs = client().search_runs([experiment.experiment_id])
    (long,) = [run for run in runs if run.data.tags["anomaly_ae.job"] == "watch"]
    assert [run.data.tags["anomaly_ae.job"] for run in runs].count("monitor") == 4
    batches = json.loads(Path("s.json").read_text())["batches"]
    for metric, of in (
        ("alarm_rate", lambda batch: batch["alarm_rate"]),
        ("score_ks", lambda batch: batch["score"]["ks"]),
        ("drifting_columns", lambda batch: len(batch["drifting"])),
    ):
        points = sorted((p.timestamp, p.value) for p in client().get_metric_history(long.info.run_id, metric))
        days = [int(datetime(2026, 3, day, tzinfo=UTC).timestamp() * 1000) for day in (1, 2, 3, 4)]
        assert points == list(zip(days, map(of, batches), strict=True)), metric
    latest = long.data.metrics
    assert latest["drifting_columns"] == len(batches[-1]["drifting"]) > 0
    assert "psi head" in latest
    assert {one.path for one in client().list_artifacts(long.info.run_id)} == {"monitoring.html"}


# --- pages -----------------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What is in a page: tags that close, what it would fetch, its text."""

    EMPTY = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.fetched, self.ids, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and not value.startswith("#"):
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def judged(text):
    page = Page(text)
    assert page.fetched == []
    assert not re.search(r"@import|url\((?!#)", text)
    assert {"script", "link", "img", "iframe"}.isdisjoint(page.seen)
    assert len(page.ids) == len(set(page.ids))
    assert len(text) < 1_000_000
    return page


def test_pages_of_every_job_stand_alone_and_say_what_they_are_about(plant, here):
    alone = ["--no-track", "--no-remember"]
    shell("score", plant / "model", plant / "day4.csv", "--output", "o.csv", *alone, "--report", "batch.html")
    shell("monitor", plant / "model", plant / "day1.csv", plant / "day4.csv", "--no-track", "--report", "window.html")
    batch, window = (judged(Path(f"{name}.html").read_text()) for name in ("batch", "window"))
    assert batch.seen.count("svg") == 2  # scores, and the column that drifts
    assert window.seen.count("svg") == 2
    for page in (batch, window):
        assert "head" in " ".join(page.text)
    trained = AutoencoderDetector(max_epochs=2, calibration="split", random_state=0).fit(rows(300, 0))
    for detector, drawn in ((load(plant / "model"), 1), (trained, 2)):  # the first is in closed form: without a curve
        fit = judged(fit_page(detector, told(describe(detector)), "model"))
        assert f"{detector.threshold_.value_:.4g}" in fit.text
        assert fit.seen.count("svg") == drawn


def test_names_of_columns_are_text_and_nothing_else(here):
    X = rows(300, 0).rename(columns={"head": STRANGE})
    det = AutoencoderDetector(effort="fast", max_epochs=2, calibration="split", random_state=0).fit(X)
    det.save("model")
    X.assign(**{STRANGE: X[STRANGE] + 9}).to_csv("new.csv", index=False)
    shell("score", "model", "new.csv", "--output", "o.csv", "--no-track", "--report", "p.html")
    page = judged(Path("p.html").read_text())
    assert STRANGE in " ".join(page.text)
    judged(fit_page(det, told(describe(det)), "model"))


def test_three_hundred_columns_and_fifty_events_stay_small():
    d = 300
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(200, d)), columns=[f"sensor {i}" for i in range(d)])
    det = AutoencoderDetector(effort="fast", max_epochs=1, calibration="split", random_state=0).fit(X)
    page = judged(fit_page(det, told(describe(det)), "model"))
    assert "One epoch" in " ".join(page.text)  # a net in closed form has no curve
    assert page.seen.count("svg") == 1
    event = {"start": "2026-01-01", "end": "2026-01-02", "severity": 3.0}
    event |= {"channel_1": "sensor 1", "channel_1_share": 0.9, "channel_1_since": "2026-01-01"}
    summary = {"input": "x.csv", "model": "m", "rows": 9, "alarms": 0, "alarm_rate": 0.0, "events": [event] * 50}
    scores = np.random.default_rng(0).gamma(2, size=2000)
    assert "sensor 1 90% since" in " ".join(judged(batch_page(summary, scores, scores, 5.0)).text)


# --- a browser -------------------------------------------------------------------------------------------------------


def chromium(*arguments, folder):
    command = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ]
    profile = f"--user-data-dir={folder / 'profile'}"
    return subprocess.run(
        [*command, profile, *arguments], capture_output=True, text=True, check=True, timeout=300
    ).stdout


@NEEDS_BROWSER
def test_a_browser_draws_a_page_in_light_and_in_dark(plant, here):
    image = pytest.importorskip("matplotlib.image")
    shell("score", plant / "model", plant / "day4.csv", "--output", "o.csv", "--no-track", "--report", "p.html")
    means = []
    for name, more in (("light", []), ("dark", ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"])):
        shot = f"--screenshot={here / name}.png"
        chromium(*more, "--window-size=1000,2400", shot, f"file://{here}/p.html", folder=here)
        picture = image.imread(f"{name}.png")[..., :3]
        assert picture.std() > 0.02  # something is drawn
        means.append(picture[:40, :40].mean())
    assert means[0] > 0.9
    assert means[1] < 0.3


def loaded(url, is_there, folder):
    """The page at an address once it has what it loads by and by; the browser's clock runs ahead of a busy machine."""
    for seconds in (30, 60, 120, 240):
        budget = f"--virtual-time-budget={seconds * 1000}"
        dom = chromium(budget, "--window-size=1400,1600", "--dump-dom", url, folder=folder)
        if is_there(dom):
            return dom
    raise AssertionError(f"{url} has not what it should: {texts_of(dom)[:200]}")


@NEEDS_BROWSER
@pytest.mark.slow
def test_a_browser_finds_the_latest_figures_in_mlflow(plant, here, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    rows(300, 0).to_csv("normal.csv", index=False)
    Path("quick.yaml").write_text("AutoencoderDetector: {effort: fast, max_epochs: 2, random_state: 0}\n")
    with mlflow_server(here) as site:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", site)
        for made in ("first", "second"):
            shell("fit", "quick.yaml", "--data", "normal.csv", "--model", made, "--register", "plant")
        for day in (1, 2, 3, 4):
            watch(plant, day, track="--track")
        client = mlflow.MlflowClient(site)
        (experiment,) = client.search_experiments(filter_string="name = 'anomaly-ae'")
        runs = client.search_runs([experiment.experiment_id])
        (long,) = [run for run in runs if run.data.tags["anomaly_ae.job"] == "watch"]
        listed = f"{site}/#/experiments/{experiment.experiment_id}/runs"
        run = f"{listed}/{long.info.run_id}"
        text = " ".join(texts_of(loaded(run, lambda dom: "martingale_log10" in dom, here)))
        for metric in ("alarm_rate", "drifting_columns", "martingale_log10"):
            shown = float(re.search(rf"\b{metric}\b\s+(-?[\d.]+)", text)[1])
            assert shown == pytest.approx(long.data.metrics[metric], abs=1e-3)
        assert loaded(f"{run}/model-metrics", lambda dom: dom.count("main-svg") >= 3, here)  # plotly's
        assert loaded(listed, lambda dom: long.info.run_name in dom, here)
        versions = loaded(f"{site}/#/models/plant", lambda dom: "challenger" in dom, here)
        aliases = client.get_registered_model("plant").aliases
        for alias, version in aliases.items():
            assert re.search(rf"Version {version}\b[^@]*@\s*{alias}", " ".join(texts_of(versions)))
        assert aliases == {"champion": "1", "challenger": "2"}


def texts_of(dom):
    """Texts of a page, scripts and styles left out."""
    dom = re.sub(r"<(script|style)\b.*?</\1>", "", dom, flags=re.DOTALL)
    return [html.unescape(text).strip() for text in re.findall(r">([^<]+)<", dom) if text.strip()]
