"""
What a connection must pass before it costs anything: how many there are, how many are still shaking hands, and how
often its address comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.endpoints.addressrate import AddressRates, addressKey

PATIENCE = 3.0
"""s that a handshake may take once there are too many: the oldest makes room then."""
LOG_INTERVAL = 1.0
"""s between two lines about refused connections."""


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """
    Of one process; 0: none.

    @ivar links: connections at once
    @ivar handshakes: of those, in a TLS handshake or before the end of their PROXY header
    @ivar addressRate: new connections of one address, 1/s; twice as many at once
    """

    links: int = 0
    handshakes: int = 0
    addressRate: float = 0


@dataclass(slots=True)
class DoorCounts:
    """
    What the door saw.

    @ivar links: connections now
    @ivar handshakes: of those, not yet through their handshake
    @ivar refusedLinks: connections refused because there were too many
    @ivar refusedAddress: because their address came too often
    @ivar slowHandshakes: ended because others waited
    @ivar pauses: how often a listener stopped accepting, as too many were in their handshake
    """

    links: int = 0
    handshakes: int = 0
    refusedLinks: int = 0
    refusedAddress: int = 0
    slowHandshakes: int = 0
    pauses: int = 0

    @property
    def refused(self) -> int:
        """
        Connections that were ended by the door, for whichever reason.
        """
        return self.refusedLinks + self.refusedAddress + self.slowHandshakes


class Door:
    """
    Shared by all listeners of a process for boxes.

    Too many connections, or too many of one address, are closed as they are accepted. Of handshakes too many means that
    listeners accept no more until some are done: a fleet that comes back waits in the kernel's queue, or goes to
    another worker, rather than to be refused and come again. Those who are slow must not hold up the others: while it
    is so, whoever has been at it for L{PATIENCE} is closed, the oldest first.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, limits: DoorLimits, counts: DoorCounts) -> None:
        self.limits = limits
        self.counts = counts
        self._clock = clock
        self._rates = AddressRates(limits.addressRate) if limits.addressRate else None
        # By their beginning, as a dict keeps its order.
        self._handshakes: dict[Place, float] = {}
        self._paused: list[Any] = []
        self._relief: IDelayedCall | None = None
        self._logging: IDelayedCall | None = None
        self._logged = DoorCounts()
        self._listeners = 0

    def setLimits(self, limits: DoorLimits) -> None:
        """
        Have other limits from now on. Connections that are there stay.
        """
        if limits.addressRate != self.limits.addressRate:
            self._rates = AddressRates(limits.addressRate) if limits.addressRate else None
        self.limits = limits
        if self._paused and not self._isFull():
            self._resume()

    def guard(self, factory: IProtocolFactory, isProxied: bool) -> IProtocolFactory:
        """
        The factory for connections as they are accepted.

        @param isProxied: their address is what a PROXY header will announce
        """
        return DoorFactory(self, factory, isProxied)

    # Connections.

    def admits(self, address: IAddress | None) -> bool:
        """
        Whether one more connection may be, from where it comes from; L{None}: that is not known yet.
        """
        if self.limits.links and self.counts.links >= self.limits.links:
            self.counts.refusedLinks += 1
            self._noteRefusal()
            return False
        return self.admitsAddress(address)

    def admitsAddress(self, address: IAddress | None) -> bool:
        """
        Whether an address may connect now. Counts it.
        """
        key = None if self._rates is None else addressKey(address)
        if self._rates is None or key is None or self._rates.admit(key, self._clock.seconds()):
            return True
        self.counts.refusedAddress += 1
        self._noteRefusal()
        return False

    def entered(self) -> None:
        """
        A connection is made.
        """
        self.counts.links += 1

    def left(self, place: Place) -> None:
        """
        It is gone.
        """
        self.counts.links -= 1
        self.handshakeDone(place)

    # Handshakes.

    def handshakeBegan(self, place: Place) -> None:
        """
        A connection is in its handshake, or in what precedes it.
        """
        self._handshakes.setdefault(place, self._clock.seconds())
        self.counts.handshakes = len(self._handshakes)
        if not self._isFull():
            return
        # Whoever accepted it; other transports than those of Twisted's listeners do not say.
        port = getattr(place.transport, "server", None)
        if port is not None and port not in self._paused:
            port.stopReading()
            self._paused.append(port)
            self.counts.pauses += 1
        if self._relief is None:
            self._relieve()

    def handshakeDone(self, place: Place) -> None:
        """
        A connection is through, or gone.
        """
        if self._handshakes.pop(place, None) is None:
            return
        self.counts.handshakes = len(self._handshakes)
        if self._paused and not self._isFull():
            self._resume()

    def _isFull(self) -> bool:
        return 0 < self.limits.handshakes <= len(self._handshakes)

    def _resume(self) -> None:
        paused, self._paused = self._paused, []
        for port in paused:
            if port.connected and not port.disconnecting:
                port.startReading()

    def _relieve(self) -> None:
        """
        End those who are slow, and come again when the next may be.
        """
        self._relief = None
        latest = self._clock.seconds() - PATIENCE
        while self._isFull():
            oldest = next(iter(self._handshakes))
            began = self._handshakes[oldest]
            if began > latest:
                self._relief = self._clock.callLater(began - latest, self._relieve)
                return
            self.counts.slowHandshakes += 1
            self._noteRefusal()
            self.handshakeDone(oldest)
            oldest.transport.abortConnection()

    # What operators are told.

    def _noteRefusal(self) -> None:
        if self._logging is None:
            # Not at once: what one turn of the reactor refuses is one line.
            self._logging = self._clock.callLater(0, self._tell)

    def _tell(self) -> None:
        self._logging = None
        if self.counts.refused != self._logged.refused:
            self._log()
            self._logging = self._clock.callLater(LOG_INTERVAL, self._tell)

    def _log(self) -> None:
        now, before = self.counts, self._logged
        self.log.warn(
            "connections refused: {links} over --max-links, {address} over --address-rate; slow handshakes ended: "
            "{slow} over --max-handshakes",
            links=now.refusedLinks - before.refusedLinks,
            address=now.refusedAddress - before.refusedAddress,
            slow=now.slowHandshakes - before.slowHandshakes,
        )
        self._logged = replace(now)

    def opened(self) -> None:
        """
        A listener begins.
        """
        self._listeners += 1

    def closed(self) -> None:
        """
        A listener ends; after the last nothing is timed any more.
        """
        self._listeners -= 1
        if self._listeners:
            return
        if self.counts.refused != self._logged.refused:
            self._log()
        for timer in (self._relief, self._logging):
            if timer is not None:
                timer.cancel()
        self._relief = self._logging = None
        self._paused.clear()


