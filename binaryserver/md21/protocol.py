"""
MD21 on a transport: PDUs to and from what the gateway does for a box, and TLS where the box asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL.SSL import Error
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.endpoints.credentials import opensslReason
from binaryserver.interfaces import IBoxProtocol
from binaryserver.md21.client import Md21Client
from binaryserver.md21.connection import Connection
from binaryserver.md21.states import ConnectionState
from binaryserver.md21.timers import Timeouts
from binaryserver.md21.values import MAX_PDU

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway

_RECORD_OVERHEAD = 4096
"""Bytes that the record of a file has beside the file, at most."""


@implementer(IHandshakeListener)
class Md21Link(Md21Client):
    """
    One link.
    """

    log = Logger()

    def makeConnectionState(self, now: float) -> Connection:
        """
        See L{binaryserver.session.transportlink.TransportLink.makeConnectionState}.
        """
        limits, settings = self.gateway.limits, self.gateway.md21
        timeouts = Timeouts(
            limits.connectTimeout,
            limits.connectTimeout if settings.upgrade is None else settings.upgrade.handshakeTimeout,
            limits.packetTimeout,
            settings.activityTimeout,
            settings.ackTimeout,
        )
        maxFile = max(0, min(limits.maxPacket, self.gateway.bus.maxRecord - _RECORD_OVERHEAD))
        return Connection(now, min(limits.maxPacket, MAX_PDU), maxFile, timeouts)

    def startTls(self) -> None:
        """
        See L{Md21Client.startTls}.
        """
        upgrade = self.gateway.md21.upgrade
        assert upgrade is not None
        # In the clear, and before TLS has its first byte to send.
        self.flushOutput()
        upgrade.start(self)

    def handshakeCompleted(self) -> None:
        """
        See L{IHandshakeListener.handshakeCompleted}. Of a link that had TLS from its beginning nobody listens here.
        """
        if self._ending is None:
            self._connection.secured(self.gateway.clock.seconds())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{binaryserver.session.transportlink.TransportLink.connectionLost}.
        """
        if self._connection.state is ConnectionState.awaitingTls:
            self.gateway.counters.refusals += 1
            why = opensslReason(reason.value) if isinstance(reason.value, Error) else "the peer closed the link"
            self.log.info("{peer}: no TLS handshake: {why}", peer=self.peer, why=why)
        Md21Client.connectionLost(self, reason)


@implementer(IPlugin, IBoxProtocol)
class Md21:
    """
    The plugin.
    """

    name = "md21"

    def buildFactory(self, gateway: Gateway) -> Factory:
        """
        See L{IBoxProtocol.buildFactory}.
        """
        factory: Factory = Factory.forProtocol(lambda: Md21Link(gateway))
        factory.noisy = False
        return factory
