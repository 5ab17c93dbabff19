"""The script that people write: pandas reads, PyOD's autoencoder fits and scores, pandas writes.

python pipelines/pyod_script.py normal.csv new.csv scores.csv
"""

import sys

import pandas as pd
from pyod.models.auto_encoder import AutoEncoder
from sklearn.preprocessing import StandardScaler

read = pd.read_csv if sys.argv[1].endswith(".csv") else pd.read_parquet
normal, new = read(sys.argv[1]), read(sys.argv[2])
scaler = StandardScaler().fit(normal)
detector = AutoEncoder(verbose=0).fit(scaler.transform(normal))
score = detector.decision_function(scaler.transform(new))
scores = pd.DataFrame({"score": score, "is_anomaly": score > detector.threshold_})
scores.to_csv(sys.argv[3]) if sys.argv[3].endswith(".csv") else scores.to_parquet(sys.argv[3])
