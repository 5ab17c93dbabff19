"""A pump that does not exist: one centrifugal pump, its motor and its control valve, a row a minute, seeded.

`pump_normal.csv`  four days of normal operation to learn from
`pump_mixed.csv`   three other days with one fault of each kind, to score
`pump_labels.csv`  a line a fault of the mixed file: kind, start, end, channels at fault, whether it is a sensor's

| column | unit | what it is | noise (sd) |
|---|---|---|---|
| time | ISO 8601, UTC | start of the minute | |
| mode | 1, 2, 3 | what is asked for: 70, 95 or 120 m3/h at 1180, 1320 or 1460 rpm; changes every 1.5 to 4 hours | |
| speed_rpm | 1/min | follows its set-point with a lag of 1.5 minutes | 2 |
| flow_m3h | m3/h | where the pump's curve meets the pipe's | 0.4 |
| suction_bar | bar | level of the tank above less friction | 0.004 |
| discharge_bar | bar | suction and the pump's head | 0.012 |
| valve_pct | % | opening; a PI controller holds the flow with it | 0.15 |
| current_a | A | of the motor: hydraulic power over efficiency | 0.12 |
| winding_c | deg C | follows the square of the current, 45 minutes behind | 0.15 |
| bearing_c | deg C | follows speed and vibration, 20 minutes behind | 0.12 |
| ambient_c | deg C | a day's wave and the weather | 0.1 |
| vibration_mms | mm/s | grows with speed and with the distance from the best flow | 6 % |

| fault | hours | what happens |
|---|---|---|
| drift | 5 | a sensor's reading leaves the truth, linearly, up to its `DRIFT` |
| freeze | 4 | a sensor repeats its last reading |
| spikes | 3 | one minute in ten a sensor reads one to two times its `SPIKE` too much or too little |
| cavitation | 2.5 | 1.2 m of suction are lost, the head falls by 4 % and flutters, vibration is rough and 60 % more |
| sticking | 4.5 | the valve stands still, whatever the controller asks |
| leak | 4 | 7 % of the flow is lost before it is measured; the controller makes up for it |
| context | 3 | the plant asks for mode 1 and runs as in mode 3: every reading is normal, in another mode |

`simulate(days, seed, faults)` makes others; noise and modes depend on the seed alone, so that a run with faults and one
without differ by the faults (but where no mode 1 comes in time for a context fault, it is asked for).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
FAULTS = ("drift", "freeze", "spikes", "cavitation", "sticking", "leak", "context")
SENSOR_FAULTS = FAULTS[:3]
HOURS = {"drift": 5, "freeze": 4, "spikes": 3, "cavitation": 2.5, "sticking": 4.5, "leak": 4, "context": 3}
CHANNELS = {
    "cavitation": ("vibration_mms", "suction_bar", "discharge_bar"),
    "sticking": ("valve_pct", "flow_m3h"),
    "leak": ("valve_pct", "discharge_bar", "current_a"),
    "context": ("mode", "speed_rpm", "flow_m3h"),
}
DRIFT = {"flow_m3h": 6.0, "discharge_bar": 0.25, "current_a": 2.5, "winding_c": 6.0, "bearing_c": 4.0}
SPIKE = DRIFT | {"suction_bar": 0.06, "vibration_mms": 1.0}
SPEED, FLOW = {1: 1180.0, 2: 1320.0, 3: 1460.0}, {1: 70.0, 2: 95.0, 3: 120.0}
OPENING = {1: 0.4, 2: 0.53, 3: 0.69}  # of the valve, at the start
NOISE = {"speed_rpm": 2.0, "flow_m3h": 0.4, "suction_bar": 0.004, "discharge_bar": 0.012, "valve_pct": 0.15,
         "current_a": 0.12, "winding_c": 0.15, "bearing_c": 0.12, "ambient_c": 0.1}  # fmt: skip
DECIMALS = {"speed_rpm": 0, "flow_m3h": 1, "suction_bar": 3, "discharge_bar": 2, "valve_pct": 1, "current_a": 1,
            "winding_c": 1, "bearing_c": 1, "ambient_c": 1, "vibration_mms": 2}  # fmt: skip


def simulate(
    days: float, seed: int, faults: Sequence[str] = (), start: str = "2026-03-02T00:00Z"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Minutes of a pump, and a line for each of `faults`, which share out the time in their order.

    Returns a table of the columns above, and one of `kind`, `start`, `end` (first and last minute), `channels` (joined
    by "|") and `sensor` (1 where only a reading is wrong).
    """
    rng, n = np.random.default_rng(seed), round(days * 1440)
    mode = _modes(n, rng)
    static, level = 12 + _wander(n, rng, 0.7, 180), 3 + _wander(n, rng, 0.25, 600)
    day, weather = np.arange(n) / 1440, _wander(n, rng, 0.8, 300)
    ambient = 21 + 4 * np.sin(2 * np.pi * (day - 0.375)) + weather
    rough, flutter, voltage = (rng.standard_normal(n) for _ in range(3))
    noise = {name: sd * rng.standard_normal(n) for name, sd in NOISE.items()}
    planned = _plan(n, faults, np.random.default_rng([seed, 1]), mode)
    at = {kind: np.zeros(n) for kind in FAULTS}
    for kind, first, last, _ in planned:
        at[kind][first:last] = 1
    run = _run(np.where(at["context"] > 0, 3, mode), static, level, ambient, rough, flutter, at)
    run["current_a"] *= 1 - 0.004 * voltage
    table = pd.DataFrame({name: run[name] + noise.get(name, 0) for name in DECIMALS})
    table = table.round(DECIMALS).astype({"speed_rpm": int})
    table.insert(0, "mode", mode)
    for kind, first, last, channels in planned:
        if kind in SENSOR_FAULTS:
            values = table[channels[0]].to_numpy(copy=True)
            values[first:last] = _misread(kind, channels[0], values[first:last], np.random.default_rng([seed, 2]))
            table[channels[0]] = values.round(DECIMALS[channels[0]])
    time = pd.date_range(start, periods=n, freq="min").strftime("%Y-%m-%dT%H:%MZ")
    table.insert(0, "time", time)
    labels = [
        {"kind": kind, "start": time[first], "end": time[last - 1], "channels": "|".join(channels),
         "sensor": int(kind in SENSOR_FAULTS)}
        for kind, first, last, channels in planned
    ]  # fmt: skip
    return table, pd.DataFrame(labels, columns=["kind", "start", "end", "channels", "sensor"])


