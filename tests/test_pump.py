"""The pump, end to end: what is promised of faults on seeds that the repository does not hold."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.base import clone
from typer.testing import CliRunner

from anomaly_ae import Mahalanobis, SeriesDetector, View
from anomaly_ae.cli import app

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "sample_data"))
import make_pump  # noqa: E402 - it lies beside its files

HOUR = pd.Timedelta("1h")
LIVE = SeriesDetector(
    views=[View(Mahalanobis(), window=32, channels=1)], reduce="last", time="time", random_state=0
)  # as in configs/pump.yaml


def run(*command, cwd, text=None):
    done = subprocess.run(
        [str(Path(sys.executable).parent / "anomaly-ae"), *map(str, command)],
        cwd=cwd, input=text, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def judged(events, labels):
    """Which faults were found, of which sensor faults the sensor was blamed, and how many events were none."""
    start, end = (pd.to_datetime(events[name], utc=True) for name in ("start", "end"))
    false = np.ones(len(events), dtype=bool)
    found, blamed = {}, []
    for fault in labels.itertuples():
        first, last = pd.Timestamp(fault.start), pd.Timestamp(fault.end)
        hit = ((start <= last) & (end >= first)).to_numpy()
        false &= ~((start <= last + HOUR) & (end >= first)).to_numpy()  # temperatures take an hour to settle
        found[fault.kind] = bool(hit.any())
        if fault.sensor and hit.any():
            blamed.append(events[hit].sort_values("rows")["channel_1"].iloc[-1] == fault.channels)
    return found, blamed, int(false.sum())


@pytest.fixture(scope="module")
def normal():
    return pd.read_csv(ROOT / "sample_data" / "pump_normal.csv")


def verdicts(detector, seeds):
    found, blamed, false, days = {}, [], 0, 0
    for seed in seeds:
        mixed, labels = make_pump.simulate(3, seed, make_pump.FAULTS)
        kinds, right, wrong = judged(detector.events(mixed), labels)
        for kind, hit in kinds.items():
            found.setdefault(kind, []).append(hit)
        blamed, false, days = blamed + right, false + wrong, days + 3
        false, days = false + len(detector.events(make_pump.simulate(2, 1000 + seed)[0])), days + 2
    return found, blamed, false / days


def test_faults_are_found_and_sensors_blamed_live(normal):
    found, blamed, false = verdicts(LIVE.fit(normal), range(101, 109))
    assert sum(np.mean(hits) > 0.8 for hits in found.values()) == 7, found
    assert len(blamed) >= 20
    assert np.mean(blamed) >= 0.8
    assert false <= 0.2


@pytest.mark.slow
def test_the_default_finds_them_too(normal):
    found, blamed, false = verdicts(SeriesDetector(time="time", random_state=0).fit(normal), range(101, 109))
    assert sum(np.mean(hits) > 0.8 for hits in found.values()) == 7, found
    assert np.mean(blamed) >= 0.8
    assert false <= 0.2


@pytest.mark.parametrize("detector", [LIVE, SeriesDetector(time="time", random_state=0)], ids=["live", "default"])
def test_a_sensor_that_is_lost_is_the_one_to_blame(normal, detector):
    det = clone(detector).fit(normal[:4320])
    day = normal[4320:].reset_index(drop=True)
    for channel in ("speed_rpm", "suction_bar", "winding_c", "vibration_mms"):
        lost = day.astype({channel: float})
        lost.loc[600:700, channel] = np.nan
        verdict = det.assess(lost)
        assert verdict.is_anomaly[600:701].mean() > 0.9
        blamed = np.array(det.contract_.names)[verdict.contributions[600:701].argmax(axis=1)]
        assert (blamed == channel).mean() > 0.9
        assert (verdict.contributions[650] / verdict.contributions[650].sum()).max() > 0.5


DEFAULT = SeriesDetector(time="time", random_state=0)


@pytest.mark.parametrize(
    ("detector", "usual", "other"),
    [
        *((LIVE, *states) for states in ((0, 1), (False, True), ("RUN", "FAULT"), (7.5, None))),
        (DEFAULT, "RUN", "FAULT"),
        *(pytest.param(DEFAULT, *states, marks=pytest.mark.slow) for states in ((0, 1), (False, True), (7.5, None))),
    ],
    ids=lambda value: {id(LIVE): "live", id(DEFAULT): "default"}.get(id(value)),
)
def test_what_a_flag_never_held_is_an_event_if_it_lasts(normal, detector, usual, other):
    det = clone(detector).fit(normal[:4320].assign(state=usual))
    day = normal[4320:].reset_index(drop=True).assign(state=usual)
    assert not len(det.events(day))
    day.loc[600:720, "state"] = other
    (event,) = det.events(day).to_dict("records")
    assert event["channel_1"] == "state"
    assert pd.Timestamp(event["end"]) == pd.Timestamp(day["time"][720])
    assert pd.Timestamp(event["start"]) <= pd.Timestamp(day["time"][620])


@pytest.fixture(scope="module")
def three_days(normal):
    return SeriesDetector(time="time", random_state=0).fit(normal[:4320])


@pytest.mark.parametrize("channel", ["speed_rpm", "discharge_bar", "winding_c"])
def test_an_event_begins_and_ends_where_it_did(normal, three_days, channel):
    """Though means over windows are strange before and after."""
    det = three_days
    day = normal[4320:].reset_index(drop=True).astype({channel: float})
    day.loc[600:839, channel] += 4 * normal[channel].std()
    (event,) = det.events(day).to_dict("records")
    assert event["channel_1"] == channel
    for told, row in (("start", 600), ("channel_1_since", 600), ("end", 839)):
        off = pd.Timestamp(event[told]) - pd.Timestamp(day["time"][row])
        assert abs(off) <= pd.Timedelta(minutes=5), told
    lasted = det.assess(day).is_anomaly
    assert lasted[:600].sum() > 20  # as it is of rows: a window holds what comes


@pytest.mark.slow
def test_two_commands_from_a_file_to_events(tmp_path, monkeypatch):
    mixed, labels = make_pump.simulate(3, 77, make_pump.FAULTS)
    mixed.to_csv(tmp_path / "mixed.csv", index=False)
    config = ROOT / "configs" / "pump.yaml"
    run("fit", config, "--data", ROOT / "sample_data" / "pump_normal.csv", "--model", "m", cwd=tmp_path)
    done = run("score", "m", "mixed.csv", "--output", "scores.csv", "--events", "events.csv", "--json", cwd=tmp_path)
    events = pd.read_csv(tmp_path / "events.csv")
    found, blamed, false = judged(events, labels)
    assert sum(found.values()) >= 6
    assert np.mean(blamed) >= 0.8
    assert false <= 3
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert scores["time"].tolist() == mixed["time"].tolist()
    assert sorted(scores["event"].dropna().unique()) == events["event"].tolist()
    assert len(json.loads(done.stdout)["events"]) == len(events)
    piped = run("watch", "m", cwd=tmp_path, text=mixed[:600].to_csv(index=False))
    live = pd.read_json(io.StringIO(piped.stdout), lines=True)
    assert np.allclose(live["anomaly_score"], scores["anomaly_score"][:600], atol=1e-6)
    monkeypatch.chdir(tmp_path)
    for name in ("p.png", "p.svg"):
        assert CliRunner().invoke(app, ["plot", "m", "mixed.csv", "--output", name]).exit_code == 0
        assert (tmp_path / name).stat().st_size > 20_000
    assert "<svg" in (tmp_path / "p.svg").read_text()[:2000]
    told = CliRunner().invoke(app, ["info", "m"]).stdout
    assert "Mahalanobis" in told


def test_the_sample_is_what_its_script_writes(tmp_path):
    (tmp_path / "make_pump.py").write_text((ROOT / "sample_data" / "make_pump.py").read_text())
    subprocess.run([sys.executable, "make_pump.py"], cwd=tmp_path, check=True)
    for name in ("normal", "mixed", "labels"):
        file = f"pump_{name}.csv"
        assert (tmp_path / file).read_bytes() == (ROOT / "sample_data" / file).read_bytes()


def test_the_simulator_repeats_and_faults_are_all_that_differs():
    plain, none = make_pump.simulate(3, 5)
    again, _ = make_pump.simulate(3, 5)
    assert plain.equals(again)
    assert none.empty
    assert not plain.equals(make_pump.simulate(3, 6)[0])
    for kind in make_pump.SENSOR_FAULTS:
        faulty, labels = make_pump.simulate(3, 5, [kind])
        differs = faulty.ne(plain)
        assert differs.any().pipe(lambda columns: columns[columns].index.tolist()) == [labels.channels[0]]
        rows = faulty.time[differs.any(axis=1)]
        assert labels.start[0] <= rows.iloc[0] <= rows.iloc[-1] <= labels.end[0]
    every, labels = make_pump.simulate(3, 5, make_pump.FAULTS)
    assert labels.kind.tolist() == list(make_pump.FAULTS)
    assert (labels.start.to_numpy()[1:] > labels.end.to_numpy()[:-1]).all()
    assert not every.isna().any().any()


def test_physics():
    """What a pump does: more speed, more head and current; each mode its flow; temperatures lag behind."""
    table, _ = make_pump.simulate(4, 3)
    by_mode = table.groupby("mode").median(numeric_only=True)
    for mode, flow in make_pump.FLOW.items():
        assert abs(by_mode.loc[mode, "flow_m3h"] - flow) < 2
    for column in ("speed_rpm", "current_a", "discharge_bar", "winding_c", "valve_pct"):
        assert by_mode[column].is_monotonic_increasing
    lag = [table["winding_c"].corr(table["current_a"].shift(k)) for k in range(0, 120, 5)]
    assert 3 <= int(np.argmax(lag)) <= 20


def test_the_configuration_is_the_detector_of_these_tests():
    from anomaly_ae import config

    made, _ = config.load(ROOT / "configs" / "pump.yaml")
    assert repr(made.views) == repr(LIVE.views)
    assert made.reduce == LIVE.reduce
    assert "SeriesDetector" in yaml.safe_load((ROOT / "configs" / "pump.yaml").read_text())
