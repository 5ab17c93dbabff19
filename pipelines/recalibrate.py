"""Set a model's threshold and p-values anew by newer normal rows; what it learned stays, log a run in MLflow.

python pipelines/recalibrate.py model normal.csv recalibrated
"""

import argparse
from pathlib import Path

from anomaly_ae.ops.refitting import refit, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("data", type=Path, help="CSV or Parquet file of normal rows that are new to the model")
    parser.add_argument("to", type=Path, help="folder for the recalibrated model")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there already")
    given = parser.parse_args()
    print(told(refit(given.model, given.data, given.to, how="threshold", overwrite=given.overwrite, track=True)))


if __name__ == "__main__":
    main()
