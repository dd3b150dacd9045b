"""
What metrics cost: CPU a track of a gateway that is scraped every 5 s, and of one whose histograms, timers and clocks of
metrics do nothing and that nobody asks.

    python -m benchmarks.metrics [--bus kafka://127.0.0.1:19092] [--seconds 13] [--rounds 9]

Both run at the same time, each under its half of the load; the figure is the median of the rounds' ratios. What is
counted is the CPU time (user and system, all threads) of the gateway's process alone.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

from benchmarks.pipeline import awaitPort, freePort, measure

_SCRAPE = 5.0

_RUN = "from twisted.scripts.twistd import run; run()"

_SILENCED = """
from binaryserver import assembly
from binaryserver.metrics import histogram, lag
histogram.Histogram.observe = lambda *_: None
lag.ReactorLag.start = lambda _: None
assembly.timed = lambda backEnd, *_: backEnd
"""


def startGateway(port: int, http: int, folder: str, bus: str, isSilenced: bool) -> subprocess.Popen[bytes]:
    """
    A gateway with its files in a folder.

    @param isSilenced: it measures nothing
    """
    program = _SILENCED + _RUN if isSilenced else _RUN
    arguments = ["-n", f"--logfile={folder}/log-{port}", f"--pidfile={folder}/pid-{port}", "binaryserver"]
    arguments += [f"--md30=tcp:{port}:interface=127.0.0.1", "--md21=off", "--sessions=memory:", f"--bus={bus}"]
    arguments += [f"--http=tcp:{http}:interface=127.0.0.1", f"--instance=bench-{port}"]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.DEVNULL)
    awaitPort(port, process)
    return process


def scrape(port: int, isOver: threading.Event) -> None:
    """
    Ask for the metrics now, as the first time costs more, and every 5 s.
    """
    while True:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            answer.read()
        if isOver.wait(_SCRAPE):
            return


def main() -> None:
    """
    Print one line a round, and the median.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bus", default="kafka://127.0.0.1:19092")
    parser.add_argument("--links", type=int, default=50)
    parser.add_argument("--inflight", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=13)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 20])
    options = parser.parse_args()
    for batch in options.batches:
        rounds = [_round(options, batch, turn % 2 == 1) for turn in range(options.rounds)]
        ratios = [one["with"] / one["without"] for one in rounds]
        print(f"batch {batch:3}: median ratio {statistics.median(ratios):.3f}", flush=True)


def _round(options: argparse.Namespace, batch: int, isOtherWayRound: bool) -> dict[str, float]:
    """
    Two new gateways: of two processes of the same code one may be some percent cheaper than the other, all along.

    @return: CPU us a track
    """
    isOver = threading.Event()
    processes: dict[str, subprocess.Popen[bytes]] = {}
    ports = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in sorted(("with", "without"), reverse=isOtherWayRound):
                ports[name], http = freePort(), freePort()
                processes[name] = startGateway(ports[name], http, folder, options.bus, name == "without")
                if name == "with":
                    threading.Thread(target=scrape, args=(http, isOver), daemon=True).start()
            with ThreadPoolExecutor() as threads:
                # At the same time: whatever else the machine does costs both alike.
                running = {
                    name: threads.submit(measure, process, ports[name], options, batch)
                    for name, process in processes.items()
                }
        finally:
            isOver.set()
            for process in processes.values():
                process.terminate()
                process.wait()
    figures = {name: one.result()[0] for name, one in running.items()}
    print(
        f"batch {batch:3}: CPU us/track: without {figures['without']:6.2f}, with {figures['with']:6.2f}, ratio "
        f"{figures['with'] / figures['without']:.3f}",
        flush=True,
    )
    return figures


if __name__ == "__main__":
    main()
