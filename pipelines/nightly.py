"""Score last night's file, watch what it says of the model, and refit the model where a gate is crossed.

python pipelines/nightly.py model night.csv scores.csv --normal normal.csv --candidate candidate

The candidate learns from rows that people take for normal. It replaces nothing by itself: score a file with
`--challenger candidate`, then move it into place (or `anomaly-ae promote`, with --register). The same call again does
nothing that is done already, wherever it was interrupted.
"""

import argparse
from pathlib import Path

from anomaly_ae import load, score_file
from anomaly_ae.monitoring.history import GATES
from anomaly_ae.ops.monitoring import monitor
from anomaly_ae.ops.refitting import refit
from anomaly_ae.ops.tracking import digest

REFITS = ["scores", "features", "martingale"]  # alarms alone may be a bad night


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("input", type=Path, help="file to score")
    parser.add_argument("output", type=Path, help="file for scores")
    parser.add_argument("--normal", type=Path, required=True, help="file of newer normal rows to learn from")
    parser.add_argument("--candidate", type=Path, required=True, help="folder for the refitted model")
    parser.add_argument("--asset", default="", help="which machine, site or customer the rows are of")
    parser.add_argument("--gate", action="append", choices=GATES, help=f"what makes it refit; else {', '.join(REFITS)}")
    parser.add_argument("--register", help="registered model that gets the candidate as a challenger")
    given = parser.parse_args()
    report = given.output.with_suffix(".html")
    done = score_file(
        given.model, given.input, given.output, asset=given.asset, remember=True, track=True, report=report
    )
    print(f"{given.input.name}: {done.alarms} alarms in {done.scored} rows; {given.output}, {report}")
    if done.monitoring is None:  # the job was cut off after the scores
        crossed = monitor(given.model, given.input, asset=given.asset, track=True).crossed
    else:
        crossed = done.monitoring["crossed"]
    if not set(crossed) & set(given.gate or REFITS):
        return print("the model is as it was")
    if learned(given.candidate, given.model, given.normal):
        return print(f"{given.candidate} has learned from {given.normal.name} already")
    made = refit(given.model, given.normal, given.candidate, overwrite=True, track=True, register=given.register)
    print(f"{', '.join(crossed)}: {made.model} learned from {made.rows} rows of {given.normal.name}")
    return None


def learned(candidate: Path, model: Path, normal: Path) -> bool:
    """Whether a candidate comes from this model by these rows."""
    if not (candidate / "manifest.json").is_file():
        return False
    parent = load(candidate).lineage_[-1:] or [{}]
    return (parent[0].get("digest"), parent[0].get("data_digest")) == (digest(model / "manifest.json"), digest(normal))


if __name__ == "__main__":
    main()
