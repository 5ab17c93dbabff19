"""What all jobs take: paths, and someone to tell how far they are."""

from __future__ import annotations

import os
from collections.abc import Callable

Path_ = str | os.PathLike[str]
Progress = Callable[[float, str], None]  # share done in [0, 1], and what is being done


def tell(progress: Progress | None, share: float, what: str) -> None:
    """Say how far a job is, where somebody wants to know."""
    if progress is not None:
        progress(share, what)
