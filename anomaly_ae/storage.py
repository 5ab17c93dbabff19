"""A model as a folder, without pickle: JSON for what it is, safetensors for its numbers, digests for trust.

`manifest.json` holds the format's version and the SHA-256 of every other file; `config.json` the constructor call as
a tree and the fitted facts; `weights.safetensors` the nets, equal tensors once, its metadata naming the others;
`arrays.safetensors` everything else with a shape; `history.csv` the learning curves. Scorers that remember rows
(`Neighbours`, `LocalDenoiser`) store them, standardised and bent; nothing else of the training rows is in it but each
column's range and categories, and the names of groups of series. Loading runs no code from the folder.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy
import safetensors.torch
from sklearn.base import BaseEstimator
from torch import Tensor

from anomaly_ae.data.drafts import sync, written_to
from anomaly_ae.errors import ConfigError, ModelFolderError, OutputError

FORMAT = "anomaly_ae model"
VERSION = 2  # 1 wrote equal tensors several times
SAME = "same"  # in the metadata of weights: which names stand for which tensor
FILES = ("config.json", "weights.safetensors", "arrays.safetensors", "history.csv")
ROOMS = (
    "data.context",
    "data.preprocessing",
    "nn.aggregated",
    "nn.backbones",
    "nn.classes",
    "nn.codebooks",
    "nn.contamination",
    "nn.corruptions",
    "nn.discrete",
    "nn.divergences",
    "nn.graphs",
    "nn.hierarchy",
    "nn.information",
    "nn.latents",
    "nn.likelihoods",
    "nn.penalties",
    "nn.priors",
    "nn.recurrent",
    "nn.relaxed",
    "nn.temporal",
    "nn.terms",
    "scoring.disagreement",
    "scoring.fusion",
    "scoring.known",
    "scoring.linear",
    "scoring.neighbours",
    "scoring.scorers",
    "scoring.thresholds",
    "scoring.variational",
    "scoring.whitening",
    "series.events",
    "series.views",
)
RATES, RATE = ("alpha", "contamination"), "Write threshold: {Conformal: {alpha: 0.01}}."  # of what promises it


@functools.cache
def vocabulary() -> dict[str, type]:
    """Every part of the package by its name: what configurations may name. A part enters by its file's `__all__`."""
    modules = [importlib.import_module(f"anomaly_ae.{room}") for room in ROOMS]
    return {name: getattr(module, name) for module in modules for name in module.__all__}


# --- objects as trees: {"ClassName": {parameter: value}} -------------------------------------------------------------


def to_tree(value: Any, spell_out: bool = True) -> Any:
    """The constructor call of an estimator as plain data.

    `spell_out` writes every parameter, for defaults may change; otherwise those at their default are left out.
    """
    if isinstance(value, BaseEstimator):
        tree = {name: to_tree(v, spell_out) for name, v in value.get_params(deep=False).items()}
        if not spell_out:
            default = to_tree(type(value)())[type(value).__name__]
            tree = {name: v for name, v in tree.items() if v != default[name]}
        return {type(value).__name__: tree}
    if isinstance(value, list | tuple):
        return [to_tree(item, spell_out) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return to_tree(value.tolist(), spell_out)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"A model folder stores numbers, words and parts, however: {value!r}. Give the parameter such a value before "
        "saving (an integer as random_state, say)."
    )


def from_tree(tree: Any, names: Mapping[str, type], where: str = "the configuration") -> Any:
    """Make the object that a tree describes; a bare class name stands for the class with its defaults.

    Where a parameter takes any text, as the name of a column, text is text.

    Raises
    ------
    ConfigError
        At a name or parameter that does not exist; names the nearest one that does.
    """
    if isinstance(tree, str) and tree in names:
        tree = {tree: {}}
    if isinstance(tree, str) and tree[:1].isupper() and _close(tree, names):
        raise ConfigError(f"{where} needs a known class, however: {tree!r}. {_nearest(tree, names)}")
    if isinstance(tree, list):
        return [from_tree(item, names, where) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) != 1 or not isinstance(next(iter(tree)), str):
        raise ConfigError(
            f"{where} needs one class name with its parameters, however: {list(tree)}. "
            "Write ClassName: {parameter: value}."
        )
    name, parameters = next(iter(tree.items()))
    if name not in names:
        raise ConfigError(f"{where} needs a known class, however: {name!r}. {_nearest(name, names)}")
    known = names[name]._get_param_names()  # type: ignore[attr-defined]
    if not isinstance(parameters, dict | None):
        raise ConfigError(
            f"{where} needs {name}'s parameters as a mapping, however: {parameters!r}. "
            f"Write {name}: {{parameter: value}}."
        )
    arguments = {}
    for key, value in (parameters or {}).items():
        if key not in known:
            to_do = RATE if key in RATES and "threshold" in known else _nearest(str(key), known)
            raise ConfigError(f"{name} in {where} needs known parameters, however: {key!r}. {to_do}")
        allowed = getattr(names[name], "_parameter_constraints", {}).get(key, ())
        is_text = isinstance(value, str) and str in allowed
        arguments[key] = value if is_text else from_tree(value, names, f"{where}, {name}.{key}")
    return names[name](**arguments)


def _close(name: str, known: Any) -> list[str]:
    lower = {candidate.lower(): candidate for candidate in known}
    return [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)]


def _nearest(name: str, known: Any) -> str:
    close = _close(name, known)
    return f"Did you mean {close[0]!r}?" if close else f"Choose from {', '.join(sorted(known))}."


