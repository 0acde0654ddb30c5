"""The health check of the container: its exit status is 1 if JupyterLab is to run and does not answer.

A batch run serves nothing and is healthy while it runs. Proxies that the environment names are not asked for
an address of this machine.
"""
import sys
import urllib.request
from pathlib import Path

PORT = "8888"
WAIT = 4  # seconds


def port(command):
    """The port that JupyterLab is to serve by the container's command, b"make\\0lab\\0...", or None."""
    arguments = command.decode(errors="replace").split("\0")
    if "lab" not in arguments:
        return None
    given = [argument.removeprefix("PORT=") for argument in arguments if argument.startswith("PORT=")]
    return given[-1] if given else PORT


def answers(number):
    """Whether something answers at this port of this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{number}/api", timeout=WAIT):
            return True
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    served = port(Path("/proc/1/cmdline").read_bytes())
    sys.exit(served is not None and not answers(served))
