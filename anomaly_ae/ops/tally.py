"""What has come of a scoring job: while it goes on, how many bad rows it may have, and what is said at the end."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import numpy as np

from anomaly_ae.data.rejects import Reject
from anomaly_ae.errors import BadRowsError, ConfigError
from anomaly_ae.monitoring.history import Evidence
from anomaly_ae.monitoring.profile import Counts
from anomaly_ae.ops.verdicts import AGREEMENT, TOP_ROWS, Told
from anomaly_ae.promise import promised

SAMPLE = 4096  # scores kept for the histogram, half as many at least
Ranked = tuple[float, int, dict[str, Any]]  # a row by its strangeness; ties go to the earlier row


@dataclass(frozen=True)
class ScoreSummary:
    """What a scoring job was: for people, for `--json`, and for the run in MLflow.

    `rows` of the input are `scored` or `rejected`. `resumed_rows` of them were scored by an earlier process, all of
    them where the job was `complete_already`. `challenger` is what a second model says beside the first: `model`,
    `threshold`, `promised_false_alarm_rate`, `alarms`, the table of agreement `both`, `champion_only`,
    `challenger_only`, `neither`, and the strongest `disagreements`. `monitoring` is how far these rows have moved from
    those of the fit: see `anomaly_ae.monitoring.history.judged`.
    """

    model: str
    inputs: list[str]
    output: str
    rows: int
    scored: int
    rejected: int
    rejects: str | None
    alarms: int
    alarm_rate: float
    promised_false_alarm_rate: float | None
    threshold: float
    ignored_columns: list[str]
    top_anomalies: list[dict[str, Any]]
    seconds: float
    empty_inputs: list[str] = field(default_factory=list)  # those without a row, beside others
    p_value_resolution: float = 0.0  # the least p-value there can be
    challenger: dict[str, Any] | None = None
    monitoring: dict[str, Any] | None = None
    resumed_rows: int = 0
    complete_already: bool = False
    run_id: str | None = None
    tracking_uri: str | None = None

    def in_a_run(self, samples: int) -> dict[str, Any]:
        """What a run may hold of it: names of files instead of paths, and values of rows only of so many of them."""
        told: dict[str, Any] = {**vars(self)}
        for names in ("inputs", "empty_inputs"):
            told[names] = [Path(name).name for name in told[names]]
        told["top_anomalies"] = [_placed(row) for row in self.top_anomalies[:samples]]
        if self.challenger is not None:
            disagreements = [_placed(row) for row in self.challenger["disagreements"][:samples]]
            told["challenger"] = {**self.challenger, "disagreements": disagreements}
            told["challenger"]["model"] = nameless(self.challenger["model"])
        told["model"] = nameless(self.model)
        for name in ("output", "rejects"):
            told[name] = told[name] and Path(told[name]).name
        for name in ("run_id", "tracking_uri"):
            del told[name]
        return told


def nameless(model: str) -> str:
    """A model as a run may name it: a folder without where it is, one of a registry as it is."""
    return model if model.startswith(("models:/", "runs:/")) else Path(model).name


def _placed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "file": Path(row["file"]).name} if "file" in row else dict(row)


@dataclass(frozen=True)
class Allowed:
    """How many bad rows are too many: more than so many, or than such a share of all."""

    count: float
    share: float

    @classmethod
    def of(cls, told: str | int) -> Self:
        """From `100` or `"1%"`."""
        text = str(told).strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = -1.0
        if not number >= 0 or (text.endswith("%") and number > 100):
            raise ConfigError(f"Bad rows are allowed by number or share, however: {told!r}. Try 100 or 1%.")
        return cls(np.inf, number / 100) if text.endswith("%") else cls(number, np.inf)

    def suffices(self, rejected: int, rows: int) -> bool:
        """Whether so many bad rows of all are allowed."""
        return rejected <= self.count and rejected <= self.share * rows

    def told(self) -> str:
        """In words."""
        return f"{self.count:g}" if np.isfinite(self.count) else f"{100 * self.share:.4g} % of all"


@dataclass
class Tally:
    """What has come of a job so far; all of it fits into a checkpoint."""

    kept: int = TOP_ROWS  # so many of the strangest rows
    rows: int = 0
    scored: int = 0
    rejected: int = 0
    alarms: int = 0
    strangest: list[Ranked] = field(default_factory=list)
    sample: list[float] = field(default_factory=list)  # every `step`-th score
    step: int = 1
    resumed: int = 0
    agreement: list[int] = field(default_factory=lambda: [0] * len(AGREEMENT))
    disputed: list[Ranked] = field(default_factory=list)
    counts: Counts | None = None
    first_reject: str = ""  # where the first bad row is, and what is wrong with it
    remedy: str = ""  # which option may have it read
    empty: list[str] = field(default_factory=list)  # files without a row
    record: str = field(default_factory=lambda: uuid4().hex)  # the job's run, whichever process logs it

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """One that was in a checkpoint, to go on from."""
        tally = cls(**{**told, "counts": told["counts"] and Counts.from_json(told["counts"])})
        tally.strangest = [tuple(row) for row in tally.strangest]  # type: ignore[misc]
        tally.disputed = [tuple(row) for row in tally.disputed]  # type: ignore[misc]
        tally.resumed = tally.scored
        return tally

    def to_json(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {**vars(self), "counts": self.counts and self.counts.to_json()}

    def evidence(self) -> Evidence | None:
        """What monitoring needs of all rows; None where the model has no profile."""
        if self.counts is None:
            return None
        return Evidence(self.counts, self.alarms, np.asarray(self.sample), self.step)

    def add(self, told: Told, file: dict[str, str], rejects: Sequence[Reject]) -> None:
        """Count what is said of a block."""
        first = -self.scored % self.step
        self.sample += told.scores[first :: self.step].tolist()
        while len(self.sample) > SAMPLE:
            self.sample, self.step = self.sample[::2], 2 * self.step
        self.strangest = self._foremost(self.strangest, [(row["anomaly_score"], row) for row in told.strangest], file)
        self.disputed = self._foremost(self.disputed, told.disputed, file)
        self.agreement = [one + more for one, more in zip(self.agreement, told.agreement, strict=True)]
        if told.counts is not None:
            self.counts = told.counts if self.counts is None else self.counts + told.counts
        self.rows += len(told.scores) + len(rejects)
        self.scored += len(told.scores)
        self.rejected += len(rejects)
        if rejects and not self.first_reject:
            self.first_reject, self.remedy = f"{rejects[0].place}: {rejects[0].reason}", rejects[0].remedy
        self.alarms += told.alarms

    def _foremost(
        self, there: list[Ranked], more: Sequence[tuple[float, dict[str, Any]]], file: dict[str, str]
    ) -> list[Ranked]:
        ranked = [(rank, -(self.scored + k), {**file, **row}) for k, (rank, row) in enumerate(more)]
        return heapq.nlargest(self.kept, there + ranked, key=lambda row: row[:2])

    def beside(self, model: str, detector: Any) -> dict[str, Any]:
        """What a summary says of the challenger."""
        agreement = dict(zip(AGREEMENT, self.agreement, strict=True))
        return {
            "model": model,
            "threshold": detector.threshold_.value_,
            "promised_false_alarm_rate": promised(detector),
            "alarms": agreement["both"] + agreement["challenger_only"],
            **agreement,
            "disagreements": [row for _, _, row in self.disputed],
        }


def too_many(
    rejected: int, rows: int, allowed: Allowed, first: str, rejects: Path | None, remedy: str = "", lacks: str = ""
) -> BadRowsError:
    """What to raise then; the `first` bad row says why, and the file of `rejects` of each; a `remedy` may be known.

    A job that `lacks` "times" or "rows" has none at all that can be read.
    """
    such = f" (the first: {first})" if first else ""
    where = "" if rejects is None else f" ({rejects} says what is wrong with each)"
    found = f"none of {rows:,} {lacks} can be read" if lacks else f"{rejected:,} of {rows:,}"
    more = "" if lacks else "have score allow more (--max-bad-rows)"
    ways = [way for way in (f"Repair them{where}", remedy, more) if way]
    return BadRowsError(
        f"A job may have bad rows, at most {allowed.told()}, however: {found}{such}. "
        f"{', or '.join(filter(None, [', '.join(ways[:-1]), ways[-1]]))}.",
        rows=rows,
        rejected=rejected,
        rejects=None if rejects is None else str(rejects),
    )
