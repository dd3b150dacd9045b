"""
CPU of the whole way of a track: framing, session and index, decode, transcode, producer, PUBACK after the commit.

    python -m benchmarks.pipeline [--bus kafka://127.0.0.1:19092] [--links 100] [--inflight 16] [--seconds 8]

The same load goes to a mosquitto broker in the same run, which acks what it neither transcodes nor stores: the ratio is
the figure to compare. What is counted is the CPU time (user and system, all threads) of the server's process alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


def cpuSeconds(pid: int) -> float:
    """
    User and system time of a process.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rssBytes(pid: int) -> int:
    """
    Resident memory of a process.
    """
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def freePort() -> int:
    """
    A loopback port that nobody listens on.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def awaitPort(port: int, process: subprocess.Popen[bytes]) -> None:
    """
    Wait until somebody listens.
    """
    for _ in range(400):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the server does not listen")


def startGateway(port: int, folder: str, *options: str) -> subprocess.Popen[bytes]:
    """
    A gateway that listens on a port, with its files in a folder.
    """
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from twisted.scripts.twistd import run; run()",
            "-n",
            f"--logfile={folder}/gateway.log",
            f"--pidfile={folder}/twistd.pid",
            "binaryserver",
            "--md30",
            f"tcp:{port}:interface=127.0.0.1",
            "--http=off",
            "--md21=off",
            "--sessions=memory:",
            # All boxes come from one address, and as fast as they can.
            "--address-rate=0",
            *options,
        ],
        stdout=subprocess.DEVNULL,
        stderr=None,
    )
    awaitPort(port, process)
    return process


def startMosquitto(port: int, folder: str) -> subprocess.Popen[bytes]:
    """
    The peer.
    """
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    config = Path(folder) / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
        "max_inflight_messages 0\nlog_type error\n"
    )
    process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    awaitPort(port, process)
    return process


def measure(
    process: subprocess.Popen[bytes], port: int, options: argparse.Namespace, batch: int
) -> tuple[float, dict[str, float]]:
    """
    CPU µs a track of one server under the load, and what the load saw.
    """
    command = [sys.executable, "-m", "benchmarks.mqttload", f"--port={port}", f"--links={options.links}"]
    command += [f"--inflight={options.inflight}", f"--batch={batch}", f"--seconds={options.seconds}"]
    load = subprocess.Popen(command, stdout=subprocess.PIPE)
    time.sleep(min(2.0, options.seconds / 4) + 1.0)
    cpu, at = cpuSeconds(process.pid), time.monotonic()
    time.sleep(options.seconds - 2.0)
    cpu, at = cpuSeconds(process.pid) - cpu, time.monotonic() - at
    output, _ = load.communicate()
    if load.returncode:
        raise SystemExit("the load failed")
    result: dict[str, float] = json.loads(output)
    rate = result["tracks"] / result["seconds"]
    return cpu / at / rate * 1e6, {**result, "rate": rate, "cores": cpu / at}


def main() -> None:
    """
    Print one line a server and batch size.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bus", default="kafka://127.0.0.1:19092")
    parser.add_argument("--links", type=int, default=100)
    parser.add_argument("--inflight", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 20])
    options = parser.parse_args()
    for batch in options.batches:
        with tempfile.TemporaryDirectory() as folder:
            bus = f"sqlite:{folder}/bus.sqlite" if options.bus == "sqlite:" else options.bus
            servers: Any = (("binaryserver", startGateway, [f"--bus={bus}"]), ("mosquitto", startMosquitto, []))
            figures = {}
            for name, start, extra in servers:
                port = freePort()
                process = start(port, folder, *extra)
                try:
                    cpu, seen = measure(process, port, options, batch)
                finally:
                    process.terminate()
                    process.wait()
                figures[name] = cpu
                print(
                    f"{name:13} batch {batch:3}: {cpu:6.2f} CPU us/track, {seen['rate']:9.0f} tracks/s, "
                    f"{seen['cores']:.2f} cores, ack p50 {seen['p50_ms']:.1f} ms, p99 {seen['p99_ms']:.1f} ms",
                    flush=True,
                )
            print(f"{'ratio':13} batch {batch:3}: {figures['binaryserver'] / figures['mosquitto']:6.2f}", flush=True)


if __name__ == "__main__":
    main()
