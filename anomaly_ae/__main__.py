"""The command `anomaly-ae`, and `python -m anomaly_ae`: Ctrl-C ends it quietly from the first import on."""

import sys


def main() -> None:
    try:
        from anomaly_ae.cli import app

        app()
    except KeyboardInterrupt:  # before there was a command that could say so
        sys.exit(130)


if __name__ == "__main__":
    main()
