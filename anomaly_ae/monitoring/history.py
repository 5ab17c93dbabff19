"""Batch after batch of one model and one asset: what is found in each, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.errors import ConfigError
from anomaly_ae.monitoring.drift import LEVEL, alarms_by_chance, can_tell, feature_drift, rate_interval, score_drift
from anomaly_ae.monitoring.martingale import Martingale
from anomaly_ae.monitoring.profile import Counts, Profile
from anomaly_ae.promise import percent, promised

Array = NDArray[np.float64]
EVER = 0.01  # probability that the martingale of exchangeable scores ever alarms
RARE = f"the chance of that in normal operation is below 1 in {1 / LEVEL:,.0f}"
GATES = ("alarms", "scores", "features", "martingale")
KEPT = 1000  # batches that a history has in full


@dataclass(frozen=True)
class Normal:
    """What a model promises and remembers: its profile, sorted calibrate scores `(m,)`, its rate of false alarms."""

    profile: Profile
    calibration: Array
    promised: float | None

    @classmethod
    def of(cls, detector: Any) -> Normal:
        """That of a fitted detector of rows or of series; raises ConfigError where it has no profile."""
        if detector.profile_ is None:
            raise ConfigError(
                "Monitoring needs a model with a profile of normal rows, however: this one was fitted without one. Fit "
                "it again with this version."
            )
        return cls(detector.profile_, detector.calibration_scores_, promised(detector))

    def martingale(self) -> Martingale:
        """One that knows the calibrate scores, where those of new rows are exchangeable with them."""
        return Martingale() if self.profile.factor > 1 else Martingale.of(self.calibration)


@dataclass(frozen=True)
class Evidence:
    """What is kept of a batch of rows: counts, alarms, and every `step`-th score, in order."""

    counts: Counts
    alarms: int
    scores: Array
    step: int


@dataclass
class History:
    """The batches of one model and asset so far, in order of their event times, and the martingale over all of them.

    A batch is known by its digest: one that comes again changes nothing. One that comes late takes its place among the
    others by its event time; the martingale bets in the order of arrival. `minute` is its own: of those that come
    within one, the later ones have the next.
    """

    martingale: Martingale
    batches: list[dict[str, Any]] = field(default_factory=list)
    origin: str | None = None  # event time of the batch that came first

    def find(self, digest: str) -> dict[str, Any] | None:
        """What was found in a batch, if it was here before."""
        return next((batch for batch in self.batches if batch["digest"] == digest), None)

    def add(self, normal: Normal, evidence: Evidence, digest: str, event_time: datetime, name: str) -> dict[str, Any]:
        """Judge a batch and remember it; plain data. `minute` is when it was, since the first batch that came."""
        apart = 1 if normal.profile.score_time == 1 else 2 * normal.profile.score_time
        thin = max(1, math.ceil(apart / evidence.step))
        rng = np.random.default_rng(list(digest.encode()))
        already = self.martingale.highest >= math.log10(1 / EVER)
        self.martingale.update(evidence.scores[::thin], rng)
        found = judged(normal, evidence, self.martingale, already)
        when = event_time.astimezone(UTC).isoformat(timespec="seconds")
        self.origin = self.origin or when
        minute = (datetime.fromisoformat(when) - datetime.fromisoformat(self.origin)).total_seconds() / 60
        step, taken = round(minute), {batch["minute"] for batch in self.batches}
        while step in taken:  # of two points at one step a chart shows one
            step += 1
        batch = {"digest": digest, "name": name, "event_time": when, "minute": step, **found}
        self.batches.append(dict(batch))
        self.batches.sort(key=lambda batch: batch["event_time"])
        for earlier in self.batches[:-1]:
            earlier.pop("features", None)  # a page shows those of the last one, and a state stays small
        del self.batches[:-KEPT]
        return batch

    def to_json(self) -> dict[str, Any]:
        """The history as plain data."""
        return {"martingale": self.martingale.to_json(), "batches": self.batches, "origin": self.origin}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> History:
        """The history that `to_json` gave; raises KeyError or TypeError at anything else."""
        return cls(Martingale.from_json(data["martingale"]), list(data["batches"]), data["origin"])


def judged(normal: Normal, evidence: Evidence, martingale: Martingale, already: bool = False) -> dict[str, Any]:
    """What is found in a batch, as plain data; `already` says that the martingale alarmed before it came.

    `tells` says whether there are rows enough to find anything in them.
    """
    rows, time = evidence.counts.rows, normal.profile.score_time
    low, high = rate_interval(evidence.alarms, rows, time)
    score = score_drift(evidence.scores, normal.calibration, time, normal.profile.factor, evidence.step)
    features = feature_drift(normal.profile, evidence.counts)
    drifting = [feature.name for feature in features if feature.drifts]
    level = math.log10(1 / EVER)
    alarm = martingale.highest >= level
    rate = normal.promised
    crossed = {
        "alarms": rate is not None
        and alarms_by_chance(evidence.alarms, rows, rate, len(normal.calibration), time) < LEVEL,
        "scores": score.p_value < LEVEL,
        "features": bool(drifting),
        "martingale": alarm,
    }
    findings = []
    if rate is not None and crossed["alarms"]:
        findings.append(
            f"{evidence.alarms / rows:.1%} of the rows alarm (95 % interval {low:.1%} to {high:.1%}), where at most "
            f"{percent(rate)} is expected of normal rows."
        )
    if crossed["scores"]:
        findings.append(f"Scores are higher than at fit: {RARE} (distance {score.ks:.2f}, p {_p(score.p_value)}).")
    findings += [
        f"{one.name} has drifted, by {one.why}{'' if number else f': {RARE}'} (adjusted p {_p(one.adjusted)})."
        for number, one in enumerate([feature for feature in features if feature.drifts][:5])
    ]
    if len(drifting) > 5:
        findings.append(f"{len(drifting) - 5} more columns have drifted.")
    if affected := [feature.name for feature in features if feature.affected]:
        named = ", ".join(affected[:5]) + (", ..." if len(affected) > 5 else "")
        findings.append(f"Beside them these count for more in the scores, and have not moved themselves: {named}.")
    if alarm and not already:
        findings.append(
            "Scores have drifted upward over time: in normal operation the chance that this is ever said is at most "
            f"{EVER:.0%} (a bet on it has grown {_fold(martingale.highest)}; it is said from {1 / EVER:.0f}-fold on)."
        )
    return {
        "rows": rows,
        "tells": can_tell(rows, rate, len(normal.calibration), time, normal.profile.factor),
        "alarms": evidence.alarms,
        "alarm_rate": evidence.alarms / rows,
        "alarm_interval": [low, high],
        "promised": rate,
        "score": asdict(score),
        "martingale": {"log10": martingale.log10, "highest": martingale.highest, "level_log10": level, "alarm": alarm},
        "drifting": drifting,
        "crossed": [name for name, is_so in crossed.items() if is_so],
        "findings": findings,
        "features": [asdict(feature) for feature in features],
    }


def _p(p_value: float) -> str:
    return "< 1e-300" if p_value < 1e-300 else f"= {p_value:.1e}"


def _fold(log10: float) -> str:
    return f"{10**log10:,.0f}-fold" if log10 < 6 else "more than 1,000,000-fold"
