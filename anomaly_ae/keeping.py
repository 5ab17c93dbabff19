"""What every detector keeps in its model folder, whatever it detects: its call, parts, columns, profile and lineage."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from anomaly_ae import storage
from anomaly_ae.data.contract import Contract
from anomaly_ae.monitoring.profile import Profile
from anomaly_ae.version import __version__

PROFILE = "profile/"
Method = TypeVar("Method", bound=Callable[..., Any])


def all_or_nothing(method: Method) -> Method:
    """Have a method that fails leave the attributes of its object as they were.

    The attributes, not what they hold: nets and the like that are to change are copied by the method first.
    """

    @wraps(method)
    def whole(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(self.__dict__)
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    return whole  # type: ignore[return-value]


def called(detector: Any) -> Any:
    """The call of a detector, for its folder and for who goes on from it: what is set later does not change it."""
    call = clone(detector)
    call.set_callbacks()
    if isinstance(call.random_state, np.random.RandomState):  # no plain data, and no longer what it was
        call.set_params(random_state=None)
    return call


def config_of(detector: Any, **fitted: Any) -> dict[str, Any]:
    """A fitted detector as plain data; `fitted` are facts of its own kind."""
    return {
        "anomaly_ae": __version__,
        "detector": storage.to_tree(detector.call_),
        "parts": {axis: storage.to_tree(part) for axis, part in detector.parts_.items()},
        "contract": detector.contract_.to_json(),
        "lineage": getattr(detector, "lineage_", []),
        "files": getattr(detector, "files_", []),
        "fitted": {
            "n_features_in": detector.n_features_in_,
            "feature_names_in": list(getattr(detector, "feature_names_in_", [])) or None,
            "n_rows_seen": detector.n_rows_seen_,
            **fitted,
        },
    }


def arrays_of(detector: Any) -> dict[str, NDArray[Any]]:
    """The profile of normal rows, where there is one."""
    state = {} if detector.profile_ is None else detector.profile_.state
    return {f"{PROFILE}{name}": array for name, array in state.items()}


def recall(detector: Any, stored: storage.Stored) -> dict[str, Any]:
    """Give a detector what `config_of` and `arrays_of` took; returns the facts of its own kind.

    Raises
    ------
    KeyError, TypeError
        Where something lacks or is something else.
    """
    fitted: dict[str, Any] = stored.config["fitted"]
    detector.call_ = called(detector)
    detector.contract_ = Contract.from_json(stored.config["contract"])
    detector.lineage_ = list(stored.config.get("lineage", []))
    detector.files_ = list(stored.config.get("files", []))  # models of before do not know
    detector.n_features_in_, detector.n_rows_seen_ = fitted["n_features_in"], fitted["n_rows_seen"]
    if fitted["feature_names_in"]:
        detector.feature_names_in_ = np.asarray(fitted["feature_names_in"], dtype=object)
    detector.history_ = stored.history
    profile = storage.below(PROFILE, stored.arrays)
    detector.profile_ = Profile.from_state(detector.contract_.columns, profile) if profile else None
    return fitted
