"""
How a box comes in, whatever its protocol: the directory admits it, the session store gives it to its link, and it is
told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import StoreError
from binaryserver.model import BoxKey, Claim
from binaryserver.proto import cloudnext_pb2
from binaryserver.session.line import Pause
from binaryserver.session.link import BoxLink
from binaryserver.session.reasons import Ending
from binaryserver.session.sessionwriter import SessionWriter

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway


class ArrivingLink(BoxLink):
    """
    Subclassed by L{binaryserver.session.transportlink.TransportLink}.

    @cvar protocolNumber: as events name the protocol
    @ivar arrivalReason: why the box comes, in the words of presences; empty: it does not say
    """

    log = Logger()

    protocolNumber: cloudnext_pb2.Protocol

    def __init__(self, gateway: Gateway) -> None:
        BoxLink.__init__(self, gateway)
        self.arrivalReason = ""
        # Events that are not handled yet.
        self._held: list[Any] = []
        self._isOpen = False
        self._ending: Ending | None = None
        self._writer: SessionWriter | None = None

    # What the protocols provide.

    def refuseArrival(self, failure: Failure | None) -> None:
        """
        The box may not come in: tell it, and end.

        @param failure: the session store's; L{None}: the directory does not admit it
        """
        raise NotImplementedError

    def accept(self, claim: Claim) -> list[Any]:
        """
        The box is here: tell it.

        @return: the events that it had sent ahead
        """
        raise NotImplementedError

    def arrived(self, claim: Claim) -> None:
        """
        Its presence is told.
        """

    def flushOutput(self) -> None:
        """
        Write what the connection has queued.
        """
        raise NotImplementedError

    # Arriving.

    def arrive(self, account: str, asset: str, secret: bytes | None, isCertified: bool, clean: bool) -> None:
        """
        A box says who it is: ask the directory and the session store, and go on with L{accept} or L{refuseArrival}.

        @param clean: its MQTT session is to be forgotten
        """
        self.pause(Pause.claiming)
        admitted = self.gateway.directory.admit(account, asset, secret, isCertified)
        admitted.addCallback(self._admitted, asset, clean).addErrback(self._arrivalFailed)

    def _admitted(self, account: str | None, asset: str, clean: bool) -> Deferred[None] | None:
        if self._ending is not None:
            return None
        if account is None:
            self.refuseArrival(None)
            return None
        claim = self.gateway.registry.claim(
            self, BoxKey(account, asset), self.protocolName, self.peer, clean, self._arrivalFailed
        )
        return claim.addCallback(self._claimed)

    def _claimed(self, claim: Claim) -> None:
        if self._ending is not None:
            # The peer left while the store was asked. If the link displaced another all the same, the box has to be
            # told gone under this epoch; if it was superseded itself, another tells.
            if self.box.link is self:
                self.open(self.protocolNumber, claim.previous)
                self.closed(self._ending, None)
            return
        held = self.accept(claim)
        self._isOpen = True
        self.gateway.counters.connects += 1
        self.open(self.protocolNumber, claim.previous, self.arrivalReason)
        self.arrived(claim)
        self._held[:0] = held
        self.flushOutput()
        self.resume(Pause.claiming)

    def _arrivalFailed(self, failure: Failure) -> None:
        if not failure.check(StoreError):
            self.log.failure("a box's arrival failed in an unforeseen way", failure)
        if self._ending is None:
            self.refuseArrival(failure)

    def save(self) -> Deferred[None]:
        """
        Write what is to be kept of the session. Fires once it is written; never, if the link ends first.
        """
        if self._writer is None:
            self._writer = SessionWriter(self)
        return self._writer.write()

    def goOnListening(self, _: object) -> None:
        """
        The session store knows whether the box listens.
        """
        if self.isListening and self._ending is None:
            self.gateway.delivery.listen(self)
