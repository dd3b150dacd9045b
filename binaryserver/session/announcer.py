"""
Presences and statuses on their way to the bus: in order, and repeated until the bus has them (G5, G6).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.interfaces import IBus, ILanes
from binaryserver.model import Record

_RETRY = 1.0

# What a record costs in memory beside its value.
_RECORD_COST = 600

# A partition, and a lane of the bus.
_Place = tuple[int, Hashable]
_Announced = tuple[Record, Callable[[], None] | None]


class Announcer:
    """
    One flush a partition (and lane, where the bus has some) is under way at a time; what comes meanwhile gathers behind
    it. A flush that failed is sent again before anything later, so that a box's events keep their order.

    @ivar waiting: records not yet durable
    @ivar queuedBytes: memory of those that the bus has not been handed
    @ivar isFailing: the bus did not take the last flush that it was handed
    """

    log = Logger()

    def __init__(self, bus: IBus, topic: str, clock: IReactorTime) -> None:
        self._bus = bus
        self._topic = topic
        self._clock = clock
        self._lanes: ILanes | None = ILanes(bus, None)
        self._queued: dict[_Place, list[_Announced]] = {}
        self._sending: set[_Place] = set()
        self._idle: list[Deferred[None]] = []
        self.waiting = 0
        self.queuedBytes = 0
        self.isFailing = False

    def announce(self, record: Record, then: Callable[[], None] | None = None) -> None:
        """
        Publish an event.

        @param then: called once it is durable
        """
        lane = None if self._lanes is None else self._lanes.laneOf(record.key)
        place = self._bus.partitionFor(self._topic, record.key), lane
        self._queued.setdefault(place, []).append((record, then))
        self.queuedBytes += len(record.value) + _RECORD_COST
        self.waiting += 1
        if place not in self._sending:
            self._sending.add(place)
            self._clock.callLater(0, self._send, place)

    def whenIdle(self) -> Deferred[None]:
        """
        Fires once all that was announced is durable.
        """
        if not self.waiting:
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        return idle

    def _send(self, place: _Place) -> None:
        announced = self._queued.pop(place)
        self.queuedBytes -= _cost(announced)
        done = self._bus.publish(self._topic, place[0], [record for record, _ in announced])
        done.addCallbacks(self._sent, self._failed, callbackArgs=(place, announced), errbackArgs=(place, announced))

    def _sent(self, _: None, place: _Place, announced: list[_Announced]) -> None:
        self.waiting -= len(announced)
        self.isFailing = False
        if place in self._queued:
            self._send(place)
        else:
            self._sending.discard(place)
        for _record, then in announced:
            if then is not None:
                then()
        if not self.waiting:
            idle, self._idle = self._idle, []
            for deferred in idle:
                deferred.callback(None)

    def _failed(self, failure: Failure, place: _Place, announced: list[_Announced]) -> None:
        self.log.warn(
            "bus did not take events of {topic}, trying again: {reason}",
            topic=self._topic,
            reason=failure.getErrorMessage(),
        )
        self.isFailing = True
        self._queued[place] = announced + self._queued.get(place, [])
        self.queuedBytes += _cost(announced)
        self._clock.callLater(_RETRY, self._send, place)


def _cost(announced: list[_Announced]) -> int:
    return sum(len(record.value) + _RECORD_COST for record, _ in announced)
