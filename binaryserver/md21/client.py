"""
What an MD21 box does, and what the gateway does for it: the half of the link that knows PDUs and no transport.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from binaryserver.admission.admission import Refusal
from binaryserver.endpoints.upgrade import TlsUpgrade
from binaryserver.md21 import values
from binaryserver.md21.codec import encode
from binaryserver.md21.connection import Connection
from binaryserver.md21.deliveries import Deliveries
from binaryserver.md21.events import Block, BoxMessage, Broken, Event
from binaryserver.md21.files import FileReceived
from binaryserver.md21.tracks import boxTracks
from binaryserver.md21.values import FileStatus, HeaderStatus, MessageStatus
from binaryserver.model import BoxKey, Claim, MqttSession
from binaryserver.proto import cloudnext_pb2, md30_pb2
from binaryserver.session.reasons import Ending, Reason
from binaryserver.session.uplink import Batch
from binaryserver.transcode.events import isName

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway
    from binaryserver.md21.udpway import UplinkPdu

VERSION = 1
"""Of C{proto/md21.asn1}: what a header must name."""

FILE_CHANNEL = "file"
"""The channel on which the files of boxes are published."""


class Md21Client(Deliveries):
    """
    Subclassed by the protocol, which makes the connection and starts TLS.
    """

    log = Logger()
    protocolName = "md21"
    protocolNumber = cloudnext_pb2.PROTOCOL_MD21
    dataEvents = frozenset({Block, BoxMessage, FileReceived, values.MessageAck})
    brokenEvent = Broken
    _connection: Connection

    def __init__(self, gateway: Gateway) -> None:
        Deliveries.__init__(self, gateway)
        self._mqtt: MqttSession | None = None
        # What each block, message and file of the box is answered with, by the number that its batch has; and whether
        # it is the ack of a block that came by datagram.
        self._answers: dict[int, tuple[values.Pdu, bool]] = {}
        self._lastAnswer = 0
        self._unanswered: set[int] = set()

    # What the protocol provides.

    def startTls(self) -> None:
        """
        Put TLS on the link, behind what is queued.
        """
        raise NotImplementedError

    # BoxLink's side.

    def acknowledge(self, batches: Sequence[Batch]) -> None:
        """
        See L{BoxLink.acknowledge}.
        """
        for batch in batches:
            answer = self._answers.pop(batch.packetIds[0], None)
            if answer is None:
                continue
            pdu, byDatagram = answer
            if not byDatagram:
                if isinstance(pdu, values.MessageAck):
                    self._unanswered.discard(pdu.temporaryId)
                self.sendPdu(pdu)
            elif self._way is not None:
                self._way.answer(encode(pdu))
        self.flushOutput()

    def mayAcknowledge(self, batch: Batch) -> bool:
        """
        See L{BoxLink.mayAcknowledge}. MD21 has nothing like QoS 2.
        """
        return True

    def mqttSession(self) -> MqttSession | None:
        """
        See L{BoxLink.mqttSession}: what the box left behind on MD30, should it go back there.
        """
        return self._mqtt

    # Datagrams.

    @property
    def mayTakeDatagram(self) -> bool:
        """
        See L{DatagramLink.mayTakeDatagram}.
        """
        return self._isOpen and not (self.pauses or self.isHandling or self._held)

    def datagramReceived(self, pdu: UplinkPdu, octets: bytes) -> None:
        """
        See L{DatagramLink.datagramReceived}.
        """
        # Nothing is to be held: L{mayTakeDatagram}.
        connection = self._connection
        self.handle(connection.receiveDatagram(pdu, octets, self.gateway.clock.seconds()))
        if connection.controls:
            # Now: the stream may be silent for days, and would have to wait for all of them together.
            came, connection.controls = connection.controls, 0
            self._countControls(came)
        if self._allowance is not None:
            self._allowance.spendBytes(self, len(octets))
        self.flushOutput()

    def resumeReading(self) -> None:
        """
        See L{BoxLink.resumeReading}.
        """
        Deliveries.resumeReading(self)
        if self._way is not None:
            self._way.resume()

    # Events.

    def takeData(self, event: Any, events: Sequence[Event], position: int) -> int:
        """
        See L{TransportLink.takeData}.
        """
        if type(event) is Block:
            return self._blockCame(event)
        if isinstance(event, BoxMessage):
            return self._messageCame(event)
        if isinstance(event, FileReceived):
            return self._fileCame(event)
        return self.takeMessageAck(event)

    def dispatch(self, event: Event) -> None:
        """
        See L{TransportLink.dispatch}.
        """
        if isinstance(event, values.Header):
            self._header(event)
        elif isinstance(event, values.Disconnect):
            self._disconnected(event)
        elif isinstance(event, Broken):
            self.broken(event)

    def broken(self, event: Broken) -> None:
        """
        See L{TransportLink.broken}.
        """
        self.noteViolation(event.error)
        isOwn = event.reason is values.Reason.PROTOCOL_ERROR
        self.end(Ending(Reason.networkError if isOwn else Reason(event.reason.name), str(event.error)))

    def _disconnected(self, event: values.Disconnect) -> None:
        if event.reason is values.Reason.PROTOCOL_ERROR:
            self.end(Ending(Reason.networkError, "the box could not read what it was sent"))
            return
        self._boxReason = event.reason.name
        self.end(Ending(Reason.clientDisconnect))

    # Arrival.

    def _header(self, header: values.Header) -> None:
        settings = self.gateway.md21
        self._applicant = BoxKey(header.account, header.asset)
        if header.version != VERSION:
            self._refuse(HeaderStatus.UNSUPPORTED_VERSION, Refusal(Reason.networkError, f"version {header.version}"))
        elif header.tls and not self.isSecure:
            self._askedForTls(settings.upgrade)
        elif settings.requiresTls and not self.isSecure:
            self._refuse(HeaderStatus.TLS_REQUIRED, Refusal(Reason.authFailedTransport, "no TLS"))
        elif not isName(header.asset):
            refusal = Refusal(Reason.authFailedAsset, "no asset can have this name")
            self._refuse(HeaderStatus.UNKNOWN_ASSET, refusal)
        elif not isName(header.account):
            refusal = Refusal(Reason.authFailedAccount, "no account can have this name")
            self._refuse(HeaderStatus.UNKNOWN_ACCOUNT, refusal)
        elif not self.gateway.uplink.hasRoom:
            self.refuse(Refusal(None, "the bus is too far behind", True))
        else:
            self._identify(header)

    def _askedForTls(self, upgrade: TlsUpgrade | None) -> None:
        if upgrade is None:
            refusal = Refusal(Reason.authFailedTransport, "TLS, for which there is no certificate")
            self._refuse(HeaderStatus.TLS_UNAVAILABLE, refusal)
            return
        broken = self._connection.startTls(self.gateway.clock.seconds())
        if broken is not None:
            self.broken(broken)
        else:
            self.startTls()

    def _identify(self, header: values.Header) -> None:
        identity = self.identity()
        if identity is not None and identity != (header.asset, header.account):
            self.refuse(Refusal(Reason.authFailedAsset, "asset and account are not the certificate's"))
            return
        self._capabilities = header.capabilities
        if header.reason is not None and header.reason is not values.Reason.PROTOCOL_ERROR:
            self.arrivalReason = header.reason.name
        secret = None if header.secret is None else header.secret.encode()
        self.arrive(header.account, header.asset, secret, False)

    def accept(self, claim: Claim) -> list[Event]:
        """
        See L{TransportLink.accept}.
        """
        udp = self.gateway.md21.udp
        if udp is not None and self._capabilities.udp:
            self._way = udp.open(self, getattr(self.transport.getHost(), "host", ""))
        self._mqtt = claim.mqtt
        return self._connection.accept(self._way.offer if self._way is not None else None, self.gateway.clock.seconds())

    def arrived(self, claim: Claim) -> None:
        """
        See L{TransportLink.arrived}. A box of MD21 listens as long as it is there.
        """
        self.isListening = True
        self.save().addCallback(self.goOnListening)

    def refuseArrival(self, refusal: Refusal) -> None:
        """
        See L{TransportLink.refuseArrival}. Which of asset, account and secret was wrong is not for everybody to know;
        that TLS is required, only for who had them right.
        """
        status = HeaderStatus.BAD_SECRET
        if refusal.isForNow:
            status = HeaderStatus.SERVER_BUSY
        elif refusal.reason is Reason.authFailedTransport and not self.isSecure:
            status = HeaderStatus.TLS_REQUIRED
        self._end(status, refusal)

    def _refuse(self, status: HeaderStatus, refusal: Refusal) -> None:
        """
        Before anything is known of it.
        """
        self.gateway.counters.refusals += 1
        self._end(status, refusal)

    def _end(self, status: HeaderStatus, refusal: Refusal) -> None:
        why = refusal.detail
        self.log.info("{peer}: header refused with {status}: {why}", status=status.name, why=why, peer=self.peer)
        self._connection.refuse(status)
        self.end(Ending(refusal.reason or Reason.socketClosed, why))

    def parting(self, ending: Ending) -> None:
        """
        See L{TransportLink.parting}.
        """
        if self._way is not None:
            self._way.close()
            self._way = None
        self._connection.disconnect(values.Reason[ending.reason.value])

    # From the box.

    def _blockCame(self, block: Block) -> int:
        data = block.data
        ackId = 0 if data.wantAck is values.WantAck.NONE else self._answer(values.TrackingAck(), block.byDatagram)
        return self._taken(self.takeBlock("md21:tracks", boxTracks(data.tracks), block.pdu, ackId), ackId)

    def _messageCame(self, event: BoxMessage) -> int:
        message, channel = event
        temporaryId = message.temporaryId
        if temporaryId in self._unanswered:
            # Sent again before its ack: which is under way.
            return 1
        number = self.gateway.ids.next()
        ackId = 0
        if temporaryId:
            status = MessageStatus.ACK if isName(channel) else MessageStatus.BAD_CHANNEL
            ackId = self._answer(values.MessageAck(status, temporaryId, number))
        payload = md30_pb2.Message(
            id=str(number), channel=channel, payload=message.payload, recorded_at=message.recordedAt or 0
        ).SerializeToString()
        taken = self._taken(self.takeMessage("md21:message", payload, min(ackId, 1), ackId), ackId)
        if taken and ackId:
            self._unanswered.add(temporaryId)
        return taken

    def _fileCame(self, file: FileReceived) -> int:
        ackId = self._answer(values.FileAck(file.fileId, len(file.data), FileStatus.COMPLETE))
        payload = md30_pb2.Message(id=file.name, channel=FILE_CHANNEL, payload=file.data).SerializeToString()
        return self._taken(self.takeMessage("md21:file", payload, 1, ackId), ackId)

    def _answer(self, pdu: values.Pdu, byDatagram: bool = False) -> int:
        """
        Keep an answer until what it answers is durable.

        @return: the number that its batch is to have
        """
        self._lastAnswer += 1
        self._answers[self._lastAnswer] = (pdu, byDatagram)
        return self._lastAnswer

    def _taken(self, isTaken: bool, ackId: int) -> int:
        if not isTaken:
            # It is brought again, and gets another.
            self._answers.pop(ackId, None)
        return int(isTaken)