# --- folders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """What a model folder holds, in memory."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    arrays: dict[str, np.ndarray]
    history: pd.DataFrame


def check_target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Refuse, before any work is done, a model folder that `save` would refuse after it."""
    path = Path(path)
    if not path.name:
        raise OutputError(f"A model needs a folder of its own, however: {path} is the one we are in. Name one.")
    if path.exists() and not overwrite and (path.is_file() or any(path.iterdir())):
        raise OutputError(f"A model needs a new folder, however: {path} exists. Choose another, or allow overwriting.")
    if (
        path.exists()
        and overwrite
        and not (path / "manifest.json").is_file()
        and (path.is_file() or any(path.iterdir()))
    ):
        raise OutputError(
            f"Only a model folder is overwritten, however: {path} is something else. Choose another folder."
        )
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(
            f"A model needs a folder that can be written, however: {parent} cannot. Choose another place."
        )
    return path


def save(path: str | os.PathLike[str], stored: Stored, overwrite: bool = False) -> Path:
    """Write a model folder; it appears complete or not at all."""

    def write(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(stored.config, indent=2, sort_keys=True) + "\n")
        weights, same = _once({name: tensor.detach().cpu().contiguous() for name, tensor in stored.weights.items()})
        arrays = {name: np.ascontiguousarray(array) for name, array in stored.arrays.items()}
        try:
            safetensors.torch.save_file(weights, folder / "weights.safetensors", {SAME: json.dumps(same)})
            safetensors.numpy.save_file(arrays, folder / "arrays.safetensors")
        except safetensors.SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error
        stored.history.to_csv(folder / "history.csv", index=False)

    return save_folder(path, write, FORMAT, overwrite)


def _once(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, and by the name of any other the name of the one that it equals: scorers remember alike."""
    kept: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in weights.items():
        told = tensor.dtype, tensor.shape, hashlib.sha256(tensor.numpy().tobytes()).digest()
        one = first.setdefault(told, name)
        if one == name:
            kept[name] = tensor
        else:
            same[name] = one
    return kept, same


def _weights(file: Path) -> dict[str, Tensor]:
    with safetensors.safe_open(file, "pt") as opened:
        kept = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        same = json.loads((opened.metadata() or {}).get(SAME, "{}"))
        return kept | {name: kept[one] for name, one in same.items()}


def save_folder(
    path: str | os.PathLike[str], write: Callable[[Path], None], format: str, overwrite: bool = False
) -> Path:
    """Have a folder written, with a manifest of all files in it; it appears complete or not at all.

    Where a link stands, the folder that it points to is written.
    """
    given = check_target(path, overwrite)
    path = Path(os.path.realpath(given))
    parent = path.parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    try:
        with written_to(path):
            write(temporary)
            names = sorted(file.relative_to(temporary).as_posix() for file in temporary.rglob("*") if file.is_file())
            manifest = {
                "format": format,
                "version": VERSION,
                "sha256": {name: digest(temporary / name) for name in names},
            }
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
            temporary.chmod(0o755)
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(0o644)  # safetensors writes 0600; a model is read by other users' jobs
                sync(file)
            _put(temporary, path)
            sync(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return given


def _put(new: Path, path: Path) -> None:
    """Put a folder in its place; one that was there goes once this one is, and comes back where this cannot be."""
    if not path.exists():
        new.rename(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    path.rename(aside / "old")
    try:
        new.rename(path)
    except OSError:
        (aside / "old").rename(path)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def load(path: str | os.PathLike[str]) -> Stored:
    """Read a model folder after checking its version and every digest.

    Raises
    ------
    ModelFolderError
        When the folder is missing, no model, newer than this package, or damaged.
    """
    path = Path(path)
    check_folder(path, FORMAT, FILES)
    try:
        return Stored(
            config=json.loads((path / "config.json").read_text()),
            weights=_weights(path / "weights.safetensors"),
            arrays=safetensors.numpy.load_file(path / "arrays.safetensors"),
            history=pd.read_csv(path / "history.csv"),
        )
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise ModelFolderError(_damaged(path, str(error))) from error


def check_folder(path: Path, format: str, files: Sequence[str] = ()) -> None:
    """Check a folder's format, its version and the digest of every file, `files` among them; raises as `load` does."""
    if not (path / "manifest.json").is_file():
        raise ModelFolderError(
            f"A model is a folder with a manifest.json, however: {path} has none. Give the folder that fit wrote."
        )
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        version, digests = manifest["version"], dict(manifest["sha256"])
        recognised = manifest["format"] == format and isinstance(version, int) and version >= 1
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(_damaged(path, "manifest.json")) from error
    if not recognised:
        raise ModelFolderError(_damaged(path, "manifest.json"))
    if version > VERSION:
        raise ModelFolderError(
            f"This anomaly_ae reads models up to format {VERSION}, however: {path} has format {version}. "
            "Upgrade anomaly_ae, or fit the model again with this version."
        )
    for name in [*files, *digests]:
        if not (path / name).is_file() or digests.get(name) != digest(path / name):
            raise ModelFolderError(_damaged(path, name))


def kind(path: str | os.PathLike[str]) -> str | None:
    """The class of the detector in a model folder, by a look at its configuration; None where there is none to see."""
    try:
        tree = json.loads((Path(path) / "config.json").read_text())["detector"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next(iter(tree), None) if isinstance(tree, dict) else None


def below(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """What a mapping has under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tree.items() if key.startswith(prefix)}


def _damaged(path: Path, what: str) -> str:
    return f"A model's files must be as fit wrote them, however: {path} is damaged ({what}). Restore it or fit again."


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
