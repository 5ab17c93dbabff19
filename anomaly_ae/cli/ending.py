"""Ctrl-C and SIGTERM end what reads lines between two of them, as the end of its input does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

import typer

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """Lines until there are no more or a signal comes; a line that was given is dealt with first.

    `exit_code` is then 128 and the signal's number, as shells have it; None where none came. Before the first line, and
    at a second signal, there is nothing to wait for.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = lines
        self._given = self._waits = False
        self._before: dict[signal.Signals, Any] = {}
        self.exit_code: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as of a job in the background
                    self._before[number] = signal.signal(number, self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _end(self, number: int, frame: FrameType | None) -> None:
        is_second, self.exit_code = self.exit_code is not None, 128 + number
        if self._waits or is_second or not self._given:
            raise typer.Exit(self.exit_code)

    def __iter__(self) -> Iterator[str]:
        lines = iter(self._lines)
        while self.exit_code is None:
            try:
                self._waits = True
                line = next(lines)
            except StopIteration:
                return
            except typer.Exit:
                if not self._given:
                    raise
                return
            finally:
                self._waits = False
            self._given = True
            yield line
