"""
Sessions in memory: for tests and trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from binaryserver.errors import ConfigError, StoreError
from binaryserver.interfaces import ISessionStore
from binaryserver.model import EPOCH_2010_MS, KEPT_STREAMS, BoxKey, Claim, MarkUpdate, MqttSession, Owner, StreamMark
from binaryserver.plugins import BackEndContext

MAX_WORKERS = 1 << 14
"""How many worker numbers there are."""


def instanceOf(incarnation: str) -> str:
    """
    The instance of which C{INSTANCE@START} is one run.
    """
    return incarnation.rpartition("@")[0] or incarnation


@dataclass(slots=True)
class _Box:
    """
    What is known of one box.
    """

    owner: Owner | None = None
    marks: dict[int, StreamMark] = field(default_factory=dict)
    mqtt: MqttSession | None = None


@implementer(ISessionStore)
class MemorySessionStore:
    """
    C{memory:}
    """

    def __init__(self, spec: str, context: BackEndContext) -> None:
        if spec.partition(":")[2]:
            raise ConfigError(context.option, f"{spec!r}: memory: takes no value")
        self._boxes: dict[BoxKey, _Box] = {}
        self._workers: dict[str, int] = {}

    def start(self) -> Deferred[None]:
        """
        See L{ISessionStore.start}.
        """
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """
        See L{ISessionStore.stop}.
        """
        return succeed(None)

    def leaseWorker(self, incarnation: str) -> Deferred[int]:
        """
        See L{ISessionStore.leaseWorker}. A newer incarnation of an instance takes its number over.
        """
        instance = instanceOf(incarnation)
        number = self._workers.get(instance, len(self._workers))
        if number >= MAX_WORKERS:
            return fail(StoreError("every worker number is taken"))
        self._workers[instance] = number
        return succeed(number)

    def claim(
        self, box: BoxKey, incarnation: str, protocol: str, peer: str, nowMs: int, clean: bool
    ) -> Deferred[Claim]:
        """
        See L{ISessionStore.claim}.
        """
        known = self._boxes.setdefault(box, _Box())
        previous = known.owner
        epoch = max(previous.linkEpoch + 1 if previous else 0, nowMs - EPOCH_2010_MS)
        known.owner = Owner(incarnation, epoch, True)
        if clean:
            known.mqtt = None
        return succeed(Claim(epoch, previous, tuple(known.marks.values()), known.mqtt))

    def release(self, box: BoxKey, linkEpoch: int, nowMs: int) -> Deferred[bool]:
        """
        See L{ISessionStore.release}.
        """
        known = self._boxes.get(box)
        if known is None or known.owner is None or known.owner.linkEpoch != linkEpoch:
            return succeed(False)
        known.owner = known.owner._replace(connected=False)
        return succeed(True)

    def commitMarks(self, marks: Sequence[MarkUpdate]) -> Deferred[None]:
        """
        See L{ISessionStore.commitMarks}.
        """
        for box, stream, committed, latest in marks:
            kept = self._boxes.setdefault(box, _Box()).marks
            old = kept.pop(stream, None)
            if old is not None:
                committed, latest = max(committed, old.committed), max(latest, old.latest)
            kept[stream] = StreamMark(stream, committed, latest)
            while len(kept) > KEPT_STREAMS:
                del kept[next(iter(kept))]
        return succeed(None)

    def marks(self, box: BoxKey) -> Deferred[tuple[StreamMark, ...]]:
        """
        See L{ISessionStore.marks}.
        """
        known = self._boxes.get(box)
        return succeed(tuple(known.marks.values()) if known else ())

    def saveMqtt(self, box: BoxKey, linkEpoch: int, session: MqttSession | None) -> Deferred[bool]:
        """
        See L{ISessionStore.saveMqtt}.
        """
        known = self._boxes.get(box)
        if known is None or known.owner is None or known.owner.linkEpoch != linkEpoch:
            return succeed(False)
        known.mqtt = session
        return succeed(True)
