"""
The link of a simulated box: MQTT packets over a transport. What they mean is decided in
L{binaryserver.tools.box_client}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPushProducer, IReactorTime, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.errors import PeerError
from binaryserver.mqtt.framing import Framing
from binaryserver.mqtt.parsers import FROM_SERVER
from binaryserver.tools.box_client import Box

MAX_PACKET = 262_144
"""bytes: the largest packet that a box takes."""


@implementer(IPushProducer)
class BoxLink(Protocol):
    """
    One link of one box.

    @ivar paused: the transport has enough to write for now
    """

    transport: Any
    """An L{ITCPTransport} and L{IConsumer}; TLS over one likewise."""

    def __init__(self, box: Box, clock: IReactorTime) -> None:
        self.paused = False
        self._box = box
        self._clock = clock
        self._framing = Framing(FROM_SERVER, MAX_PACKET)

    def connectionMade(self) -> None:
        """
        See L{Protocol.connectionMade}.
        """
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self._box.linkUp(self, self._clock.seconds())

    def dataReceived(self, data: bytes) -> None:
        """
        See L{Protocol.dataReceived}.
        """
        now = self._clock.seconds()
        try:
            self._box.packetsReceived(self._framing.feed(data), now)
        except PeerError as error:
            self._box.peerBroke(error, now)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol.connectionLost}.
        """
        self._box.linkDown(reason.getErrorMessage(), self._clock.seconds())

    def send(self, data: bytes) -> None:
        """
        See L{binaryserver.tools.box_client.Link.send}.
        """
        self.transport.write(data)

    def cut(self) -> None:
        """
        See L{binaryserver.tools.box_client.Link.cut}.
        """
        self.transport.abortConnection()

    def leave(self) -> None:
        """
        See L{binaryserver.tools.box_client.Link.leave}.
        """
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def pauseProducing(self) -> None:
        """
        See L{IPushProducer.pauseProducing}.
        """
        self.paused = True

    def resumeProducing(self) -> None:
        """
        See L{IPushProducer.resumeProducing}.
        """
        self.paused = False
        self._box.fill(self._clock.seconds())

    def stopProducing(self) -> None:
        """
        See L{IPushProducer.stopProducing}.
        """
        self.paused = True


class BoxLinkFactory(Factory):
    """
    Makes the link of one box.
    """

    noisy = False

    def __init__(self, box: Box, clock: IReactorTime) -> None:
        self._box = box
        self._clock = clock

    def buildProtocol(self, addr: object) -> BoxLink:
        """
        See L{Factory.buildProtocol}.
        """
        return BoxLink(self._box, self._clock)
