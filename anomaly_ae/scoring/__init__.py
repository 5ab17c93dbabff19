"""From a pass to a verdict: scores, thresholds, p-values and who is to blame."""
