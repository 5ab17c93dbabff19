"""Models of a registry: where they are, under which alias, and what an alias stood for before."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_ae.errors import AnomalyError, ConfigError, ModelFolderError
from anomaly_ae.mlflow.store import connected, said

CHAMPION, CHALLENGER = "champion", "challenger"
SCHEMES = ("models:/", "runs:/")
_ALIAS = re.compile(r"models:/([^/@]+)@([^/@]+)")


def pinned(model: str | os.PathLike[str]) -> str:
    """A model by the version that its alias stands for now, `models:/NAME/3`; as it is where it has no alias.

    Raises
    ------
    ConfigError
        When there is no such model, or its registry cannot be reached.
    """
    name = os.fspath(model)
    found = _ALIAS.fullmatch(name)
    if found is None:
        return name
    with _registry(f"A model {name}") as mlflow:
        return f"models:/{found[1]}/{mlflow.MlflowClient().get_model_version_by_alias(*found.groups()).version}"


def resolve(model: str | os.PathLike[str]) -> Path:
    """The folder of a model: of `models:/NAME@champion`, `models:/NAME/3` or `runs:/ID/model` a copy until Python ends.

    Anything else is a folder already.

    Raises
    ------
    ConfigError
        When there is no such model, or its registry cannot be reached.
    ModelFolderError
        When what is there is no model of ours.
    """
    name = os.fspath(model)
    if not name.startswith(SCHEMES):
        return Path(name)
    with _registry(f"A model {name}") as mlflow:
        copy = tempfile.mkdtemp(prefix="anomaly-ae-")
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        found = Path(mlflow.artifacts.download_artifacts(artifact_uri=pinned(name), dst_path=copy))
    manifests = sorted(found.rglob("manifest.json"), key=lambda path: len(path.parts))
    if not manifests:
        raise ModelFolderError(
            f"A model of a registry holds a folder with a manifest.json, however: {name} has none. Give one that "
            "anomaly-ae fit --register or anomaly_ae.mlflow.log_model put there."
        )
    return manifests[0].parent


class Version(NamedTuple):
    """A version of a registered model, and the alias that stands for it."""

    name: str
    version: str
    alias: str
    before: str | None = None  # what the alias stood for

    @property
    def uri(self) -> str:
        """Where it is found."""
        return f"models:/{self.name}/{self.version}"


def check_name(name: str) -> None:
    """Refuse, before any work is done, a name that no registry takes."""
    if not name.strip() or set(name) & set("/:@'\""):
        raise ConfigError(f"A registered model needs a name without / : @ and quotes, however: {name!r}. Choose one.")


def register(
    client: Any, name: str, source: str, run_id: str, model_id: str | None = None, tags: Mapping[str, str] | None = None
) -> Version:
    """Make a run's model a new version, with tags, or find the one that it is already.

    The first of all is the champion, later ones are challengers.
    """
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):  # it is there; what else is wrong the next line says
        client.create_registered_model(name)
    known = client.search_model_versions(f"name = '{name}'")
    mine = [one for one in known if one.run_id == run_id]
    made = mine[0] if mine else client.create_model_version(name, source, run_id, tags, model_id=model_id)
    alias = CHALLENGER if len(known) > len(mine) else CHAMPION
    client.set_registered_model_alias(name, alias, made.version)
    return Version(name, str(made.version), alias)


def promote(name: str, version: str | None = None, alias: str = CHAMPION) -> Version:
    """Have an alias stand for another version (default: for the challenger), which remembers the one that it replaces.

    A challenger that becomes the champion is no challenger any more.

    Raises
    ------
    ConfigError
        When there is no such model or version, or nothing to promote, or no way to the registry.
    """
    with _registry(f"The model {name}") as mlflow:
        client = mlflow.MlflowClient()
        aliases = {key: str(value) for key, value in client.get_registered_model(name).aliases.items()}
        chosen = version or aliases.get(CHALLENGER)
        if chosen is None:
            raise ConfigError(
                f"A promotion needs a version, however: {name} has no @{CHALLENGER}. Name one with --version."
            )
        chosen, before = str(client.get_model_version(name, chosen).version), aliases.get(alias)
        if chosen == before:
            raise ConfigError(
                f"A promotion needs another version, however: {name}@{alias} is {chosen} already. "
                "Name another with --version."
            )
        if before is None:
            client.delete_model_version_tag(name, chosen, _replaced(alias))
        else:  # first how to go back, then the step
            client.set_model_version_tag(name, chosen, _replaced(alias), before)
        client.set_registered_model_alias(name, alias, chosen)
        if alias == CHAMPION and aliases.get(CHALLENGER) == chosen:
            client.delete_registered_model_alias(name, CHALLENGER)
    return Version(name, chosen, alias, before)


def rollback(name: str, alias: str = CHAMPION) -> Version:
    """Have an alias stand for the version again that it stood for before its last promotion.

    Raises
    ------
    ConfigError
        When nothing was replaced, or there is no such model, or no way to the registry.
    """
    with _registry(f"The model {name}") as mlflow:
        client = mlflow.MlflowClient()
        now = client.get_model_version_by_alias(name, alias)
        before = now.tags.get(_replaced(alias))
        if before is None:
            raise ConfigError(
                f"A rollback needs a version that was replaced, however: {name}@{alias}, version {now.version}, "
                "replaced none. Promote one with --version."
            )
        client.set_registered_model_alias(name, alias, before)
        client.delete_model_version_tag(name, now.version, _replaced(alias))
    return Version(name, before, alias, str(now.version))


def _replaced(alias: str) -> str:
    return f"anomaly_ae.{alias}.replaced"


@contextlib.contextmanager
def _registry(what: str) -> Iterator[Any]:
    """The connected `mlflow`; its trouble becomes one sentence."""
    try:
        with connected() as mlflow:
            yield mlflow
    except AnomalyError:
        raise
    except Exception as error:  # MLflow's, of its stores and of what they are reached by
        raise ConfigError(
            f"{what} needs a registry that has it, however: {said(error)}. Check the name, and MLFLOW_TRACKING_URI."
        ) from error
