"""
The Shovel's own life: from the connection to Redis to the drain.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from binaryserver.bus.rqueue import checkQueue
from binaryserver.bus.rqueue_settings import parseRQueue
from binaryserver.bus.topics import Topics
from binaryserver.errors import BinaryServerError, ConfigError, StoreError
from binaryserver.interfaces import IBus
from binaryserver.service import Component
from binaryserver.session.redischecks import startChecked
from binaryserver.session.redislink import RedisLink
from binaryserver.shovel.copier import Copier
from binaryserver.shovel.counts import Counts
from binaryserver.shovel.publishing import Publisher
from binaryserver.shovel.source import EXCHANGE, RENEW, RedisSource
from binaryserver.transcode.cloudconnect_layout import Kind


@dataclass(frozen=True, slots=True)
class Pace:
    """
    How the Shovel works. Times in s.

    @ivar batch: events that are taken from a list at once
    @ivar poll: between two looks at a list that was empty
    @ivar lease: after which a Shovel that was not heard of is dead
    @ivar startTimeout: after which a check at start gives up
    @ivar drainTimeout: the longest that a stop may wait for the bus
    """

    batch: int = 500
    poll: float = 0.1
    lease: float = 10.0
    startTimeout: float = 15.0
    drainTimeout: float = 20.0


class DrainCut(BinaryServerError):
    """
    A stop did not wait for the bus any longer.
    """


class ShovelService(Component):
    """
    Copies every list to its topic.

    @ivar counts: what was copied, and how things stand
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        nowMs: Callable[[], int],
        spec: str,
        option: str,
        bus: IBus,
        topics: Topics,
        instance: str,
        pace: Pace,
    ) -> None:
        """
        @param spec: of RQueue
        @param option: that named it
        @param bus: started before this
        @raise ConfigError: C{spec} cannot be understood
        """
        self._settings = settings = parseRQueue(spec, option)
        self._reactor = reactor
        self._option = option
        self._pace = pace
        self.counts = Counts()
        self._link = RedisLink(reactor, settings.redis, option, (EXCHANGE, RENEW))
        me = f"{instance}@{os.urandom(6).hex()}"
        self._copiers = [
            Copier(
                reactor,
                RedisSource(self._link, settings.listOf(kind), me, pace.lease),
                Publisher(reactor, nowMs, bus, topics, kind, instance, self.counts),
                kind,
                self.counts,
                pace.batch,
                pace.poll,
                pace.lease,
            )
            for kind in Kind
        ]

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """
        return Deferred.fromCoroutine(self._begin())

    async def _begin(self) -> None:
        try:
            await startChecked(
                self._link,
                self._settings.redis.where,
                self._option,
                self._reactor,
                self._pace.startTimeout,
                lambda: checkQueue(self._link, self._settings, self._option),
            )
        except StoreError as error:
            text = str(error).removeprefix(f"{self._option}: ")
            raise ConfigError(self._option, text) from error
        for copier in self._copiers:
            copier.start()

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}.
        """
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        stopped = await gatherResults([copier.stop(self._pace.drainTimeout) for copier in self._copiers])
        await self._link.stop(1)
        self.log.info("counted since the start: {counted}", counted=self.counts.asDict())
        if not all(stopped):
            raise DrainCut("the stop did not wait for the bus any longer: the next Shovel publishes again what it took")
