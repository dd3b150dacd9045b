"""
MD30 on a transport: MQTT's packets to and from what the gateway does for a box.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from twisted.internet import tcp
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.endpoints.identity import PeerIdentity, peerIdentity
from binaryserver.errors import PeerTimeout
from binaryserver.interfaces import IBoxProtocol
from binaryserver.md30.client import Md30Client
from binaryserver.md30.topics import TopicSpace
from binaryserver.mqtt.connection import Connection
from binaryserver.mqtt.events import Broken
from binaryserver.session.line import Pause
from binaryserver.session.memorybudget import FREE
from binaryserver.session.reasons import Ending, Reason

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway


_SEND_BUFFER = 32_768
_MEMORY_PATIENCE = 5.0


@implementer(IPushProducer)
class Md30Link(Md30Client, Protocol):
    """
    One link. As a producer it is told by its transport when the peer does not take what it is sent.
    """

    log = Logger()
    protocolName = "md30"
    transport: Any

    def __init__(self, gateway: Gateway, topics: TopicSpace) -> None:
        Md30Client.__init__(self, gateway, topics)
        self._budgeted = 0
        self._outputStalledSince: float | None = None
        self._endedAt = 0.0

    # Twisted's side.

    def connectionMade(self) -> None:
        """
        See L{Protocol.connectionMade}.
        """
        now = self.gateway.clock.seconds()
        limits = self.gateway.limits
        self._connection = Connection(now, limits.maxPacket, limits.connectTimeout, limits.packetTimeout)
        self.peer = getattr(self.transport.getPeer(), "host", "")
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        _boundBuffers(self.transport)
        self.transport.registerProducer(self, True)
        self.gateway.registry.links.add(self)
        self._place = self.gateway.sweeper.add(self)
        if self.gateway.isDraining:
            self._abort(Ending(Reason.serverShutdown))

    def dataReceived(self, data: bytes) -> None:
        """
        See L{Protocol.dataReceived}.
        """
        connection = self._connection
        events = connection.receiveData(data, self.gateway.clock.seconds())
        if self.pauses & Pause.claiming and events and type(events[-1]) is Broken:
            self.broken(events[-1])
        elif self.pauses or self.isHandling or self._held:
            # A transport may deliver one more read after it was paused.
            self._held += events
        else:
            self.handle(events)
        if connection.partialSize > FREE or self._budgeted:
            self._budget(connection.partialSize)
        self.flushOutput()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol.connectionLost}.
        """
        if self._ending is None:
            if reason.check(ConnectionDone):
                self._leave(Ending(Reason.socketClosed))
            else:
                self._leave(Ending(Reason.networkError, reason.getErrorMessage()))
        self.gateway.registry.links.discard(self)
        self.gateway.sweeper.remove(self, self._place)

    def pauseProducing(self) -> None:
        """
        The peer does not read what it is sent.
        """
        self._outputStalledSince = self.gateway.clock.seconds()
        self.pause(Pause.output)

    def resumeProducing(self) -> None:
        """
        It does again.
        """
        self._outputStalledSince = None
        self.resume(Pause.output)
        self.gateway.delivery.readable(self)

    def stopProducing(self) -> None:
        """
        The transport is lost; L{connectionLost} follows.
        """

    def sweep(self, now: float) -> None:
        """
        See L{binaryserver.session.sweeper.Swept}.
        """
        if self._ending is not None:
            if now - self._endedAt > self.gateway.limits.outputTimeout:
                self.transport.abortConnection()
            return
        stalled = self._outputStalledSince
        if stalled is not None and now - stalled > self.gateway.limits.outputTimeout:
            self._abort(Ending(Reason.networkError, "it did not take what it was sent"))
            return
        due = self._connection.deadline()
        if due is not None and due <= now:
            broken = self._connection.timeout(now)
            if broken is not None:
                self.broken(broken)
                return
        if self.pausedFor(Pause.claiming, now) > self.gateway.limits.outputTimeout:
            self._abort(Ending(Reason.socketClosed, "the session store did not answer in time"))
        elif self.pausedFor(Pause.memory, now) > _MEMORY_PATIENCE:
            self.gateway.memory.reclaim()
        elif self._isOpen:
            self.checkDeadline(now)

    # What the other half asks for.

    def identity(self) -> PeerIdentity | None:
        """
        See L{Md30Client.identity}.
        """
        return peerIdentity(self.transport)

    def pauseReading(self) -> None:
        """
        See L{BoxLink.pauseReading}.
        """
        self._connection.suspend()
        self.transport.pauseProducing()

    def resumeReading(self) -> None:
        """
        See L{BoxLink.resumeReading}.
        """
        self._connection.resume(self.gateway.clock.seconds())
        if self._held and not self.isHandling:
            held, self._held = self._held, []
            try:
                self.handle(held)
            except Exception:
                # It may be another link's data that made room for this one: that one must not suffer for it.
                self.log.failure("a link failed in an unforeseen way")
                self._abort(Ending(Reason.networkError, "it failed in an unforeseen way"))
        if not self.pauses:
            self.transport.resumeProducing()
        self.flushOutput()

    def end(self, ending: Ending) -> None:
        """
        See L{BoxLink.end}.
        """
        if ending.reason is Reason.takeover:
            self._abort(ending)
        elif self._leave(ending):
            self.flushOutput()
            self.transport.loseConnection()

    def abort(self) -> None:
        """
        See L{BoxLink.abort}.
        """
        self.transport.abortConnection()

    # Ends.

    def broken(self, event: Broken) -> None:
        """
        See L{Md30Client.broken}.
        """
        error = event.error
        self.gateway.counters.violations += 1
        self.log.info(
            "{peer}: link closed: {kind}: {error}", kind=type(error).__name__, error=str(error), peer=self.peer
        )
        timedOut = isinstance(error, PeerTimeout)
        reason = Reason.networkActivityTimeout if timedOut else Reason.networkError
        ending = Ending(reason, str(error))
        if timedOut:
            self._abort(ending)
        else:
            self.end(ending)

    def _abort(self, ending: Ending) -> None:
        if self._leave(ending):
            self.transport.abortConnection()

    def _leave(self, ending: Ending) -> bool:
        """
        Nothing is taken from the link any more; its box is told to have left.

        @return: whether that is new
        """
        if self._ending is not None:
            return False
        self._ending = ending
        self._endedAt = self.gateway.clock.seconds()
        if self._isOpen and self._will is not None and not ending.isClean:
            self.publishWill(self._will)
        self.pauses |= Pause.closing
        self._held = []
        self.gateway.memory.release(self)
        self.transport.unregisterProducer()
        if self._isOpen:
            self.closed(ending, self._boxReason)
        self.flushOutput()
        self._connection.close()
        return True

    # Bytes.

    def flushOutput(self) -> None:
        """
        See L{Md30Client.flushOutput}.
        """
        data = self._connection.dataToSend()
        if data:
            transport = self.transport
            transport.write(data)
            if (
                isinstance(transport, tcp.Connection)
                and transport.connected
                and not (transport.disconnecting or self.pauses & Pause.output)
            ):
                # Now, and not with the reactor's next turn, which costs more than all else about an ack. An error comes
                # back there. Not once the connection is lost: it has no socket any more.
                transport.doWrite()

    def _budget(self, size: int) -> None:
        """
        Ask for the memory of a packet that is not whole yet, or give it back.
        """
        size = size if size > FREE else 0
        if size != self._budgeted and self._ending is None:
            memory = self.gateway.memory
            if self._budgeted:
                memory.release(self)
            self._budgeted = size
            if size and not memory.request(self, size):
                self.pause(Pause.memory)
            elif self.pauses & Pause.memory:
                # What it waited for has come whole, or is granted now.
                self.resume(Pause.memory)

    def memoryReclaimed(self) -> None:
        """
        See L{binaryserver.session.memorybudget.Waiter}.
        """
        self._abort(Ending(Reason.networkError, "its unfinished packet was in the way of others'"))

    def memoryGranted(self) -> None:
        """
        See L{binaryserver.session.memorybudget.Waiter}.
        """
        self.resume(Pause.memory)


def _boundBuffers(transport: Any) -> None:
    """
    Let a link's socket bring, and its output hold, no more at a time than L{FREE} bytes: what comes with the read that
    shows a large packet is kept before its memory is asked for.
    """
    while hasattr(transport, "transport"):
        transport = transport.transport
    transport.bufferSize = FREE
    if hasattr(transport, "socket"):
        # Left to itself the kernel holds megabytes for a peer that reads nothing, before anybody notices.
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


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
