"""Write the breast-cancer sample: scikit-learn's bundled table, divided by a fixed seed.

`breast_cancer_benign.csv`  257 benign rows to learn from
`breast_cancer_mixed.csv`   100 other benign rows and all 212 malignant ones, shuffled, to score
`breast_cancer_labels.csv`  for each row of the mixed file, by its number, whether it is malignant
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

HERE = Path(__file__).parent


def main() -> None:
    table = load_breast_cancer(as_frame=True)
    rows = table.data.rename(columns=lambda name: name.replace(" ", "_"))
    malignant = table.target == table.target_names.tolist().index("malignant")
    rng = np.random.default_rng(0)
    benign = rng.permutation(np.flatnonzero(~malignant))
    mixed = rng.permutation(np.concatenate([benign[257:], np.flatnonzero(malignant)]))
    rows.iloc[benign[:257]].to_csv(HERE / "breast_cancer_benign.csv", index=False)
    sample = rows.iloc[mixed]
    sample.insert(0, "patient", [f"P{number:03d}" for number in mixed])
    sample.to_csv(HERE / "breast_cancer_mixed.csv", index=False)
    labels = malignant.iloc[mixed].astype(int).to_frame("malignant")
    labels.insert(0, "row", np.arange(1, len(mixed) + 1))
    labels.to_csv(HERE / "breast_cancer_labels.csv", index=False)


if __name__ == "__main__":
    main()
