"""Parameters of parts that stand in lists, by their numbers: `scorers__1__k`."""

from __future__ import annotations

from typing import Any, Self

from anomaly_ae.errors import ConfigError


class NumberedMixin:
    """`get_params` and `set_params` that reach into lists of estimators, as scikit-learn's do into estimators."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; with `deep` those of estimators within as well, of lists by `NAME__NUMBER__PARAMETER`."""
        params: dict[str, Any] = super().get_params(deep=deep)  # type: ignore[misc]
        for name in [name for name in params if deep and "__" not in name]:
            for number, one in enumerate(_listed(params[name])):
                params[f"{name}__{number}"] = one
                params |= {f"{name}__{number}__{inner}": value for inner, value in one.get_params().items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters; `scorers__1__k=5` that of the second of the list, `scorers__1=...` the second itself."""
        numbered = [key for key in params if key.partition("__")[2].partition("__")[0].isdigit()]
        within = {key: params.pop(key) for key in sorted(numbered, key=len)}
        super().set_params(**params)  # type: ignore[misc]  # a list may be among these
        for key, value in within.items():
            name, number, inner = [*key.split("__", 2), ""][:3]
            parts = _listed(getattr(self, name, None))
            if int(number) >= len(parts):
                raise ConfigError(
                    f"{type(self).__name__} needs a part with that number, however: {key}, of {len(parts)}. Count "
                    "from 0."
                )
            if inner:
                parts[int(number)].set_params(**{inner: value})
            else:
                setattr(self, name, [value if place == int(number) else part for place, part in enumerate(parts)])
        return self


def _listed(value: Any) -> list[Any]:
    """The estimators of a list of nothing else."""
    if not isinstance(value, list | tuple) or not all(hasattr(one, "get_params") for one in value):
        return []
    return list(value)
