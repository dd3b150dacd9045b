"""
CPU of the whole way of a track of MD21: framing or datagrams, codec, fingerprints, transcode, producer, ack after the
commit; blocks of 1 and of 20 tracks, by TCP and by UDP.

    python -m benchmarks.md21 [--bus kafka://127.0.0.1:19092] [--boxes 20] [--tracks 2000]

The boxes are the project's own simulated ones. What is counted is the CPU time (user and system, all threads) of the
gateway's process alone. The same tracks go to the same gateway by MD30 in the same run: the ratio is the figure to
compare.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.pipeline import cpuSeconds, freePort, startGateway

_BOX = "import sys; from binaryserver.tools.box import main; sys.exit(main())"


def measure(pid: int, port: int, options: argparse.Namespace, first: int, *more: str) -> tuple[float, dict[str, Any]]:
    """
    CPU µs a track of one fleet, and what it saw.

    @param first: its first asset
    """
    before = cpuSeconds(pid)
    fleet = [f"--boxes={options.boxes}", f"--tracks={options.tracks}", f"--first-asset={first}", "--timeout=120"]
    command = [sys.executable, "-c", _BOX, f"--connect=tcp:127.0.0.1:{port}", "--json", "--no-messages", *fleet, *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    cpu = cpuSeconds(pid) - before
    sums: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if done.returncode:
        raise SystemExit(f"not everything was acked: {sums}")
    return cpu / (options.boxes * options.tracks) * 1e6, sums


def main() -> None:
    """
    Print one line a protocol, way and block size.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bus", default="kafka://127.0.0.1:19092")
    parser.add_argument("--boxes", type=int, default=20)
    parser.add_argument("--tracks", type=int, default=2000)
    options = parser.parse_args()
    for batch in (1, 20):
        with tempfile.TemporaryDirectory() as folder:
            md30, md21, udp = freePort(), freePort(), freePort()
            bus = f"sqlite:{folder}/bus.sqlite" if options.bus == "sqlite:" else options.bus
            own = [f"--bus={bus}", f"--md21=tcp:{md21}:interface=127.0.0.1", f"--md21-udp={udp}:interface=127.0.0.1"]
            process = startGateway(md30, folder, *own, "--flush-interval=0.005")
            try:
                runs: tuple[tuple[str, int, int, list[str]], ...] = (
                    ("MD30", md30, 1, []),
                    ("MD21 TCP", md21, 2, ["--protocol=md21"]),
                    ("MD21 UDP", md21, 3, ["--protocol=md21", "--udp"]),
                )
                figures = []
                for name, port, number, more in runs:
                    first = 350_000_000_000_000 + number * 1_000_000
                    cpu, sums = measure(process.pid, port, options, first, f"--batch={batch}", *more)
                    figures.append(cpu)
                    rate = sums.get("tracks_per_second", 0)
                    print(f"{name:9} blocks of {batch:2}: {cpu:6.1f} CPU us/track, {rate:8.0f} tracks/s", flush=True)
            finally:
                process.terminate()
                process.wait()
            ratios = ", ".join(f"{figure / figures[0]:.1f}" for figure in figures[1:])
            print(f"{'ratio':9} blocks of {batch:2}: {ratios} (TCP, UDP to MD30)", flush=True)


if __name__ == "__main__":
    main()
