"""
Peers that mean no good, for L{benchmarks.hostile}: one kind at a time, bounded in number and time, on loopback only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import cycle, repeat

from benchmarks.mqttload import makeTrack
from binaryserver.mqtt.packets import PINGREQ, encodeConnect, encodePublish
from binaryserver.proto.md30_pb2 import TrackBatch

ACCOUNT = "hostile"
LIMITED = "limited"
"""An account of which the directory says how much its boxes may send."""
SECRET = "known to them"
"""Of those of them that are boxes, which somebody took over."""

_CHUNK = 32_768
_OPEN_IDS = 1000
"""QoS 2 packet ids that a link leaves open: the gateway allows 1,024."""


@dataclass(frozen=True)
class Attack:
    """
    A kind of peers.

    @ivar links: how many are connected at a time
    @ivar says: what one of them sends, given its number, in pieces
    @ivar pace: s between two pieces of a link; 0: as soon as the socket takes it
    @ivar tls: they connect to the TLS port
    @ivar reads: they read what they are sent
    @ivar again: who is closed, or is done with what it has to say and reads nothing, is followed by another
    @ivar addresses: from how many they come
    """

    links: int
    says: Callable[[int], Iterator[bytes]]
    pace: float = 0.0
    tls: bool = False
    reads: bool = True
    again: bool = False
    addresses: int = 50


def _nothing(number: int) -> Iterator[bytes]:
    return iter(())


def _login(number: int, account: str = ACCOUNT) -> bytes:
    return encodeConnect(f"hostile-{number:03}", True, 0, username=account, password=SECRET.encode())


def _drippedConnect(number: int) -> Iterator[bytes]:
    return (bytes((byte,)) for byte in _login(number))


@cache
def _hello() -> bytes:
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def _drippedHello(number: int) -> Iterator[bytes]:
    return (bytes((byte,)) for byte in _hello())


def _wrongPassword(number: int) -> Iterator[bytes]:
    yield encodeConnect(f"hostile-{number % 100:03}", True, 0, username=ACCOUNT, password=os.urandom(8).hex().encode())


def _loggedIn(chunk: bytes) -> Callable[[int], Iterator[bytes]]:
    def says(number: int) -> Iterator[bytes]:
        yield _login(number)
        yield from repeat(chunk)

    return says


def _subscribe() -> bytes:
    topic = b"d"
    body = struct.pack(">HH", 1, len(topic)) + topic + b"\x01"
    return bytes((0x82, len(body))) + body


@cache
def _publishes(qos: int, first: int, count: int) -> bytes:
    payload = TrackBatch(tracks=[makeTrack(time.time_ns() // 1_000_000, 1)]).SerializeToString()
    return b"".join(encodePublish("t", payload, qos, packetId) for packetId in range(first, first + count))


def _unread(account: str) -> Callable[[int], Iterator[bytes]]:
    def says(number: int) -> Iterator[bytes]:
        yield _login(number, account)
        for first in cycle(range(1, 60_000, 200)):
            yield _publishes(1, first, 200)

    return says


def _halfOpen(account: str) -> Callable[[int], Iterator[bytes]]:
    def says(number: int) -> Iterator[bytes]:
        yield _login(number, account)
        for first in range(1, _OPEN_IDS, 20):
            yield _publishes(2, first, 20)

    return says


ATTACKS = {
    "500 say nothing": Attack(500, _nothing),
    "500 CONNECTs, a byte a second": Attack(500, _drippedConnect, 1.0),
    "300 TLS handshakes, a byte a second": Attack(300, _drippedHello, 1.0, tls=True),
    "connects, from 1 address": Attack(200, _nothing, reads=False, again=True, addresses=1),
    "connects, from 50 addresses": Attack(200, _nothing, reads=False, again=True),
    "wrong passwords, from 1 address": Attack(200, _wrongPassword, again=True, addresses=1),
    "wrong passwords, from 50 addresses": Attack(1500, _wrongPassword, again=True),
    "PINGREQ on 50 links": Attack(50, _loggedIn(PINGREQ * (_CHUNK // 2)), again=True),
    "SUBSCRIBE on 50 links": Attack(50, _loggedIn(_subscribe() * (_CHUNK // 8)), again=True),
    "100 links that send and read no acks": Attack(100, _unread(ACCOUNT), reads=False),
    "the same, of a limited account": Attack(100, _unread(LIMITED), reads=False),
    "QoS 2 half open, on 100 links": Attack(100, _halfOpen(ACCOUNT), 0.1),
    "QoS 2 half open, of a limited account": Attack(100, _halfOpen(LIMITED), 0.1),
}


class Peers:
    """
    As many as an attack has, for some time.

    @ivar opened: connections
    @ivar closed: by the gateway
    """

    def __init__(self, attack: Attack, address: tuple[str, int]) -> None:
        self.attack = attack
        self.opened = 0
        self.closed = 0
        self._address = address
        self._poll = select.epoll()
        self._links: dict[int, _Link] = {}

    def run(self, seconds: float) -> None:
        """
        Attack. What is left is closed.
        """
        for number in range(self.attack.links):
            self._open(number)
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            for descriptor, events in self._poll.poll(0.02, 256):
                self._turn(self._links[descriptor], events)
            if self.attack.pace:
                for link in list(self._links.values()):
                    if link.due <= now and not link.isDone:
                        link.due = now + self.attack.pace
                        self._send(link)
        for link in list(self._links.values()):
            self._close(link)

    def _open(self, number: int) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        if not self.attack.reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        if self.attack.again:
            # A reset at the end, or the ports of an address would run out.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.bind((f"127.0.1.{1 + self.opened % self.attack.addresses}", 0))
        sock.connect_ex(self._address)
        self.opened += 1
        link = _Link(sock, number, self.attack.says(number))
        self._links[sock.fileno()] = link
        self._poll.register(sock, self._wanted(not self.attack.pace))

    def _wanted(self, writes: bool) -> int:
        return select.EPOLLRDHUP | (select.EPOLLIN if self.attack.reads else 0) | (select.EPOLLOUT if writes else 0)

    def _turn(self, link: _Link, events: int) -> None:
        if events & select.EPOLLIN:
            try:
                isClosed = not link.sock.recv(_CHUNK)
            except OSError:
                isClosed = True
        else:
            isClosed = bool(events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR))
        if isClosed:
            self.closed += 1
            self._close(link)
            if self.attack.again:
                self._open(link.number)
        elif events & select.EPOLLOUT:
            self._send(link)

    def _send(self, link: _Link) -> None:
        rest = link.rest or next(link.pieces, b"")
        if rest:
            with contextlib.suppress(OSError):
                rest = rest[link.sock.send(rest) :]
            link.rest = rest
            return
        link.isDone = True
        if self.attack.again and not self.attack.reads:
            self._close(link)
            self._open(link.number)
        else:
            self._poll.modify(link.sock, self._wanted(False))

    def _close(self, link: _Link) -> None:
        descriptor = link.sock.fileno()
        del self._links[descriptor]
        self._poll.unregister(descriptor)
        link.sock.close()


class _Link:
    def __init__(self, sock: socket.socket, number: int, pieces: Iterator[bytes]) -> None:
        self.sock = sock
        self.number = number
        self.pieces = pieces
        self.rest = b""
        self.due = 0.0
        self.isDone = False


def main() -> None:
    """
    Run as a process of its own, with less of a claim on the processor than the gateway and its boxes have.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    os.nice(10)
    attack = ATTACKS[options.attack]
    peers = Peers(attack, ("127.0.0.1", options.tls_port if attack.tls else options.port))
    peers.run(options.seconds)
    print(json.dumps({"opened": peers.opened, "closed": peers.closed}))


if __name__ == "__main__":
    main()
