"""
The UDP side of MD21: one socket of an instance, and the ways to its boxes on it (docs/md21.md).

A link on TCP opens a way, tells its box the way's token, and closes it when it ends. A datagram without the token of
an open way is dropped and never answered. What is sent goes to where the newest datagram of the box came from, and is
never more than a small multiple of what came from there: not even who has a token can turn the socket on somebody else.
"""

from __future__ import annotations

import secrets
from heapq import heappop, heappush
from ipaddress import ip_address
from itertools import count
from typing import Any, Final, NamedTuple

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from binaryserver.md21.udpway import Address, DatagramLink, UdpCounters, UdpWay
from binaryserver.md21.values import TOKEN_SIZE, UdpOffer

_REPORT_PERIOD: Final = 60.0
_TOKEN_MASK: Final = (1 << 8 * TOKEN_SIZE) - 1


class Advertised(NamedTuple):
    """
    What boxes are told instead of what the socket knows of itself.

    @ivar host: a host name or an IP address
    @ivar port: 0: the port of the socket
    """

    host: str
    port: int = 0


class UdpSide(DatagramProtocol):
    """
    The socket.

    @ivar clock: the reactor
    @ivar counters: see L{UdpCounters}
    @ivar heldBytes: bytes of PDUs of all ways that wait for an earlier one
    """

    noisy = False
    log = Logger()

    def __init__(self, clock: Any, advertised: Advertised | None = None) -> None:
        """
        @param advertised: where boxes are told to send; L{None}: as the socket and their link on TCP show it
        """
        self.clock = clock
        self.counters = UdpCounters()
        self.heldBytes = 0
        self._advertised = advertised
        # A look-up tells by its time neither how much of a token is right nor that there is a similar one: what is
        # compared first is a hash under a key of this process.
        self._ways: dict[bytes, UdpWay] = {}
        self._due: list[tuple[float, int, UdpWay]] = []
        self._turns = count()
        self._timer: IDelayedCall | None = None
        self._reported = 0
        self._reportedAt = float("-inf")

    def open(self, link: DatagramLink, localHost: str) -> UdpWay | None:
        """
        Make a way, with a token of its own.

        @param localHost: the IP address of the server's end of the link on TCP
        @return: L{None}: the socket is not bound, or not where this box could come; or TLS protects the link, as it
            would not protect the datagrams
        """
        bound = self.transport
        told = None if bound is None or link.isSecure else self._told(bound.getHost(), localHost)
        if told is None:
            return None
        way = UdpWay(self, link, UdpOffer(told.host, told.port, secrets.token_bytes(TOKEN_SIZE)))
        self._ways[way.offer.token] = way
        return way

    def forget(self, way: UdpWay) -> None:
        """
        Its token is void.
        """
        del self._ways[way.offer.token]

    def _told(self, here: Any, localHost: str) -> Advertised | None:
        """
        Where the box is to send.

        @param here: where the socket is bound: an C{IPv4Address} or C{IPv6Address}
        """
        if self._advertised is not None:
            return self._advertised._replace(port=self._advertised.port or here.port)
        bound = ip_address(here.host.partition("%")[0])
        if not bound.is_unspecified:
            return Advertised(here.host, here.port)
        try:
            local = ip_address(localHost.partition("%")[0])
        except ValueError:
            return None
        local = getattr(local, "ipv4_mapped", None) or local
        if local.version > bound.version:
            return None
        return Advertised(str(local), here.port)

    # The socket.

    def datagramReceived(self, datagram: bytes, addr: Address) -> None:
        """
        See L{DatagramProtocol.datagramReceived}.
        """
        way = self._ways.get(tokenOf(datagram))
        if way is None:
            self.counters.foreign += 1
            self._report()
            return
        try:
            way.received(datagram, addr)
        except Exception:
            way.fail()

    def write(self, datagram: bytes, address: Address) -> None:
        """
        Send, if the socket takes it. What it does not take is lost as others are.
        """
        bound = self.transport
        assert bound is not None, "ways are closed with the socket"
        try:
            bound.write(datagram, address)
        except OSError as error:
            self.counters.unsent += 1
            self.log.debug("a datagram was not sent: {reason}", reason=str(error))
        else:
            self.counters.sent += 1

    def stopProtocol(self) -> None:
        """
        See L{DatagramProtocol.stopProtocol}.
        """
        self.transport = None
        for way in list(self._ways.values()):
            way.close()
        self._due.clear()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self.log.info("datagrams counted since the start: {counted}", counted=self.counters.asDict())

    def _report(self) -> None:
        """
        Say once a minute at most that somebody sends what he should not.
        """
        now = self.clock.seconds()
        if now - self._reportedAt >= _REPORT_PERIOD:
            foreign = self.counters.foreign
            self.log.info("{count} datagrams without a valid token were dropped", count=foreign - self._reported)
            self._reported, self._reportedAt = foreign, now

    # One timer for all ways.

    def schedule(self, way: UdpWay, due: float) -> None:
        """
        Call C{way.flush} then, or earlier.

        @param due: s
        """
        if way.due is None or due < way.due:
            way.due = due
            heappush(self._due, (due, next(self._turns), way))
            self._setTimer()

    def _setTimer(self) -> None:
        if not self._due:
            return
        due = self._due[0][0]
        timer = self._timer
        if timer is not None and timer.active():
            if timer.getTime() <= due:
                return
            timer.cancel()
        self._timer = self.clock.callLater(max(0.0, due - self.clock.seconds()), self._tick)

    def _tick(self) -> None:
        now = self.clock.seconds()
        while self._due and self._due[0][0] <= now:
            due, _, way = heappop(self._due)
            if way.due == due:
                way.due = None
                try:
                    way.flush(now)
                except Exception:
                    way.fail()
        self._setTimer()


def tokenOf(datagram: bytes) -> bytes:
    """
    The token that a datagram shows, without reading the rest of it: who floods the socket has none. Empty: it is no
    C{transport}.
    """
    # 5 bits say that it is one; one each for what a later version adds and for the PDU; the token; what follows.
    if len(datagram) <= TOKEN_SIZE or datagram[0] >> 3:
        return b""
    bits = int.from_bytes(datagram[: TOKEN_SIZE + 1], "big")
    return (bits >> 1 & _TOKEN_MASK).to_bytes(TOKEN_SIZE, "big")
