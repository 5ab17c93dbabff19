"""Fit the detector of a YAML file on a table of normal rows, write a model folder, log a run in MLflow.

python pipelines/train.py configs/breast_cancer.yaml sample_data/breast_cancer_benign.csv model
"""

import argparse
from pathlib import Path

from anomaly_ae.ops import fitting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML file of a detector")
    parser.add_argument("data", type=Path, help="CSV or Parquet file of normal rows")
    parser.add_argument("model", type=Path, help="folder to write the model to")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there already")
    given = parser.parse_args()
    print(fitting.fit(given.data, given.model, given.config, overwrite=given.overwrite))


if __name__ == "__main__":
    main()
