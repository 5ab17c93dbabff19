"""Anomaly detection for tabular and sensor data with autoencoders and variational autoencoders.

Names load when they are used, so that `import anomaly_ae` and the shell's `--help` are quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anomaly_ae.version import __version__ as __version__

if TYPE_CHECKING:
    from anomaly_ae.adapters import PyODDetector as PyODDetector
    from anomaly_ae.adapters import as_pyod as as_pyod
    from anomaly_ae.composites import save as save
    from anomaly_ae.data.context import *
    from anomaly_ae.data.preprocessing import *
    from anomaly_ae.detectors import AutoencoderDetector as AutoencoderDetector
    from anomaly_ae.detectors import VAEDetector as VAEDetector
    from anomaly_ae.loading import load as load
    from anomaly_ae.nn.aggregated import *
    from anomaly_ae.nn.backbones import *
    from anomaly_ae.nn.classes import *
    from anomaly_ae.nn.codebooks import *
    from anomaly_ae.nn.contamination import *
    from anomaly_ae.nn.corruptions import *
    from anomaly_ae.nn.discrete import *
    from anomaly_ae.nn.divergences import *
    from anomaly_ae.nn.graphs import *
    from anomaly_ae.nn.hierarchy import *
    from anomaly_ae.nn.information import *
    from anomaly_ae.nn.latents import *
    from anomaly_ae.nn.likelihoods import *
    from anomaly_ae.nn.penalties import *
    from anomaly_ae.nn.priors import *
    from anomaly_ae.nn.recurrent import *
    from anomaly_ae.nn.relaxed import *
    from anomaly_ae.nn.temporal import *
    from anomaly_ae.nn.terms import *
    from anomaly_ae.ops.batches import score_batches as score_batches
    from anomaly_ae.ops.scoring import score_file as score_file
    from anomaly_ae.scoring.disagreement import *
    from anomaly_ae.scoring.fusion import *
    from anomaly_ae.scoring.known import *
    from anomaly_ae.scoring.linear import *
    from anomaly_ae.scoring.neighbours import *
    from anomaly_ae.scoring.scorers import *
    from anomaly_ae.scoring.thresholds import *
    from anomaly_ae.scoring.variational import *
    from anomaly_ae.scoring.whitening import *
    from anomaly_ae.series.detector import SeriesDetector as SeriesDetector
    from anomaly_ae.series.events import *
    from anomaly_ae.series.spectra import Envelope as Envelope
    from anomaly_ae.series.spectra import LogMel as LogMel
    from anomaly_ae.series.spectra import Spectrogram as Spectrogram
    from anomaly_ae.series.spectra import frames as frames
    from anomaly_ae.series.views import *
    from anomaly_ae.transfer import PretrainedClassifier as PretrainedClassifier
    from anomaly_ae.transfer import PretrainedRegressor as PretrainedRegressor

_HOMES = {
    "AutoencoderDetector": "anomaly_ae.detectors",
    "Envelope": "anomaly_ae.series.spectra",
    "LogMel": "anomaly_ae.series.spectra",
    "PretrainedClassifier": "anomaly_ae.transfer",
    "PretrainedRegressor": "anomaly_ae.transfer",
    "PyODDetector": "anomaly_ae.adapters",
    "SeriesDetector": "anomaly_ae.series.detector",
    "Spectrogram": "anomaly_ae.series.spectra",
    "VAEDetector": "anomaly_ae.detectors",
    "as_pyod": "anomaly_ae.adapters",
    "frames": "anomaly_ae.series.spectra",
    "load": "anomaly_ae.loading",
    "save": "anomaly_ae.composites",
    "score_batches": "anomaly_ae.ops.batches",
    "score_file": "anomaly_ae.ops.scoring",
}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted([*_HOMES, *import_module("anomaly_ae.storage").vocabulary()])
    missing = AttributeError(f"module 'anomaly_ae' has no attribute {name!r}")
    if name not in _HOMES and not name[:1].isupper():  # modules and Python's own questions
        raise missing
    source = import_module(_HOMES.get(name, "anomaly_ae.storage"))
    found = getattr(source, name) if name in _HOMES else source.vocabulary().get(name)
    if found is None:
        raise missing
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__getattr__("__all__")])
