"""Free ports of the loopback interface."""

import os
import random
import socket

# Below the range the kernel picks from for outgoing connections (32768 and up), so that no connection of ours lands on
# a port between its choice here and its use.
_LOWEST, _HIGHEST, _WORKERS = 20_000, 32_000, 4
# Each worker of pytest-xdist has its own part: a daemon that is restarted must find its ports free again.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_SIZE = (_HIGHEST - _LOWEST) // _WORKERS
_RANGE = range(_LOWEST + _WORKER * _SIZE, _LOWEST + (_WORKER + 1) * _SIZE)
_taken: set[int] = set()


def free_port() -> int:
    """A port that is free on every address for TCP and UDP, given out once per process.

    Raises:
        RuntimeError: no free port was found.
    """
    for port in random.sample(_RANGE, 200):
        if port not in _taken and _is_free(port):
            _taken.add(port)
            return port
    raise RuntimeError(f"none of 200 ports tried in {_RANGE.start}..{_RANGE.stop - 1} is free: end what listens there")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return False
    return True
