"""Write the bearing sample: envelope spectra of simulated vibration, one row for each half second of a record.

`bearing_healthy.csv`  200 records of a healthy machine, to learn from
`bearing_mixed.csv`    100 other healthy records, and 60 with a damaged outer race, shuffled, to score
`bearing_labels.csv`   for each row of the mixed file, by its number, whether the race was damaged

The machine: a shaft at 30 Hz (give or take 1 %) with unbalance, a gear that meshes 23 times a turn, broadband noise,
friction whose level differs from record to record, and now and then a knock from outside; a ball bearing of 9 balls of
7.94 mm on a pitch circle of 39.04 mm. Each ball that rolls over a damage in the outer race strikes once; strikes come
at the rate

    f = (balls / 2) * (1 - ball / pitch * cos(angle)) * shaft = 3.58 turns,  107.5 Hz at 30 Hz

but for slip of 1 %, and each excites a resonance of the housing at 3 kHz that decays within 2 ms. So do friction and
knocks: that there is more of 3 kHz says little, that it comes and goes 107 times a second says it all.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.signal import fftconvolve

from anomaly_ae import Envelope

HERE = Path(__file__).parent
RATE = 12_000  # samples a second
SHAFT = 30.0  # Hz
STRIKES = 9 / 2 * (1 - 7.94 / 39.04)  # of the outer race, a turn
RESONANCE, DECAY = 3_000.0, 0.002  # Hz, s
SPECTRA = Envelope(rate=RATE, band=(2_000, 4_000), highest=500, length=RATE // 8)


def vibration(seconds: float, damage: float = 0.0, seed: int = 0) -> np.ndarray:
    """Acceleration at `RATE`, noise of standard deviation 1; `damage` is the peak of a strike."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    t = np.arange(n) / RATE
    shaft = SHAFT * (1 + 0.01 * rng.uniform(-1, 1))
    turn = 2 * np.pi * shaft * t + rng.uniform(0, 2 * np.pi)
    load = rng.uniform(0.8, 1.2)
    x = load * (0.8 * np.sin(turn) + 0.2 * np.sin(2 * turn) + 0.3 * np.sin(23 * turn)) + rng.normal(size=n)
    knocks = rng.uniform(0, seconds, rng.poisson(0.5 * seconds))
    x += ringing(t, knocks, rng.uniform(1, 3, len(knocks)))
    decay = np.exp(-t[: int(8 * DECAY * RATE)] / DECAY)
    friction = fftconvolve(rng.normal(size=n), decay * np.sin(2 * np.pi * RESONANCE * t[: len(decay)]), "same")
    x += rng.uniform(0, 1) * friction / friction.std()
    if damage:
        gaps = (1 + 0.01 * rng.normal(size=int(1.2 * STRIKES * shaft * seconds) + 2)) / (STRIKES * shaft)
        strikes = gaps.cumsum() - gaps[0] * rng.random()
        x += ringing(t, strikes, damage * rng.uniform(0.7, 1.3, len(strikes)))
    return x


def ringing(t: np.ndarray, times: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """The resonance, struck at `times`."""
    x = np.zeros_like(t)
    for time, peak in zip(times, peaks, strict=True):
        start = int(np.ceil(time * RATE))
        after = t[start : start + int(8 * DECAY * RATE)] - time
        x[start : start + len(after)] += peak * np.exp(-after / DECAY) * np.sin(2 * np.pi * RESONANCE * after)
    return x


def main() -> None:
    damage = np.random.default_rng(0).permutation([0.0] * 100 + [3.0] * 60)
    healthy = np.stack([vibration(0.5, 0.0, seed) for seed in range(200)])
    mixed = np.stack([vibration(0.5, peak, 200 + i) for i, peak in enumerate(damage)])
    for name, records in (("healthy", healthy), ("mixed", mixed)):
        spectra = SPECTRA.set_output(transform="pandas").fit_transform(records)
        spectra.round(2).to_csv(HERE / f"bearing_{name}.csv", index=False)
    labels = pd.DataFrame({"row": np.arange(1, len(damage) + 1), "damaged": (damage > 0).astype(int)})
    labels.to_csv(HERE / "bearing_labels.csv", index=False)


if __name__ == "__main__":
    main()
