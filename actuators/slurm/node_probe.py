"""Looks at a compute node from within a job of the pool, in the agent's place: ``tidegate doctor slurm --probe``.

It stands in the pool's own script, so that modules, prolog, weights and container are tried as a replica's job would.
What it sees it prints, and tells whoever connects to its port, as one line of JSON, until USR1 comes or its time is up.
``actuators.slurm.probe`` reads that line. One file of the standard library; Python 3.9 is enough.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from typing import Any

LASTS_S = 120.0
CONNECTED_WITHIN_S = 5.0
LAUNCHED_WITHIN_S = 60.0
LOOKS_EVERY_S = 0.2


def main(launched: list[str], environment: dict[str, str]) -> int:
    settings = json.loads(environment["TIDEGATE_AGENT"])
    told = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: told.set())
    listener, problem = listening(settings["ports"], int(environment.get("SLURM_JOB_ID", "0")))
    seen = {
        "node": environment.get("SLURMD_NODENAME") or socket.gethostname(),
        "address": settings.get("address") or own_address(settings["broker_url"]),
        "python": sys.version.split()[0],
        "port_problem": problem,
        "broker_problem": broker_problem(settings["broker_url"]),
        "gpus": visible_gpus(environment),
        "devices": gpu_devices(),
        "launch_problem": launch_problem(launched),
    }
    print(line(seen), flush=True)
    until = time.monotonic() + LASTS_S
    while not told.is_set() and time.monotonic() < until:
        answer(listener, seen)
    return 0 if told.is_set() else 3


def line(seen: dict[str, Any]) -> str:
    return json.dumps(dict(seen, now=time.time()))


def listening(ports: list[int], job_id: int) -> tuple[socket.socket | None, str]:
    """On the port that this job's number gives, so that the other side knows it."""
    first, last = ports
    port = first + job_id % (last - first + 1)
    try:
        listener = socket.create_server(("", port))
    except OSError as error:
        return None, f"port {port} cannot be taken: {error.strerror or error}"
    listener.settimeout(LOOKS_EVERY_S)
    return listener, ""


def answer(listener: socket.socket | None, seen: dict[str, Any]) -> None:
    if listener is None:
        time.sleep(LOOKS_EVERY_S)
        return
    try:
        asking, _ = listener.accept()
    except OSError:
        return
    with asking:
        try:
            asking.settimeout(LOOKS_EVERY_S)
            asking.sendall(line(seen).encode() + b"\n")
        except OSError:
            pass


def place_of(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def own_address(broker_url: str) -> str:
    """The one from which this node reaches the broker, as the agent tells its own. Nothing is sent."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(*place_of(broker_url), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as asking:
            asking.connect(place)
            return str(asking.getsockname()[0])
    except OSError:
        return socket.gethostname()


def broker_problem(broker_url: str) -> str:
    try:
        socket.create_connection(place_of(broker_url), CONNECTED_WITHIN_S).close()
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return str(error) or type(error).__name__
    return ""


def visible_gpus(environment: dict[str, str]) -> int | None:
    """As many as an engine would see; None where Slurm has said nothing of them."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        if name in environment:
            return len([each for each in environment[name].split(",") if each])
    return None


def gpu_devices() -> int | None:
    """As many as the node's driver shows this job; None without NVIDIA's tool."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return listed.stdout.count("GPU ")


def launch_problem(launched: list[str]) -> str:
    """What went wrong with running a command that does nothing where the engine would run."""
    try:
        done = subprocess.run(launched, capture_output=True, text=True, timeout=LAUNCHED_WITHIN_S)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    said = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else said[-1] if said else f"it ended with status {done.returncode}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], dict(os.environ)))
