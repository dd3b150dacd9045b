"""
What hostile peers do to the others: the latency of ordinary boxes' acks, alone and under one attack after the other.

    python -m benchmarks.hostile [--seconds 5] [--attack 'wrong passwords, from 50 addresses' ...]

50 boxes, each with a password, send a track every 200 ms over plain TCP to a gateway with the options' defaults: SQLite
as bus and store, a directory in a file with argon2 hashes. The attacks are those of L{benchmarks.hostilepeers}. A
latency counts from when the track was due to be sent until its PUBACK. Meanwhile boxes that never came before log in,
one after the other, whose passwords the gateway has to check. Everything runs on this machine, by loopback.
"""

from __future__ import annotations

import argparse
import json
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from threading import Thread

from argon2 import PasswordHasher

from benchmarks.hostilepeers import ACCOUNT, ATTACKS, LIMITED, SECRET
from benchmarks.mqttload import makeTrack
from benchmarks.pipeline import cpuSeconds, freePort, startGateway
from binaryserver.mqtt.packets import encodeConnect, encodePublish
from binaryserver.proto.md30_pb2 import TrackBatch
from binaryserver.tools.ctl_secret import DEFAULT_MEMORY, DEFAULT_TIME
from tests.certificates import Authority

_BOXES = 50
_PERIOD = 0.2
"""s between two tracks of a box."""
_LINGER = 15.0
"""s that acks are waited for at the end of a measurement."""
_SETTLE = 20
"""s that the gateway may take to get over an attack."""
_IDLE = 0.08
"""Cores that it takes when it has nothing to do, at most."""
_NEW = 400
"""Boxes that can log in for the first time."""
_LOGIN_PAUSE = 0.25
"""s between two of their logins."""


