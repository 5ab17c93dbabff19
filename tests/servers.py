"""Real servers on loopback: started, waited for, and stopped with all that they started."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("anomaly-ae"))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def serving(command, folder, port=None, ready="health", **environment):
    """The address of a server that answers at `ready`; `command` gets its port."""
    port = port or free_port()
    site, log = f"http://127.0.0.1:{port}", Path(folder) / f"server-{port}.log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [*command, "--port", str(port)], cwd=folder, env=os.environ | environment, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{site}/{ready}", timeout=5)  # noqa: S310
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.3)
        yield site
    finally:
        with contextlib.suppress(ProcessLookupError):  # it is gone already
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def mlflow_server(folder, port=None):
    """A real `mlflow server` with its store in a folder."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "art")]
    return serving([*command, *store], folder, port)
