"""
How a box comes in, whatever its protocol: the directory admits it, the session store gives it to its link, and it is
told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.admission.admission import Admitted, Applicant, Refusal
from binaryserver.admission.allowance import Allowance
from binaryserver.errors import AccountFull, StoreError
from binaryserver.model import BoxKey, Claim
from binaryserver.proto import cloudnext_pb2
from binaryserver.session.line import Pause
from binaryserver.session.link import BoxLink
from binaryserver.session.reasons import Ending, Reason
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
    _allowance: Allowance | None = None
    _judgedAt: int
    _applicant: BoxKey

    def __init__(self, gateway: Gateway) -> None:
        BoxLink.__init__(self, gateway)
        self.arrivalReason = ""
        # Events that are not handled yet.
        self._held: list[Any] = []
        self._isOpen = False
        self._ending: Ending | None = None
        self._writer: SessionWriter | None = None

    # What the protocols provide.

    def refuseArrival(self, refusal: Refusal) -> None:
        """
        The box may not come in: tell it, though not which part was wrong, and end.
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

    def arrive(self, account: str, asset: str, secret: bytes | None, clean: bool) -> None:
        """
        A box says who it is: ask the directory and the session store, and go on with L{accept} or L{refuseArrival}.

        @param account: empty: it names none
        @param clean: its MQTT session is to be forgotten
        """
        self.pause(Pause.claiming)
        self._applicant = BoxKey(account or self.gateway.directory.defaultAccount, asset)
        # Before anything is asked: a change that is told while its secret is being checked is not in what was answered.
        self._judgedAt = self.gateway.directory.version
        applicant = Applicant(account, asset, secret, self.certificateDigest, self.isSecure, self.peer)
        admitted = self.gateway.admission.admit(applicant)
        admitted.addCallback(self._admitted, asset, clean).addErrback(self._arrivalFailed)

    def _admitted(self, admitted: Admitted | Refusal, asset: str, clean: bool) -> Deferred[None] | None:
        if self._ending is not None:
            return None
        if isinstance(admitted, Refusal):
            self.refuse(admitted)
            return None
        self.account, self.directoryBox = admitted
        claim = self.gateway.registry.claim(
            self,
            BoxKey(self.account.name, asset),
            self.protocolName,
            self.peer,
            clean,
            self._arrivalFailed,
            self.account.limits.links,
        )
        return claim.addCallback(self._claimed)

    def refuse(self, refusal: Refusal) -> None:
        """
        The box, as far as it said who it is, may not come in.
        """
        gateway = self.gateway
        gateway.counters.refusals += 1
        gateway.refusals.tell(self._applicant, self.protocolNumber, self.protocolName, self.peer, refusal)
        self.refuseArrival(refusal)

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
        self._applyLimits()
        self.gateway.counters.connects += 1
        self.open(self.protocolNumber, claim.previous, self.arrivalReason)
        self.arrived(claim)
        self._held[:0] = held
        self.flushOutput()
        self.gateway.recheck.arrived(self, self._judgedAt)
        self.resume(Pause.claiming)

    def _arrivalFailed(self, failure: Failure) -> None:
        if not failure.check(StoreError):
            self.log.failure("a box's arrival failed in an unforeseen way", failure)
        if self._ending is not None:
            return
        if failure.check(AccountFull):
            isBox = self.directoryBox is not None
            self.refuse(Refusal(Reason.authFailedAccount, failure.getErrorMessage(), True, isBox))
        else:
            self.refuse(Refusal(None, f"session store: {failure.getErrorMessage()}", True))

    def accountChanged(self) -> None:
        """
        C{self.account} is another one now.
        """
        super().accountChanged()
        self._applyLimits()

    def _applyLimits(self) -> None:
        """
        Have what it sends counted, if there are limits.
        """
        allowance = self.gateway.allowances.of(self.account)
        if allowance is not self._allowance:
            self._dropAllowance()
            if allowance is not None:
                allowance.links += 1
                self._allowance = allowance

    def _dropAllowance(self) -> None:
        if self._allowance is not None:
            self._allowance.leave(self)
            self._allowance = None
            self.resumeForAllowance()

    def pauseForAllowance(self) -> None:
        """
        See L{binaryserver.admission.allowance.Spender}.
        """
        self.pause(Pause.allowance)

    def resumeForAllowance(self) -> None:
        """
        See L{binaryserver.admission.allowance.Spender}.
        """
        self.resume(Pause.allowance)

    @property
    def hasEnded(self) -> bool:
        """
        Nothing is sent over it any more.
        """
        return self._ending is not None

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
