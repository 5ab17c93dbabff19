"""The command in a process of its own that finds everything imported: a fork of one that did nothing else."""

import multiprocessing
import os
import sys
from pathlib import Path
from typing import NamedTuple


class Done(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stderr: str


def run(arguments, folder):
    """As `subprocess.run(["anomaly-ae", *arguments], cwd=folder)`, without the seconds of imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["anomaly_ae.cli", "anomaly_ae.ops.scoring"])
    said = Path(folder) / "stderr.txt"
    process = context.Process(target=_command, args=([str(argument) for argument in arguments], folder, said))
    process.start()
    process.join()
    return Done(process.exitcode, said.read_text())


def _command(arguments, folder, said):
    from anomaly_ae.cli import app

    os.chdir(folder)
    with said.open("w") as stream:
        os.dup2(stream.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    app(arguments)
