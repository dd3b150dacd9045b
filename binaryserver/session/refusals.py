"""
Who was not let in, told as presences: no more of them than an operator reads, however many there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.python.failure import Failure

from binaryserver.errors import LocalError
from binaryserver.model import BoxKey
from binaryserver.proto import cloudnext_pb2
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


class Refusals:
    """
    Of one process.

    @ivar untold: refusals of which there were too many to tell
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._left = _RATE * _BURST
        self._at = 0.0
        self.untold = 0

    def tell(self, applicant: BoxKey, protocol: cloudnext_pb2.Protocol, peer: str, refusal: Refusal) -> None:
        """
        Publish a C{failed_connect}, under the names that were given. The link epoch of one who is no box is 0.

        @param peer: the IP address
        @param refusal: with a reason
        """
        gateway = self._gateway
        assert refusal.reason is not None
        reason = refusal.reason.value
        gateway.counters.refusalReasons[reason] = gateway.counters.refusalReasons.get(reason, 0) + 1
        now = gateway.clock.seconds()
        self._left = min(_RATE * _BURST, self._left + (now - self._at) * _RATE)
        self._at = now
        if self._left < 1 or not (isName(applicant.account) and isName(applicant.asset)):
            self.untold += 1
            return
        self._left -= 1

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
