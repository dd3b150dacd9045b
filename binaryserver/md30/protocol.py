"""
MD30 on a transport: MQTT's packets to and from what the gateway does for a box.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.plugin import IPlugin
from zope.interface import implementer

from binaryserver.errors import PeerTimeout
from binaryserver.interfaces import IBoxProtocol
from binaryserver.md30.client import Md30Client
from binaryserver.md30.topics import TopicSpace
from binaryserver.mqtt.connection import Connection
from binaryserver.mqtt.events import Broken
from binaryserver.session.reasons import Ending, Reason

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway


class Md30Link(Md30Client):
    """
    One link.
    """

    log = Logger()

    def makeConnectionState(self, now: float) -> Connection:
        """
        See L{binaryserver.session.transportlink.TransportLink.makeConnectionState}.
        """
        limits = self.gateway.limits
        return Connection(now, limits.maxPacket, limits.connectTimeout, limits.packetTimeout)

    def broken(self, event: Broken) -> None:
        """
        See L{binaryserver.session.transportlink.TransportLink.broken}.
        """
        error = event.error
        self.noteViolation(error)
        timedOut = isinstance(error, PeerTimeout)
        reason = Reason.networkActivityTimeout if timedOut else Reason.networkError
        ending = Ending(reason, str(error))
        if timedOut:
            self._abort(ending)
        else:
            self.end(ending)


@implementer(IPlugin, IBoxProtocol)
class Md30:
    """
    The plugin.
    """

    name = "md30"

    def buildFactory(self, gateway: Gateway) -> Factory:
        """
        See L{IBoxProtocol.buildFactory}.
        """
        topics = TopicSpace(gateway.codecs)
        factory: Factory = Factory.forProtocol(lambda: Md30Link(gateway, topics))
        factory.noisy = False
        return factory
