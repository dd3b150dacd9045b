"""
A link on a transport, whatever its box protocol: bytes to its sans-IO connection and back, the events in their order,
the times, and the end.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import Certificate
from twisted.internet import tcp
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.endpoints.identity import PeerIdentity, isRevoked, peerIdentity
from binaryserver.endpoints.upgrade import isSecure
from binaryserver.errors import PeerError, ProtocolViolation
from binaryserver.session.arrival import ArrivingLink
from binaryserver.session.line import Pause
from binaryserver.session.memorybudget import FREE
from binaryserver.session.reasons import Ending, Reason

if TYPE_CHECKING:
    from binaryserver.admission.allowance import Allowance
    from binaryserver.gateway import Gateway


_SEND_BUFFER = 32_768
_MEMORY_PATIENCE = 5.0

_CONTROL_BURST = 5.0
"""s: how much of C{--control-rate} a link may use at once after it used nothing."""

_SHARE = 16
"""Events other than data of one link in one turn of the reactor: more than ordinary clients send at once."""


@implementer(IPushProducer)
class TransportLink(ArrivingLink, Protocol):
    """
    One link. As a producer it is told by its transport when the peer does not take what it is sent.

    The connection that L{makeConnectionState} gives has C{receiveData(data, now)}, C{dataToSend()}, C{deadline()},
    C{timeout(now)}, C{suspend()}, C{resume(now)}, C{close()} and C{partialSize}, all as those of
    L{binaryserver.mqtt.connection.Connection}.

    @cvar dataEvents: types of events that windows bound; all others share the reactor's turns
    @cvar controlEvents: those of the others that cost us more than a peer's answer: C{--control-rate} is for them, and
        for what the connection answers by itself and counts in C{controls}
    @cvar brokenEvent: the type of the event that says that the peer broke a rule
    """

    log = Logger()
    transport: Any
    _connection: Any

    dataEvents: AbstractSet[type]
    controlEvents: AbstractSet[type] = frozenset()
    brokenEvent: type

    def __init__(self, gateway: Gateway) -> None:
        ArrivingLink.__init__(self, gateway)
        self._boxReason: str | None = None
        self.isHandling = False
        self._budgeted = 0
        self._outputStalledSince: float | None = None
        self._endedAt = 0.0
        self._controlDebt = 0.0
        self._controlAt = 0.0
        self._floodsSince = 0.0

    # What the protocols provide.

    def makeConnectionState(self, now: float) -> Any:
        """
        The sans-IO connection of the link.

        @param now: s of the reactor's clock
        """
        raise NotImplementedError

    def takeData(self, event: Any, events: Sequence[Any], position: int) -> int:
        """
        Take the event at C{position}, one of L{dataEvents}, and maybe some behind it.

        @return: how many were taken; 0: it is to be brought again when the link resumes
        """
        raise NotImplementedError

    def dispatch(self, event: Any) -> None:
        """
        Do what any other event asks for.
        """
        raise NotImplementedError

    def handled(self) -> None:
        """
        The events that one read brought are handled, or as many of them as may be now.
        """

    def broken(self, event: Any) -> None:
        """
        The peer broke a rule: close.

        @param event: of the type L{brokenEvent}
        """
        raise NotImplementedError

    def noteViolation(self, error: PeerError) -> None:
        """
        Count and log that the peer broke a rule.
        """
        self.gateway.counters.violations += 1
        self.log.info(
            "{peer}: link closed: {kind}: {error}",
            kind=type(error).__name__,
            error=str(error),
            peer=self.peer,
            **self.logFields(),
        )

    def parting(self, ending: Ending) -> None:
        """
        The link of a box that is here ends: do, and queue, what is to be last.
        """

    # Twisted's side.

    def connectionMade(self) -> None:
        """
        See L{Protocol.connectionMade}.
        """
        self._connection = self.makeConnectionState(self.gateway.clock.seconds())
        self.peer = getattr(self.transport.getPeer(), "host", "")
        self._traffic = self.gateway.observed.trafficOf(self.protocolName)
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
        traffic = self._traffic
        traffic.bytesIn += len(data)
        traffic.packetsIn += len(events)
        if self.pauses or self.isHandling or self._held:
            self._hold(events)
        else:
            self.handle(events)
        if connection.partialSize > FREE or self._budgeted:
            self._budget(connection.partialSize)
        if connection.controls:
            came, connection.controls = connection.controls, 0
            self._countControls(came)
        if self._allowance is not None and self._ending is None:
            self._allowance.spendBytes(self, len(data))
        self.flushOutput()

    def _countControls(self, came: int) -> None:
        """
        Let a link that floods us with what has no window wait; and close it, where that does not help: it may be one
        that reads nothing, whose answers are too few to show it.
        """
        limits, now = self.gateway.limits, self.gateway.clock.seconds()
        rate = limits.controlRate
        self._traffic.controls += came
        if not rate or self._ending is not None:
            return
        burst = rate * _CONTROL_BURST
        debt = max(0.0, self._controlDebt - (now - self._controlAt) * rate)
        if debt < burst / 2:
            self._floodsSince = now
        self._controlDebt = debt + came
        self._controlAt = now
        wait = (self._controlDebt - burst) / rate
        if max(wait, now - self._floodsSince) > limits.outputTimeout:
            self.noteViolation(ProtocolViolation(f"more than {rate:g} PINGREQs, SUBSCRIBEs and the like a second"))
            self._abort(Ending(Reason.networkError, "it asks for too much"))
        elif wait > 0 and not self.pauses & Pause.controls:
            self.pause(Pause.controls)
            self.gateway.clock.callLater(wait, self.resume, Pause.controls)

    def _hold(self, events: list[Any]) -> None:
        """
        Events that may not be handled yet. A transport may deliver one more read after it was paused.
        """
        if self.pauses & Pause.claiming and events and type(events[-1]) is self.brokenEvent:
            self.broken(events[-1])
        else:
            self._held += events

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol.connectionLost}.
        """
        # Nobody hears what would be said last.
        self._connection.close()
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
            self.flushOutput()
        if self.pausedFor(Pause.claiming, now) > self.gateway.limits.outputTimeout:
            self._abort(Ending(Reason.socketClosed, "the session store did not answer in time"))
        elif self.pausedFor(Pause.memory, now) > _MEMORY_PATIENCE:
            self.gateway.memory.reclaim()
        elif self._isOpen:
            self.checkDeadline(now)

    # Events.

    def handle(self, events: list[Any]) -> None:
        """
        What one read brought, in its order; and what was held meanwhile, if the link may go on.
        """
        self.isHandling = True
        share = _SHARE
        dataEvents = self.dataEvents
        try:
            while True:
                position = 0
                while position < len(events):
                    event = events[position]
                    if type(event) in dataEvents:
                        if self._allowance is None:
                            position += self.takeData(event, events, position)
                        else:
                            position += self._takeAllowed(self._allowance, events, position)
                    else:
                        self.dispatch(event)
                        position += 1
                        share -= 1
                        if type(event) in self.controlEvents:
                            self._countControls(1)
                        if not share and not self.pauses:
                            self._waitForTurn()
                    if self.pauses:
                        # What is not handled yet keeps its turn, ahead of all that is read later.
                        self._held[:0] = events[position:]
                        break
                self.settleIfDue()
                self.handled()
                if self.pauses or not self._held:
                    return
                events, self._held = self._held, []
        finally:
            self.isHandling = False

    def _takeAllowed(self, allowance: Allowance, events: list[Any], position: int) -> int:
        """
        Take data as far as the account may send more; see L{takeData}.
        """
        room = allowance.room
        if not room:
            allowance.wait(self)
            return 0
        if len(events) - position > room:
            events = events[: position + room]
        taken = self.takeData(events[position], events, position)
        allowance.spendMessages(taken)
        return taken

    def _waitForTurn(self) -> None:
        """
        Let the other links have the reactor. Data has its windows; this is for what has none.
        """
        self.pause(Pause.turn)
        self.gateway.clock.callLater(0, self.resume, Pause.turn)

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

    # Ends.

    def identity(self) -> PeerIdentity | None:
        """
        Whom a client certificate proved the peer to be.
        """
        return peerIdentity(self.transport)

    @property
    def isSecure(self) -> bool:
        """
        See L{ArrivingLink.isSecure}.
        """
        return isSecure(self.transport)

    @property
    def isCertificateRevoked(self) -> bool:
        """
        See L{ArrivingLink.isCertificateRevoked}.
        """
        return isRevoked(self.transport)

    def peerCertificate(self) -> Certificate | None:
        """
        The verified client certificate; L{None}: there is none.
        """
        getPeerCertificate = getattr(self.transport, "getPeerCertificate", None)
        shown = None if getPeerCertificate is None else getPeerCertificate()
        return None if shown is None else shown.to_cryptography()

    @property
    def certificateDigest(self) -> str:
        """
        See L{ArrivingLink.certificateDigest}.
        """
        certificate = self.peerCertificate()
        return "" if certificate is None or self.identity() is None else certificate.fingerprint(SHA256()).hex()

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
        if self._isOpen:
            self.parting(ending)
        self.pauses |= Pause.closing
        self._held = []
        self.gateway.memory.release(self)
        self._dropAllowance()
        self.transport.unregisterProducer()
        if self._isOpen:
            self.closed(ending, self._boxReason)
        self.flushOutput()
        self._connection.close()
        return True

    # Bytes.

    def flushOutput(self) -> None:
        """
        Write what the connection has queued.
        """
        data = self._connection.dataToSend()
        if data:
            transport = self.transport
            transport.write(data)
            self._traffic.bytesOut += len(data)
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
        Ask for the memory of what is not whole yet, or give it back.
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
