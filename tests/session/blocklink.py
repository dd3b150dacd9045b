"""
A link whose tracks have no index, without a protocol, and a session store that can be away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail

from binaryserver.bus.topics import Topics
from binaryserver.directory.records import Account
from binaryserver.errors import StoreUnavailable
from binaryserver.model import BoxKey, Claim, FingerprintUpdate, MqttSession
from binaryserver.plugins import BackEndContext
from binaryserver.proto import cloudnext_pb2
from binaryserver.proto.md30_pb2 import Track
from binaryserver.session.line import Pause
from binaryserver.session.link import BoxLink
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.session.reasons import Ending, Reason
from binaryserver.session.uplink import Batch
from tests.harness import ASSET, HandBus, HandReactor, World, makeTrack

BOX = BoxKey("dev", ASSET)


class BlockLink(BoxLink):
    """
    A link of a protocol without indices, less the bytes.

    @ivar ending: how it ended
    """

    protocolName = "md21"

    def __init__(self, world: World) -> None:
        BoxLink.__init__(self, world.gateway)
        self.world = world
        self.peer = "192.0.2.7"
        self.ending: Ending | None = None
        self._acks: list[int] = []
        self._arrived: deque[tuple[list[Track], int]] = deque()
        self.account = Account(BOX.account, admitsAnyBox=True)
        world.gateway.registry.links.add(self)
        self.pause(Pause.claiming)
        claim = world.gateway.registry.claim(self, BOX, "md21", self.peer, True, lambda _: None)
        claim.addCallback(self._claimed)
        world.turn()

    def _claimed(self, claim: Claim) -> None:
        self.open(cloudnext_pb2.PROTOCOL_MD21, claim.previous)
        self.resume(Pause.claiming)

    def send(self, ackId: int, *indices: int, tracks: Sequence[Track] = ()) -> None:
        """
        A block from the box, and a turn of the reactor.

        @param indices: of tracks as L{makeTrack} makes them
        """
        self._arrived.append(([*(makeTrack(index) for index in indices), *tracks], ackId))
        self.resumeReading()
        self.world.turn()

    def acks(self) -> list[int]:
        """
        The ids of the blocks that were acked since last asked.
        """
        acks, self._acks = self._acks, []
        return acks

    def lose(self) -> None:
        """
        The connection is gone.
        """
        self.end(Ending(Reason.socketClosed))
        self.world.turn()

    def pauseReading(self) -> None:
        """
        See L{BoxLink.pauseReading}: nothing more is taken out.
        """

    def resumeReading(self) -> None:
        """
        See L{BoxLink.resumeReading}.
        """
        while self._arrived and not self.pauses:
            tracks, ackId = self._arrived[0]
            if self.takeBlock("md21:tracks", tracks, b"block %d" % ackId, ackId):
                self._arrived.popleft()
        self.settleIfDue()

    def acknowledge(self, batches: Sequence[Batch]) -> None:
        """
        See L{BoxLink.acknowledge}.
        """
        self._acks += [ackId for batch in batches for ackId in batch.packetIds]

    def end(self, ending: Ending) -> None:
        """
        See L{BoxLink.end}.
        """
        if self.ending is None:
            self.ending = ending
            self.pause(Pause.closing)
            self.gateway.registry.links.discard(self)
            self.closed(ending, None)

    def mqttSession(self) -> MqttSession | None:
        """
        See L{BoxLink.mqttSession}.
        """
        return None


class HandStore(MemorySessionStore):
    """
    A session store that can be away for fingerprints, and keep its answers.

    @ivar held: what it has not said yet; L{None}: it answers at once
    """

    def __init__(self) -> None:
        self.reactor = HandReactor()
        MemorySessionStore.__init__(self, "memory:", BackEndContext(self.reactor, "--test"))
        self.isAway = False
        self.held: list[Callable[[], None]] | None = None

    def forget(self) -> None:
        """
        Lose everything.
        """
        MemorySessionStore.__init__(self, "memory:", BackEndContext(self.reactor, "--test"))

    def fingerprints(self, box: BoxKey) -> Deferred[bytes]:
        """
        See L{MemorySessionStore.fingerprints}.
        """
        return self._answer(lambda: MemorySessionStore.fingerprints(self, box))

    def commitFingerprints(self, updates: Sequence[FingerprintUpdate], window: int) -> Deferred[None]:
        """
        See L{MemorySessionStore.commitFingerprints}.
        """
        return self._answer(lambda: MemorySessionStore.commitFingerprints(self, updates, window))

    def _answer(self, ask: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        if self.isAway:
            return fail(StoreUnavailable("away"))
        answer = ask()
        if self.held is None:
            return answer
        later: Deferred[Any] = Deferred()
        self.held.append(lambda: later.callback(answer.result))
        return later

    def say(self) -> None:
        """
        Give the answers that were kept.
        """
        held, self.held = self.held or [], None
        for one in held:
            one()


def published(*buses: HandBus) -> list[int]:
    """
    The indices of the tracks that are on the bus, as L{makeTrack} made them.
    """
    return [event.track.field_values[0].int_value for bus in buses for event in bus.events("tracks")]


def names(*buses: HandBus) -> list[bytes]:
    """
    The C{ce_id}s of the tracks that are on the bus.
    """
    topic = Topics.named().tracks
    return [dict(record.headers)["ce_id"] for bus in buses for name, record in bus.committed if name == topic]