@implementer(IProtocol)
class Place:
    """
    Stands for a connection's protocol towards its transport, to know when it ends. What is read goes past it.

    @ivar dataReceived: the protocol's own
    """

    __slots__ = ("_door", "_protocol", "dataReceived", "transport")

    dataReceived: Callable[[bytes], None]
    transport: Any

    def __init__(self, door: Door, protocol: IProtocol) -> None:
        self._door = door
        self.carry(protocol)

    def carry(self, protocol: IProtocol) -> None:
        """
        Stand for this protocol from now on.
        """
        self._protocol = protocol
        self.dataReceived = protocol.dataReceived

    def makeConnection(self, transport: Any) -> None:
        """
        See L{IProtocol.makeConnection}.
        """
        self.transport = transport
        # Not earlier: of what is not connected nobody tells the end.
        self._door.entered()
        self._protocol.makeConnection(transport)

    def connectionMade(self) -> None:
        """
        See L{IProtocol.connectionMade}.
        """
        self._protocol.connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{IProtocol.connectionLost}.
        """
        self._door.left(self)
        self._protocol.connectionLost(reason)

    def handshakeBegan(self) -> None:
        """
        The connection waits for its peer's part of a handshake, or for a PROXY header.
        """
        self._door.handshakeBegan(self)

    def handshakeDone(self) -> None:
        """
        That is over.
        """
        self._door.handshakeDone(self)

    def admitsAddress(self, address: IAddress | None) -> bool:
        """
        Whether the connection may go on, now that its address is known; L{None}: it is not said.
        """
        return self._door.admitsAddress(address)


def placeOf(transport: Any) -> Place | None:
    """
    The place of a link of any kind; L{None}: it came by no door.
    """
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    protocol = getattr(transport, "protocol", None)
    return protocol if isinstance(protocol, Place) else None


class DoorFactory(Factory):
    """
    The outermost of a listener. What may not come in is closed by the listener itself, without a byte.
    """

    noisy = False

    def __init__(self, door: Door, wrapped: IProtocolFactory, isProxied: bool) -> None:
        self.door = door
        self.wrappedFactory = wrapped
        self._isProxied = isProxied

    def doStart(self) -> None:
        """
        See L{IProtocolFactory.doStart}.
        """
        self.wrappedFactory.doStart()
        super().doStart()

    def doStop(self) -> None:
        """
        See L{IProtocolFactory.doStop}.
        """
        self.wrappedFactory.doStop()
        super().doStop()

    def startFactory(self) -> None:
        """
        See L{Factory.startFactory}.
        """
        self.door.opened()

    def stopFactory(self) -> None:
        """
        See L{Factory.stopFactory}.
        """
        self.door.closed()

    def buildProtocol(self, addr: IAddress | None) -> Place | None:  # type: ignore[override]
        """
        See L{IProtocolFactory.buildProtocol}.
        """
        if not self.door.admits(None if self._isProxied else addr):
            return None
        protocol = self.wrappedFactory.buildProtocol(addr)  # type: ignore[arg-type]
        return None if protocol is None else Place(self.door, protocol)
