"""How good a detector is where labels are known: rows, events, codes, and rows that are not as clean as they were."""

from anomaly_ae.evaluation.detection import Detection, evaluate, evaluate_scores
from anomaly_ae.evaluation.events import EventDetection, evaluate_events
from anomaly_ae.evaluation.representation import cluster_agreement, dci, mcc, mig, sap
from anomaly_ae.evaluation.robustness import robustness_curves

__all__ = [
    "Detection",
    "EventDetection",
    "cluster_agreement",
    "dci",
    "evaluate",
    "evaluate_events",
    "evaluate_scores",
    "mcc",
    "mig",
    "robustness_curves",
    "sap",
]
