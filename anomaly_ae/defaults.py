"""Parameters that are `None` until somebody reaches into the part that stands for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from sklearn.base import BaseEstimator, clone

from anomaly_ae.errors import ConfigError
from anomaly_ae.numbered import NumberedMixin


class DefaultsMixin(NumberedMixin):
    """`set_params` for estimators whose defaults are parts; what they are says `_default`."""

    _of_others: ClassVar[Mapping[str, str]] = {}  # parameters that defaults have not, and the part that has

    def _default(self, name: str) -> BaseEstimator | None:
        """The part that stands for `None` as the parameter `name`, if one does."""
        raise NotImplementedError

    def set_params(self, **params: Any) -> Self:
        """Set parameters; `threshold__alpha=0.01` first puts the documented default where there is no part yet."""
        plain = {key: params.pop(key) for key in list(params) if "__" not in key}
        super().set_params(**plain)  # a default may be a matter of these
        mine = self.get_params(deep=False)
        for key in params:
            name, _, inner = key.partition("__")
            if name in mine and getattr(self, name) is None:
                part = self._default(name)
                if part is None:
                    raise ConfigError(
                        f"{type(self).__name__} needs a {name} before {key} can be set, however: it has none by "
                        f"default. Set {name} to a part first."
                    )
                setattr(self, name, clone(part))
            if key in self._of_others and not hasattr(part := getattr(self, name), inner):
                raise ConfigError(
                    f"{type(self).__name__} needs a {name} that has a {inner}, however: {part!r} has none. Set "
                    f"{name}={self._of_others[key]}({params[key]!r})."
                )
        return super().set_params(**params)
