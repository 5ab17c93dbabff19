"""What a scoring job is, how far it has got, and what of it is finished: `OUTPUT.job.json` beside the output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anomaly_ae.data.drafts import Stamp, publish, write_whole
from anomaly_ae.errors import OutputError
from anomaly_ae.version import __version__

State = Literal["new", "running", "refused", "complete"]


@dataclass(frozen=True)
class Identity:
    """All that decides what a job writes: the model by its digest, inputs by length and time of change, options."""

    model: str
    inputs: Mapping[str, Sequence[int] | None]  # by name; None of standard input, which is never the same twice
    options: Mapping[str, Any]
    version: str = __version__

    @property
    def digest(self) -> str:
        """The identity in 64 digits."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()

    def plain(self) -> dict[str, Any]:
        """The identity as JSON has it."""
        inputs = {name: None if stamp is None else list(stamp) for name, stamp in self.inputs.items()}
        return {"model": self.model, "inputs": inputs, "options": dict(self.options), "version": self.version}

    def unlike(self, other: Mapping[str, Any]) -> str:
        """In what another job differs, in words."""
        mine, different = self.plain(), []
        for what in mine:
            theirs = other.get(what)
            if mine[what] == theirs:
                continue
            if isinstance(theirs, dict) and isinstance(mine[what], dict):
                names = [name for name in {**theirs, **mine[what]} if theirs.get(name) != mine[what].get(name)]
                changed = what == "inputs" and set(names) <= set(theirs) & set(mine[what])
                different.append(f"{what} {', '.join(names)}" + (" changed since" if changed else ""))
            else:
                different.append(what)
        if different:
            return "; ".join(different)
        return "what comes through a pipe may be anything"


class Journal:
    """The file that says what became of a job, read once and written whole each time.

    `state` is "running" from the first checkpoint on, "complete" from the moment on when the output is whole (be it
    still under its draft's name), "refused" where too many rows were bad.
    """

    def __init__(self, output: Path, identity: Identity) -> None:
        self.path = output.absolute().parent / f"{output.name}.job.json"
        self.output, self.identity = output, identity
        self.read()

    def read(self) -> dict[str, Any]:
        """What it says; nothing where there is none."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self.before: dict[str, Any] = {}
            return self.before
        except (ValueError, OSError):
            found = None
        if not isinstance(found, dict) or "digest" not in found:
            raise OutputError(
                f"A job keeps its journal in {self.path}, however: that is some other file. Choose another output."
            )
        self.before = found
        return found

    @property
    def same(self) -> bool:
        """Whether what is there is of this job."""
        return (
            bool(self.before)
            and self.before["digest"] == self.identity.digest
            and None not in (self.identity.inputs.values())
        )

    def finished(self) -> dict[str, Any] | None:
        """The summary of this job, where it is complete; puts in place what is whole and not there yet."""
        if not self.same or self.before["state"] != "complete":
            return None
        files: list[tuple[str, str, list[int]]] = self.before["files"]
        for draft, path, stamp in reversed(files):
            if Stamp.of(Path(draft)) == Stamp(*stamp):
                publish(Path(draft), Path(path))
        if any(Stamp.of(Path(path)) != Stamp(*stamp) for _, path, stamp in files):
            return None
        return dict(self.before["summary"])

    def resumable(self) -> dict[str, Any] | None:
        """The last checkpoint of this job, where it is partly done."""
        return dict(self.before["done"]) if self.same and self.before["state"] == "running" else None

    def check_free(self, overwrite: bool, also: Path | None) -> None:
        """Raise OutputError where something is in the way that is not this job's."""
        if overwrite:
            return
        if self.output.exists():
            if self.same:
                why = " and is not as this job left it"
            else:
                why = f" and is of another job ({self.identity.unlike(self.before['job'])})" if self.before else ""
            raise OutputError(
                f"An output needs a new file, however: {self.output} exists{why}. Choose another, or allow overwriting."
            )
        if self.before and self.before["state"] == "running" and not self.same:
            raise OutputError(
                f"An output needs one job, however: {self.output} was begun by another one "
                f"({self.identity.unlike(self.before['job'])}). Choose another, or allow overwriting."
            )
        ours = self.before.get("rejects") if self.before else None
        if also is not None and also.exists() and ours != str(also):
            raise OutputError(f"Rejects need a new file, however: {also} exists. Choose another, or allow overwriting.")

    def write(self, state: State, rejects: Path | None, **more: Any) -> None:
        """Say how things stand."""
        told = {
            "digest": self.identity.digest,
            "state": state,
            "rejects": None if rejects is None else str(rejects),
            "job": self.identity.plain(),
            **more,
        }
        # many numbers are written quicker without indents, and read by nobody
        write_whole(self.path, json.dumps(told, indent=None if state == "running" else 1) + "\n")

    def undo(self) -> None:
        """Leave it as it was found: what failed leaves no trace."""
        if self.before and self.before["state"] in ("complete", "refused"):
            write_whole(self.path, json.dumps(self.before, indent=1) + "\n")
        else:
            self.path.unlink(missing_ok=True)