def _modes(n: int, rng: np.random.Generator) -> np.ndarray:
    mode, stays = [], 0
    while stays < n:
        others = [m for m in (1, 2, 3) if not mode or m != mode[-1][0]]
        mode.append((int(rng.choice(others)), int(rng.integers(90, 240))))
        stays += mode[-1][1]
    return np.concatenate([np.full(stay, m) for m, stay in mode])[:n]


def _wander(n: int, rng: np.random.Generator, sd: float, minutes: float) -> np.ndarray:
    """A stationary process that forgets in so many minutes."""
    keep, steps, values = np.exp(-1 / minutes), rng.standard_normal(n), np.empty(n)
    value = sd * steps[0]
    for i in range(n):
        value = keep * value + sd * np.sqrt(1 - keep**2) * steps[i]
        values[i] = value
    return values


def _plan(
    n: int, faults: Sequence[str], rng: np.random.Generator, mode: np.ndarray
) -> list[tuple[str, int, int, tuple[str, ...]]]:
    planned, slot = [], n // max(1, len(faults))
    for place, kind in enumerate(faults):
        length = int(60 * HOURS[kind])
        if length + 60 > slot:
            raise ValueError(f"A fault needs time, however: {kind} lasts {HOURS[kind]} hours. Give more days.")
        first = place * slot + int(rng.integers(30, slot - length - 20))
        if kind == "context":  # where the plant asks for mode 1, as long as it does
            starts = range(place * slot + 30, (place + 1) * slot - length)
            first = next((i for i in starts if (mode[i : i + 90] == 1).all()), first)
            mode[first : first + 90] = 1
            length = min(length, int(np.argmin(np.append(mode[first : first + length] == 1, False))))
        sensors = {"drift": DRIFT, "freeze": SPIKE, "spikes": SPIKE}.get(kind)
        channels = (str(rng.choice(sorted(sensors))),) if sensors else CHANNELS[kind]
        planned.append((kind, first, first + length, channels))
    return planned


