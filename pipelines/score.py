"""Score a table with a model folder, write one row of output a row of input, log a run in MLflow.

python pipelines/score.py model sample_data/breast_cancer_mixed.csv scores.csv
"""

import argparse
from pathlib import Path

from anomaly_ae import score_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder that train.py wrote")
    parser.add_argument("input", type=Path, help="CSV or Parquet file to score")
    parser.add_argument("output", type=Path, help="file to write scores to: CSV, or Parquet by its ending")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there already")
    given = parser.parse_args()
    print(score_file(given.model, given.input, given.output, overwrite=given.overwrite, remember=True, track=True))


if __name__ == "__main__":
    main()
