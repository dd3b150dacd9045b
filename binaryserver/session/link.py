"""
The half of a link that is the same for every box protocol: it comes and goes, and messages are delivered over it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from binaryserver.directory.records import Box
from binaryserver.model import DownlinkMessage, LinkState, MqttSession, Owner
from binaryserver.proto import cloudnext_pb2
from binaryserver.session.blocks import BlockIntake
from binaryserver.session.line import Pause
from binaryserver.session.reasons import Ending, Reason
from binaryserver.transcode.envelope import Envelope
from binaryserver.transcode.events import presenceRecord
from binaryserver.transcode.privacy import shownPeer
from binaryserver.transcode.pseudonyms import PseudonymsUnavailable
from binaryserver.transcode.tracks import TrackEncoder

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway


class BoxLink(BlockIntake):
    """
    Subclassed by the protocols, which own the transport.

    @ivar isListening: the box is subscribed to its downlink
    @ivar deliveryQos: 0: what is sent to it is not acked
    @ivar directoryBox: what the directory says of the box; L{None}: its account admits any
    """

    log = Logger()

    protocolName: str
    directoryBox: Box | None = None

    def __init__(self, gateway: Gateway) -> None:
        BlockIntake.__init__(self, gateway)
        self.peer = ""
        self.isListening = False
        self.deliveryQos = 1
        self._since = 0
        self._protocol = cloudnext_pb2.PROTOCOL_UNSPECIFIED

    # What the protocols provide.

    def deliver(self, message: DownlinkMessage, packetId: int, isRepeated: bool) -> None:
        """
        Send a message to the box.

        @param packetId: 0: it is not acked
        """
        raise NotImplementedError

    def delivered(self) -> None:
        """
        Those that were to be sent now are.
        """
        raise NotImplementedError

    def mqttSession(self) -> MqttSession | None:
        """
        What the session store keeps for the link's protocol.
        """
        raise NotImplementedError

    @property
    def isSecure(self) -> bool:
        """
        TLS protects the link.
        """
        raise NotImplementedError

    @property
    def certificateDigest(self) -> str:
        """
        See L{Applicant.certificate<binaryserver.admission.admission.Applicant>}.
        """
        raise NotImplementedError

    @property
    def isCertificateRevoked(self) -> bool:
        """
        The peer could not come in by its certificate any more.
        """
        raise NotImplementedError

    # Life.

    @property
    def isBoxOpen(self) -> bool:
        """
        It is its box's link, and not ending.
        """
        return self._since > 0 and not self.pauses & Pause.closing

    def state(self) -> LinkState:
        """
        All that the session store knows of the link.
        """
        return LinkState(
            self.box.key,
            self.linkEpoch,
            self.protocolName,
            self.peer,
            self._since,
            self.box.marks(),
            self.mqttSession(),
            self.isListening,
        )

    def open(self, protocol: cloudnext_pb2.Protocol, previous: Owner | None, reason: str = "") -> None:
        """
        The claim was answered: the box is here.

        @param previous: who held it before
        @param reason: why it comes, in its own words; empty: it does not say
        """
        gateway = self.gateway
        gateway.registry.opened(self)
        self._since = gateway.nowMs()
        self._protocol = protocol
        self._applyTerms(gateway.ids.next())
        graceMs = int(gateway.limits.reconnectGrace * 1000)
        isBack = previous is not None and (previous.connected or self._since - previous.seenAt <= graceMs)
        kind = cloudnext_pb2.PRESENCE_TYPE_RECONNECT if isBack else cloudnext_pb2.PRESENCE_TYPE_CONNECT
        self._announce(kind, reason, bool(reason))
        self.log.debug("{account}/{asset}: its link {link} is open", **self.logFields())

    def logFields(self) -> dict[str, Any]:
        """
        Which box's link it is, for the log: by the name that its events have, and the link's epoch. Nothing before
        L{open}.
        """
        if not self._since:
            return {}
        box = self.envelope.box
        return {"account": box.account, "asset": box.asset, "link": self.linkEpoch}

    def accountChanged(self) -> None:
        """
        C{self.account} is another one now: what is taken from now on is published by its terms.
        """
        if not self.isBoxOpen:
            return
        try:
            self._applyTerms(self.envelope.connectionId)
        except PseudonymsUnavailable as error:
            self.end(Ending(Reason.socketClosed, str(error)))

    def _applyTerms(self, connectionId: int) -> None:
        """
        @raise PseudonymsUnavailable: its box is to have a pseudonym, and there is no key
        """
        gateway, policy = self.gateway, self.account.privacy
        box = gateway.pseudonyms.published(self.box.key, policy)
        self.envelope = Envelope(box, connectionId, self.linkEpoch, gateway.instance, self._protocol)
        self._encoder = TrackEncoder(self.envelope, gateway.labels(self.account), gateway.bus.maxRecord, policy)

    def closed(self, ending: Ending, boxReason: str | None) -> None:
        """
        The link is gone, after L{open}.

        @param boxReason: the reason that the box left behind
        """
        waiting = set(self.inFlight)
        for stream in self.box.streams.values():
            stream.dropWaiting(waiting)
        if self.box.fingerprints is not None:
            self.box.fingerprints.dropWaiting(waiting)
        for batch in self.inFlight:
            batch.link = None
        self.inFlight.clear()
        kind, reason, isFromBox = cloudnext_pb2.PRESENCE_TYPE_DISCONNECT, ending.reason.value, False
        if boxReason is not None and ending.reason is not Reason.takeover and not ending.isClean:
            reason, isFromBox = boxReason, True
        # Only once it is told is the box released: should this process die before, another adopts it and tells.
        releaser = self.gateway.registry.releaser
        then = releaser(self, reason, ending.detail[:256]) if self.box.link is self else None
        self._announce(kind, reason, isFromBox, ending.detail, then)
        self.log.debug(
            "{account}/{asset}: its link {link} has ended: {reason}", reason=ending.reason.value, **self.logFields()
        )
        self.gateway.delivery.leave(self)
        self.gateway.registry.closed(self)
        self.gateway.registry.detach(self)

    def takenOver(self) -> None:
        """
        Another link of the box has been made.
        """
        self.end(Ending(Reason.takeover))

    def _announce(
        self,
        kind: cloudnext_pb2.PresenceType,
        reason: str = "",
        fromBox: bool = False,
        detail: str = "",
        then: Callable[[], None] | None = None,
    ) -> None:
        gateway = self.gateway
        gateway.announcer.announce(
            presenceRecord(
                self.envelope,
                gateway.ids.next(),
                kind,
                gateway.nowMs(),
                shownPeer(self.account.privacy, self.peer),
                reason,
                fromBox,
                detail[:256],
            ),
            then,
        )
