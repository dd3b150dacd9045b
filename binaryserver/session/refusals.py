"""
Who was not let in, told as presences and remembered in the session store: no more of them than an operator reads,
however many there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import LocalError, StoreError
from binaryserver.model import BoxKey
from binaryserver.proto import cloudnext_pb2
from binaryserver.session.boxrecords import BoxEvent, EventKind, RefusalNote
from binaryserver.transcode.envelope import Envelope
from binaryserver.transcode.events import isName, presenceRecord
from binaryserver.transcode.names import Published
from binaryserver.transcode.privacy import shownPeer

if TYPE_CHECKING:
    from binaryserver.admission.admission import Refusal
    from binaryserver.gateway import Gateway

_RATE = 20.0
"""a second, of one process"""
_BURST = 10.0
"""s of that at once"""
_MAX_DETAIL = 256
_MAX_NOTES = 1000
"""that wait for the session store; more are dropped"""


class Refusals:
    """
    Of one process.

    @ivar untold: refusals of which there were too many to tell
    """

    log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._left = _RATE * _BURST
        self._at = 0.0
        self.untold = 0
        # What the session store is to remember next, while it is told of others.
        self._notes: list[RefusalNote] = []
        self._isNoting = False

    def tell(
        self, applicant: BoxKey, protocol: cloudnext_pb2.Protocol, protocolName: str, peer: str, refusal: Refusal
    ) -> None:
        """
        Remember a refusal and, if it was not our own fault, publish a C{failed_connect}, under the names that were
        given. The link epoch of one who is no box is 0.

        @param peer: the IP address
        """
        gateway = self._gateway
        reason = "" if refusal.reason is None else refusal.reason.value
        if reason:
            gateway.counters.refusalReasons[reason] = gateway.counters.refusalReasons.get(reason, 0) + 1
        now = gateway.clock.seconds()
        self._left = min(_RATE * _BURST, self._left + (now - self._at) * _RATE)
        self._at = now
        isNamed = isName(applicant.account)
        if self._left < 1 or not (isName(applicant.asset) and (isNamed or not applicant.account)):
            self.untold += 1
            return
        self._left -= 1
        kind, detail = EventKind.refused, refusal.detail[:_MAX_DETAIL]
        event = BoxEvent(kind, gateway.nowMs(), reason, detail, protocolName, peer, gateway.incarnation)
        self._note(RefusalNote(applicant, event, refusal.isBox))
        if not (reason and isNamed):
            self.untold += bool(reason)
            return

        def announce(published: Published) -> None:
            envelope = Envelope(published.box, gateway.ids.next(), 0, gateway.instance, protocol)
            shown = shownPeer(published.policy, peer)
            kind = cloudnext_pb2.PRESENCE_TYPE_FAILED_CONNECT
            gateway.announcer.announce(
                presenceRecord(
                    envelope, gateway.ids.next(), kind, gateway.nowMs(), shown, reason, False, refusal.detail
                )
            )

        def untold(failure: Failure) -> None:
            failure.trap(LocalError)
            self.untold += 1

        gateway.names.published(applicant).addCallbacks(announce, untold)

    def _note(self, note: RefusalNote) -> None:
        if len(self._notes) < _MAX_NOTES:
            self._notes.append(note)
        if not self._isNoting:
            self._write()

    def _write(self) -> None:
        notes, self._notes = self._notes, []
        self._isNoting = True
        self._gateway.store.noteRefusals(notes).addErrback(self._notNoted).addCallback(self._noted)

    def _notNoted(self, failure: Failure) -> None:
        # While the store is away much is refused for that alone: these go.
        failure.trap(StoreError)
        self.log.debug("the session store does not remember refusals: {reason}", reason=failure.getErrorMessage())

    def _noted(self, _: object) -> None:
        self._isNoting = False
        if self._notes:
            self._write()