def logIn(asset: str, address: tuple[str, int]) -> socket.socket:
    """
    Let a box come in.

    @raise OSError: it is refused, or not answered within L{_LINGER}
    """
    sock = socket.create_connection(address, timeout=_LINGER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(encodeConnect(asset, True, 0, username="ordinary", password=asset.encode()))
    answer = sock.recv(4)
    if answer != b"\x20\x02\x00\x00":
        raise ConnectionRefusedError(f"{asset}: {answer!r}")
    return sock


class Logins(Thread):
    """
    Of boxes that come for the first time, one after the other.

    @ivar times: s that each took
    @ivar failed: how many were refused, or not answered within L{_LINGER}
    """

    def __init__(self, port: int, names: Iterator[str], seconds: float) -> None:
        Thread.__init__(self, daemon=True)
        self.times: list[float] = []
        self.failed = 0
        self._address = ("127.0.0.1", port)
        self._names = names
        self._end = time.monotonic() + seconds

    def run(self) -> None:
        """
        See C{threading}.
        """
        while time.monotonic() < self._end:
            began = time.monotonic()
            try:
                logIn(next(self._names), self._address).close()
                self.times.append(time.monotonic() - began)
            except OSError:
                self.failed += 1
            time.sleep(_LOGIN_PAUSE)


class Box:
    """
    An ordinary one.
    """

    def __init__(self, number: int, port: int) -> None:
        self._asset = f"ordinary-{number:02}"
        self._address = ("127.0.0.1", port)
        self._index = 0
        self.dueTimes: deque[float] = deque()
        self.connect()

    def connect(self) -> None:
        """
        Come in.
        """
        self.sock = logIn(self._asset, self._address)
        self.sock.setblocking(False)

    def send(self, due: float) -> None:
        """
        Send the next track.

        @param due: s of the monotonic clock, when it was to be sent
        """
        self._index += 1
        track = makeTrack(time.time_ns() // 1_000_000, self._index)
        batch = TrackBatch(stream=1, first_index=self._index, tracks=[track]).SerializeToString()
        self.dueTimes.append(due)
        self.sock.send(encodePublish("t", batch, 1, (self._index - 1) % 65_535 + 1))


class Boxes:
    """
    The ordinary boxes.

    @ivar lost: links of theirs that were closed
    """

    def __init__(self, port: int) -> None:
        self.lost = 0
        self._selector = selectors.DefaultSelector()
        self._boxes = [Box(number, port) for number in range(_BOXES)]
        for box in self._boxes:
            self._selector.register(box.sock, selectors.EVENT_READ, box)

    def measure(self, seconds: float) -> list[float]:
        """
        Send for some time, and wait for the acks.

        @return: latencies, s, in ascending order; of those that do not come, of L{_LINGER}
        """
        latencies: list[float] = []
        start = time.monotonic()
        due = deque(
            (start + turn * _PERIOD + number * _PERIOD / _BOXES, box)
            for turn in range(int(seconds / _PERIOD))
            for number, box in enumerate(self._boxes)
        )
        end = start + seconds + _LINGER
        while (now := time.monotonic()) < end and (due or any(box.dueTimes for box in self._boxes)):
            while due and due[0][0] <= now:
                at, box = due.popleft()
                box.send(at)
            wait = max(0.0, due[0][0] - time.monotonic()) if due else 0.1
            for key, _ in self._selector.select(wait):
                self._read(key.data, latencies)
        for box in self._boxes:
            latencies += [_LINGER] * len(box.dueTimes)
            box.dueTimes.clear()
        return sorted(latencies)

    def _read(self, box: Box, latencies: list[float]) -> None:
        try:
            # A PUBACK has four bytes, and so few are in flight that they come whole.
            data = box.sock.recv(4096)
        except OSError:
            data = b""
        now = time.monotonic()
        if not data:
            self.lost += 1
            self._selector.unregister(box.sock)
            latencies += [_LINGER] * len(box.dueTimes)
            box.dueTimes.clear()
            box.connect()
            self._selector.register(box.sock, selectors.EVENT_READ, box)
        latencies += [now - box.dueTimes.popleft() for _ in range(len(data) // 4)]


def writeDirectory(path: Path) -> None:
    """
    The accounts: of ordinary boxes, each with a secret of its own; and of those that were taken over, without limits
    and with one.
    """
    hasher = PasswordHasher(DEFAULT_TIME, DEFAULT_MEMORY, 1)
    lines = ['[[account]]\nname = "ordinary"']
    for asset in (*(f"ordinary-{number:02}" for number in range(_BOXES)), *(f"new-{n:03}" for n in range(_NEW))):
        lines.append(f"[[account.box]]\nasset = '{asset}'\nsecret_hash = '{hasher.hash(asset)}'")
    secretHash = hasher.hash(SECRET)
    for account, limits in ((ACCOUNT, "{}"), (LIMITED, "{messages_per_second = 1000}")):
        lines.append(f"[[account]]\nname = '{account}'\nsecret_hash = '{secretHash}'\nlimits = {limits}")
        lines += [f"[[account.box]]\nasset = 'hostile-{number:03}'" for number in range(100)]
    path.write_text("\n".join(lines) + "\n")


def percentile(latencies: list[float], share: float) -> float:
    """
    ms.
    """
    return 1000 * latencies[min(len(latencies) - 1, int(len(latencies) * share))]


def row(latencies: list[float], logins: Logins, alone: float, cores: float, peers: dict[str, int]) -> str:
    """
    All of a line of the table but its name and its end.

    @param alone: ms, the p99 to compare with
    """
    middle, high = percentile(latencies, 0.5), percentile(latencies, 0.99)
    times = logins.times
    waits = f"{1000 * median(times):.0f} | {1000 * max(times):.0f}" if times else "none | none"
    counts = " | ".join(f"{peers[key]:,}" if peers else "" for key in ("opened", "closed"))
    return f"{middle:.0f} | {high:.0f} | {high / alone:.1f} | {waits} | {logins.failed} | {cores:.2f} | {counts}"


def settle(pid: int) -> None:
    """
    Wait until the gateway has nothing to do, so that what an attack left behind is not taken for the next one's.
    """
    for _ in range(_SETTLE):
        before = cpuSeconds(pid)
        time.sleep(1.0)
        if cpuSeconds(pid) - before < _IDLE:
            return


def run(seconds: float, attacks: list[str]) -> None:
    """
    Print a line for each attack.
    """
    with tempfile.TemporaryDirectory() as folder:
        writeDirectory(Path(folder) / "accounts.toml")
        certificate, key = Authority().issueServer().write(folder, "server")
        port, tlsPort = freePort(), freePort()
        gateway = startGateway(
            port,
            folder,
            f"--md30=tls:{tlsPort}:interface=127.0.0.1:cert={certificate}:key={key}",
            f"--bus=sqlite:{folder}/bus.sqlite",
            f"--sessions=sqlite:{folder}/sessions.sqlite",
            f"--directory=file:{folder}/accounts.toml",
            # The default, which other benchmarks do without.
            "--address-rate=200",
        )
        try:
            boxes = Boxes(port)
            boxes.measure(2.0)
            print("| attack | p50 | p99 | ratio | login | longest | failed | cores | opened | closed | lost |")
            print("|" + "---|" * 11)
            alone = 0.0
            names = (f"new-{number:03}" for number in range(_NEW))
            for name in ("none", *attacks, "none, once more"):
                peers = None
                if name in ATTACKS:
                    command = [sys.executable, "-m", "benchmarks.hostilepeers", name, f"--port={port}"]
                    command += [f"--tls-port={tlsPort}", f"--seconds={seconds}"]
                    peers = subprocess.Popen(command, stdout=subprocess.PIPE)
                logins = Logins(port, names, seconds)
                lost, cpu, at = boxes.lost, cpuSeconds(gateway.pid), time.monotonic()
                logins.start()
                latencies = boxes.measure(seconds)
                cpu, took = cpuSeconds(gateway.pid) - cpu, time.monotonic() - at
                logins.join()
                alone = alone or percentile(latencies, 0.99)
                counted = json.loads(peers.communicate()[0]) if peers else {}
                figures = row(latencies, logins, alone, cpu / took, counted)
                print(f"| {name} | {figures} | {boxes.lost - lost} |", flush=True)
                settle(gateway.pid)
        finally:
            gateway.terminate()
            gateway.wait()


def main() -> None:
    """
    See the top.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack")
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="only this one; repeatable")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run(options.seconds, options.attack or list(ATTACKS))


if __name__ == "__main__":
    main()
