"""Compare scores with labels that were kept aside, row by row.

python pipelines/compare.py scores.csv sample_data/breast_cancer_labels.csv --label malignant
"""

import argparse
from pathlib import Path

import pandas as pd
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, help="CSV file that anomaly-ae score wrote")
    parser.add_argument("labels", type=Path, help="CSV file with a column `row` and the labels")
    parser.add_argument("--label", required=True, help="column of the labels, 1 for an anomaly")
    given = parser.parse_args()
    both = pd.read_csv(given.scores).merge(pd.read_csv(given.labels), on="row", validate="1:1")
    truth, alarm, score = both[given.label], both["is_anomaly"], both["anomaly_score"]
    normal = truth == 0
    print(f"labels    {int(truth.sum())} of {len(both)} rows are {given.label}")
    print(f"precision {precision_score(truth, alarm):.3f}   of the alarms, how many are")
    print(f"recall    {recall_score(truth, alarm):.3f}   of those, how many raised an alarm")
    print(f"false     {alarm[normal].mean():.3f}   of the other rows, how many raised an alarm")
    print(f"AUROC     {roc_auc_score(truth, score):.3f}")
    print(f"AP        {average_precision_score(truth, score):.3f}   a random order has {truth.mean():.3f}")


if __name__ == "__main__":
    main()
