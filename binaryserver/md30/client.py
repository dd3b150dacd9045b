"""
What an MD30 client does, and what the gateway does for it: the half of the link that knows packets and no transport.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from twisted.logger import Logger

from binaryserver.admission.admission import Refusal
from binaryserver.errors import ProtocolViolation
from binaryserver.md30.topics import DOWNLINK, INDEX, MESSAGES, WILL, TopicSpace, deliveryQos, deliveryTopic
from binaryserver.model import BoxKey, Claim, DownlinkMessage, MqttSession
from binaryserver.mqtt.connection import Connection
from binaryserver.mqtt.events import (
    Broken,
    Connect,
    Disconnect,
    Event,
    Puback,
    Publish,
    Pubrel,
    Subscribe,
    Unsubscribe,
    Will,
)
from binaryserver.mqtt.packets import ConnectCode
from binaryserver.proto import cloudnext_pb2
from binaryserver.proto.md30_pb2 import IndexNotice
from binaryserver.session.link import BoxLink
from binaryserver.session.reasons import Ending, Reason
from binaryserver.session.transportlink import TransportLink
from binaryserver.session.uplink import Batch
from binaryserver.transcode.downlink import boxMessage
from binaryserver.transcode.events import isName

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway


class Md30Client(TransportLink):
    """
    Subclassed by the protocol, which makes the connection.
    """

    log = Logger()
    protocolName = "md30"
    protocolNumber = cloudnext_pb2.PROTOCOL_MD30
    dataEvents = frozenset({Publish})
    controlEvents = frozenset({Subscribe, Unsubscribe})
    brokenEvent = Broken
    _connection: Connection

    def __init__(self, gateway: Gateway, topics: TopicSpace) -> None:
        TransportLink.__init__(self, gateway)
        self._topics = topics
        self._subscriptions: dict[str, int] = {}
        self._isPersistent = False
        self._arriving: Connect | None = None
        self._will: Will | None = None
        self._noticeDue: str | None = None
        self._writingIds: set[int] = set()
        self._writtenIds: set[int] = set()
        self._isAsking = False
        self._downlink = DOWNLINK[0]

    # BoxLink's side.

    def acknowledge(self, batches: Sequence[Batch]) -> None:
        """
        See L{BoxLink.acknowledge}.
        """
        connection = self._connection
        packetIds: list[int] = []
        for batch in batches:
            if batch.qos == 1:
                packetIds += batch.packetIds
            else:
                if packetIds:
                    connection.puback(packetIds)
                    packetIds = []
                connection.pubrec(batch.packetIds[0])
                self._writtenIds.discard(batch.packetIds[0])
        if packetIds:
            connection.puback(packetIds)
        self.flushOutput()

    def mayAcknowledge(self, batch: Batch) -> bool:
        """
        See L{BoxLink.mayAcknowledge}. A PUBREC promises that the id is known when the PUBLISH comes again, so that of a
        kept session is written first.
        """
        packetId = batch.packetIds[0]
        if self._isPersistent and packetId not in self._writtenIds | self._writingIds:
            self._writingIds.add(packetId)
            # A store that answers at once must not make this link's line begin again within its own loop.
            self._isAsking = True
            self.save().addCallback(self._idWritten, packetId)
            self._isAsking = False
        return not self._isPersistent or packetId in self._writtenIds

    def _idWritten(self, _: object, packetId: int) -> None:
        self._writingIds.discard(packetId)
        self._writtenIds.add(packetId)
        if not self._isAsking:
            self.settled()

    def mayTakeAgain(self) -> None:
        """
        See L{BoxLink.mayTakeAgain}.
        """
        if self._noticeDue is not None:
            self._notify(self._noticeDue)
        BoxLink.mayTakeAgain(self)

    def deliver(self, message: DownlinkMessage, packetId: int, isRepeated: bool) -> None:
        """
        See L{BoxLink.deliver}. The DUP flag [MQTT-3.3.1-1] says that the box may have had it, over
        whichever of its links.
        """
        qos = 1 if packetId else 0
        self._connection.publish(self._downlink, boxMessage(message), qos, packetId, isRepeated and qos > 0)

    def delivered(self) -> None:
        """
        See L{BoxLink.delivered}.
        """
        self.flushOutput()

    def mqttSession(self) -> MqttSession | None:
        """
        See L{BoxLink.mqttSession}.
        """
        if not self._isPersistent:
            return None
        ids = self._connection.received | self._writingIds | self._writtenIds
        return MqttSession(tuple(self._subscriptions.items()), tuple(sorted(ids)))

    # Events.

    def handled(self) -> None:
        """
        See L{TransportLink.handled}.
        """
        if self._noticeDue is not None and self._isOpen and self.box.mayTake:
            self._notify(self._noticeDue)

    def takeData(self, event: Publish, events: Sequence[Event], position: int) -> int:
        """
        See L{TransportLink.takeData}.
        """
        topic, payload, qos, packetId, _, _ = event
        short = topic if topic in self._topics.codecs else self._topics.shortName(topic, self.box.key.asset)
        codec = self._topics.codecs.get(short or "")
        if codec is not None:
            return self.takeTracks(codec, f"md30:{short}", events, position)
        if short == MESSAGES[0]:
            return int(self.takeMessage("md30:m", payload, qos, packetId))
        if short == INDEX[0]:
            # Once a read, however often it asks.
            self._noticeDue = topic
            self._done(qos, packetId)
        elif short == WILL[0]:
            self._keepReason(payload)
            self._done(qos, packetId)
        else:
            self.broken(Broken(ProtocolViolation("a PUBLISH outside the box's own uplink topics")))
        return 1

    def dispatch(self, event: Event) -> None:
        """
        See L{TransportLink.dispatch}.
        """
        if isinstance(event, Connect):
            self._connect(event)
        elif isinstance(event, Subscribe):
            self._subscribe(event)
        elif isinstance(event, Unsubscribe):
            self._unsubscribe(event)
        elif isinstance(event, Puback):
            self.gateway.delivery.acked(self, event.packetId)
        elif isinstance(event, Pubrel):
            self._released()
        elif isinstance(event, Disconnect):
            self.end(Ending(Reason.clientDisconnect, isClean=True))
        elif isinstance(event, Broken):
            self.broken(event)

    def _connect(self, event: Connect) -> None:
        identity = self.identity()
        account = event.username or ""
        if identity is not None:
            account = account or identity.organization
        self._applicant = BoxKey(account, event.clientId)
        if identity is not None and identity != (event.clientId, account):
            self.refuse(Refusal(Reason.authFailedAsset, "client id and user name are not the certificate's"))
        elif not isName(event.clientId):
            self.gateway.counters.refusals += 1
            self._refuse(ConnectCode.IDENTIFIER_REJECTED, "the client id is no asset", Reason.authFailedAsset)
        elif account and not isName(account):
            self.refuse(Refusal(Reason.authFailedAccount, "the user name is no account"))
        elif not self.gateway.uplink.hasRoom:
            self.refuse(Refusal(None, "the bus is too far behind", True))
        else:
            self._arriving = event
            self.arrive(account, event.clientId, event.password, event.cleanSession)

    def accept(self, claim: Claim) -> list[Event]:
        """
        See L{TransportLink.accept}.
        """
        event, session = self._arriving, claim.mqtt
        assert event is not None
        self._arriving = None
        held = self._connection.accept(
            session is not None, event.keepAlive, session.received if session else (), self.gateway.clock.seconds()
        )
        self._isPersistent = not event.cleanSession
        self._keepWill(event.will)
        return held

    def arrived(self, claim: Claim) -> None:
        """
        See L{TransportLink.arrived}.
        """
        session = claim.mqtt
        if session is not None:
            self._subscriptions = dict(session.subscriptions)
        if self._listens() or (self._isPersistent and session is None):
            self.save().addCallback(self.goOnListening)

    def refuseArrival(self, refusal: Refusal) -> None:
        """
        See L{TransportLink.refuseArrival}.
        """
        code = ConnectCode.SERVER_UNAVAILABLE if refusal.isForNow else ConnectCode.NOT_AUTHORIZED
        self._refuse(code, refusal.detail, refusal.reason or Reason.socketClosed)

    def _refuse(self, code: ConnectCode, why: str, reason: Reason) -> None:
        self.log.info("{peer}: CONNECT refused with {code}: {why}", code=code.value, why=why, peer=self.peer)
        self._connection.refuse(code.value)
        self.end(Ending(reason, why))

    def _subscribe(self, event: Subscribe) -> None:
        asset = self.box.key.asset
        codes = []
        granted = []
        for topicFilter, qos in event.filters:
            if self._topics.isOwn(topicFilter, asset):
                self._subscriptions[topicFilter] = min(qos, 1)
                codes.append(min(qos, 1))
                granted.append(topicFilter)
            else:
                codes.append(0x80)

        def saved(_: object) -> None:
            self._connection.suback(event.packetId, codes)
            notice = deliveryTopic(INDEX, asset, granted)
            if notice is not None:
                self._notify(notice)
            self.goOnListening(None)
            self.flushOutput()

        self._afterSaving(saved)

    def _unsubscribe(self, event: Unsubscribe) -> None:
        for topicFilter in event.filters:
            self._subscriptions.pop(topicFilter, None)

        def saved(_: object) -> None:
            self._connection.unsuback(event.packetId)
            self.flushOutput()

        self._afterSaving(saved)

    def _released(self) -> None:
        # Not waited for: an id that is kept for too long is told from a new use of it by the DUP flag.
        if self._isPersistent:
            self.save()

    def _listens(self) -> bool:
        """
        Note whether, and how, the box is subscribed to its downlink.

        @return: whether that has changed, so that the session store is to be told
        """
        asset, filters = self.box.key.asset, self._subscriptions
        topic = deliveryTopic(DOWNLINK, asset, filters)
        wasListening, self.isListening = self.isListening, topic is not None
        if topic is not None:
            self._downlink = topic
            self.deliveryQos = deliveryQos(topic, filters)
        return self.isListening is not wasListening

    def _afterSaving(self, then: Callable[[object], None]) -> None:
        if self._listens() or self._isPersistent:
            self.save().addCallback(then)
        else:
            then(None)

    def _notify(self, topic: str) -> None:
        """
        Send the index notices: one for each stream of which anything is durable.
        """
        if not self.box.mayTake:
            self._noticeDue = topic
            return
        self._noticeDue = None
        for mark in self.box.marks():
            notice = IndexNotice(stream=mark.stream, last_index=mark.committed)
            self._connection.publish(topic, notice.SerializeToString())

    # Last will.

    def _keepWill(self, will: Will | None) -> None:
        if will is None:
            return
        short = self._topics.shortName(will.topic, self.box.key.asset)
        if short == WILL[0]:
            self._keepReason(will.payload)
        elif short in self._topics.codecs or short == MESSAGES[0]:
            self._will = will
        else:
            self.gateway.counters.foreignWills += 1

    def _keepReason(self, payload: bytes) -> None:
        reason = payload.decode("ascii", "replace")
        if isName(reason):
            self._boxReason = reason
        else:
            self.gateway.counters.foreignWills += 1

    def parting(self, ending: Ending) -> None:
        """
        See L{TransportLink.parting}: a link that is lost does as if the box had sent its will.
        """
        if self._will is None or ending.isClean:
            return
        try:
            self._publishWill(self._will)
        except Exception:
            # The link is ending: it must end whole whatever its will was.
            self.log.failure("a will failed in an unforeseen way")

    def _publishWill(self, will: Will) -> None:
        short = self._topics.shortName(will.topic, self.box.key.asset) or ""
        codec = self._topics.codecs.get(short)
        if codec is not None:
            taken = self.takeTracks(codec, f"md30:{short}", [Publish(short, will.payload, 0, 0, False, False)], 0) > 0
        else:
            taken = self.takeMessage(f"md30:{short}", will.payload, 0, 0)
        if not taken:
            self.gateway.counters.foreignWills += 1
