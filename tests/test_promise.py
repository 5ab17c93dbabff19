"""What is promised of false alarms is one number, wherever it is told."""

import contextlib
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from anomaly_ae import AutoencoderDetector, Mahalanobis, Quantile, SeriesDetector, StandardizedError, View, load
from anomaly_ae.cli import app
from anomaly_ae.ops.describe import describe, told
from anomaly_ae.promise import is_cross_fitted, promised

ROWS = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=["flow", "head", "speed"])
FAST = {"effort": "fast", "max_epochs": 2, "random_state": 0}


def shell(*words):
    done = CliRunner().invoke(app, [*words, "--no-track"])
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.parametrize(("calibration", "rate"), [("cross", 0.1), ("split", 0.05)])
def test_all_jobs_tell_the_same_promise(here, calibration, rate):
    ROWS.to_csv("rows.csv", index=False)
    Path("config.yaml").write_text(f"AutoencoderDetector: {json.dumps({**FAST, 'calibration': calibration})}")
    commands = {
        "fit": ["fit", "config.yaml", "--data", "rows.csv", "--model", "model", "--report", "fit.html"],
        "score": ["score", "model", "rows.csv", "--output", "o.csv", "--report", "score.html", "--challenger", "model"],
        "monitor": ["monitor", "model", "rows.csv"],
        "refit": ["refit", "model", "--data", "rows.csv", "--to", "second"],
    }
    said = {name: shell(*words).output for name, words in commands.items()}
    said["info"] = CliRunner().invoke(app, ["info", "model"]).output
    expected = f"{rate:.0%}"
    for name, text in said.items():
        assert set(re.findall(r"at most (\S+?%)", text)) == {expected}, name
        assert ("cross-fitted" in text) == (calibration == "cross" and name in ("fit", "refit", "info"))
    for page in ("fit.html", "score.html"):
        shown = re.sub(r"<[^>]*>", " ", Path(page).read_text())
        assert re.search(rf"at most\s+{expected}|{expected}\s+[a-z ,]*at most", shown), page
    plain = json.loads(
        shell("score", "model", "rows.csv", "--output", "p.csv", "--json", "--challenger", "model").stdout
    )
    described = json.loads(CliRunner().invoke(app, ["info", "model", "--json"]).stdout)
    rates = [one["promised_false_alarm_rate"] for one in (plain, plain["challenger"], described)]
    assert [*rates, plain["monitoring"]["promised"]] == [rate] * 4


def test_rows_that_no_net_has_seen_bring_the_promise_back_to_alpha():
    det = AutoencoderDetector(**FAST).fit(ROWS)
    assert promised(det) == 0.1
    assert promised(det.recalibrate(ROWS)) == 0.05
    assert "at most 5% promised" in told(describe(det))


def test_what_is_twice_alpha_is_no_rate_above_one_and_a_rule_of_thumb_is_no_promise():
    assert promised(AutoencoderDetector(**FAST).set_params(threshold__alpha=0.7).fit(ROWS)) == 1
    det = AutoencoderDetector(**FAST, threshold=Quantile(0.9)).fit(ROWS)
    assert promised(det) is None
    assert "promised" not in told(describe(det))


def test_of_series_it_is_told_as_well(here):
    SeriesDetector(views=[View(Mahalanobis(), window=4)], random_state=0).fit(ROWS).save("model")
    expected = promised(load("model"))
    ROWS.to_csv("rows.csv", index=False)
    done = json.loads(shell("score", "model", "rows.csv", "--output", "o.csv", "--json").stdout)
    refitted = json.loads(shell("refit", "model", "--data", "rows.csv", "--to", "second", "--json").stdout)
    assert done["promised_false_alarm_rate"] == refitted["promised_false_alarm_rate"] == expected
    assert done["monitoring"]["promised"] == expected
    assert f"at most {100 * expected:.3g}% of normal rows above" in told(describe(load("model")))


@pytest.mark.parametrize(("rows", "few"), [(1500, True), (20_000, False)])
def test_rows_that_follow_each_other_promise_as_much_as_they_tell(rows, few):
    """Windows that overlap score alike: a fifth of 1,500 rows are no 300 rows to set a threshold by."""
    alarms = []
    for seed in range(10 if few else 1):
        rng = np.random.default_rng(seed)
        net = AutoencoderDetector(max_epochs=2)
        det = SeriesDetector(net, views=[View(StandardizedError())], window=64, random_state=0)
        said = pytest.warns(UserWarning, match="19 independent rows") if few else contextlib.nullcontext()
        with warnings.catch_warnings(action="error"), said:
            det.fit(rng.normal(size=(rows, 2)))
        assert promised(det) == max(0.05, 1 / (det.profile_.told_rows / max(64, det.profile_.score_time) + 1))
        assert (promised(det) > 0.05) == few
        alarms.append((det.predict(rng.normal(size=(3000, 2))) == -1).mean())
    assert promised(det) / 4 < np.mean(alarms) < 1.25 * promised(det)


def test_a_fit_by_turns_warns_of_the_rate_that_it_promises():
    with pytest.warns(UserWarning, match="19 independent rows") as said:
        det = SeriesDetector(views=[View(Mahalanobis(), window=64)], random_state=0).fit(ROWS)
    rate = re.search(r"up to (\S+)% of normal rows", str(said[-1].message))
    assert float(rate[1]) == pytest.approx(100 * promised(det), rel=0.01)
    assert is_cross_fitted(det)
    assert promised(det) > 0.1
