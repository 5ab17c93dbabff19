"""YAML to detector and back. The tree is the constructor call; a name is a public class of the package.

AutoencoderDetector:
  latent:
    Point: {dim: 8}
  random_state: 0
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from anomaly_ae.detectors import DETECTORS
from anomaly_ae.errors import ConfigError
from anomaly_ae.estimator import Detector
from anomaly_ae.series.detector import SERIES_DETECTORS, SeriesDetector
from anomaly_ae.storage import from_tree, to_tree, vocabulary

ALL = {**DETECTORS, **SERIES_DETECTORS}


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads 1e-3 as the number it is."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if repeated := {str(key) for key in keys if keys.count(key) > 1}:
            line = node.start_mark.line + 1
            raise ConfigError(
                f"A configuration needs each key once, however: {sorted(repeated)} below line {line}. Leave one out."
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def loads(text: str, where: str = "the configuration") -> Detector | SeriesDetector:
    """Make the unfitted detector that a YAML text describes.

    Raises
    ------
    ConfigError
        When the text is no YAML, names what does not exist (the nearest that does is named), or is no detector.

    Examples
    --------
    >>> from anomaly_ae.config import loads
    >>> loads("VAEDetector: {divergence: {KL: {beta: 4}}}")
    VAEDetector(divergence=KL(beta=4))
    """
    try:
        tree = _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} needs YAML, however: {' '.join(str(error).split())}. Repair it.") from error
    detector = from_tree(tree, {**vocabulary(), **ALL}, where)
    if not isinstance(detector, Detector | SeriesDetector):
        raise ConfigError(
            f"{where} needs a detector at the top, however: {str(tree)[:60]!r}. Begin with {' or '.join(ALL)}."
        )
    return detector


def load(path: str | os.PathLike[str]) -> tuple[Detector | SeriesDetector, str]:
    """The detector that a YAML file describes, and the file's text."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"A configuration needs a text file, however: {path}: {error}. Check the path.") from error
    return loads(text, str(path)), text


def dumps(detector: Detector | SeriesDetector) -> str:
    """The YAML that `loads` turns back into an equal detector; defaults are left out."""
    return yaml.safe_dump(to_tree(detector, spell_out=False), sort_keys=False)