def _run(
    asked: np.ndarray,
    static: np.ndarray,
    level: np.ndarray,
    ambient: np.ndarray,
    rough: np.ndarray,
    flutter: np.ndarray,
    at: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Physics, minute by minute."""
    n = len(asked)
    true = {name: np.empty(n) for name in DECIMALS}
    speed, opening, lost = SPEED[int(asked[0])], OPENING[int(asked[0])], 0.0
    integral = opening
    winding = bearing = None
    for i in range(n):
        speed += (SPEED[int(asked[i])] - speed) * (1 - np.exp(-1 / 1.5))
        s = speed / 1480
        cavitates = at["cavitation"][i]
        weak = 1 - cavitates * (0.04 + 0.015 * flutter[i])
        resistance = 0.0012 + 0.0005 / opening**2
        flow = np.sqrt(max(62 * s**2 * weak - static[i], 1.0) / (0.00115 + resistance))
        head = 62 * s**2 * weak - 0.00115 * flow**2
        lost += (0.07 * at["leak"][i] - lost) / 10
        measured = flow * (1 - lost)
        error = (FLOW[int(asked[i])] - measured) / 120
        integral = float(np.clip(integral + 0.12 * error, 0.2, 0.95))
        if not at["sticking"][i]:
            opening += 0.6 * (float(np.clip(integral + 0.25 * error, 0.15, 1.0)) - opening)
        suction = 0.0981 * (level[i] - 0.00008 * flow**2 - 1.2 * cavitates * (1 + 0.1 * flutter[i]))
        off = (flow / s - 115) / 115
        power = 9.81 * flow * head / 3600 / (0.78 * (1 - 0.9 * off**2))
        current = power / 0.548
        vibration = (1.1 + 0.9 * s**2 + 1.2 * off**2) * (1 + 0.6 * cavitates)
        vibration *= np.exp((0.06 + 0.12 * cavitates) * rough[i])
        warm, warmer = ambient[i] + 18 * s**2 + 3 * (vibration - 1.5), ambient[i] + 10 + 0.045 * current**2
        bearing = warm if bearing is None else bearing + (warm - bearing) / 20
        winding = warmer if winding is None else winding + (warmer - winding) / 45
        for name, value in (
            ("speed_rpm", speed), ("flow_m3h", measured), ("suction_bar", suction),
            ("discharge_bar", suction + 0.0981 * head), ("valve_pct", 100 * opening), ("current_a", current),
            ("winding_c", winding), ("bearing_c", bearing), ("ambient_c", ambient[i]), ("vibration_mms", vibration),
        ):  # fmt: skip
            true[name][i] = value
    return true


def _misread(kind: str, channel: str, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(values)
    if kind == "freeze":
        return np.full(n, values[0])
    sign = rng.choice([-1, 1])
    if kind == "drift":
        return values + sign * DRIFT[channel] * np.linspace(0, 1, n)
    hit = rng.random(n) < 0.1
    return values + hit * rng.choice([-1, 1], n) * rng.uniform(1, 2, n) * SPIKE[channel]


def main() -> None:
    normal, _ = simulate(4, seed=0)
    mixed, labels = simulate(3, seed=1, faults=FAULTS, start="2026-03-09T00:00Z")
    normal.to_csv(HERE / "pump_normal.csv", index=False)
    mixed.to_csv(HERE / "pump_mixed.csv", index=False)
    labels.to_csv(HERE / "pump_labels.csv", index=False)


if __name__ == "__main__":
    main()
