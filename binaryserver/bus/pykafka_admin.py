"""
Topics: whether they are there, what they allow, and making them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from twisted.internet.task import deferLater

from binaryserver.bus.pykafka_cluster import CONTROL_TIMEOUT, Cluster
from binaryserver.bus.pykafka_requests import (
    CreateTopicsRequest,
    CreateTopicsResponse,
    DescribeConfigsRequest,
    DescribeConfigsResponse,
)
from binaryserver.errors import BusError, BusUnavailable

_T = TypeVar("_T")

RETRY_WAIT = 0.2
"""s between attempts."""
MISSING_PATIENCE = 1.0
"""s for which a broker may not have heard yet of a topic that another has made."""
CREATE_TIMEOUT = 10.0
"""s that a broker may take to make topics."""

_MADE = 0
_EXISTS = 36
_TRY_AGAIN = (7, 41)
"""The broker took too long; it is not the controller."""


class TopicSettings(NamedTuple):
    """
    What a topic allows.

    @ivar maxMessage: C{max.message.bytes}: the most bytes of one batch
    @ivar minReplicas: C{min.insync.replicas}
    """

    maxMessage: int
    minReplicas: int


async def persist(reactor: Any, cluster: Cluster, attempt: Callable[[], Awaitable[_T]]) -> _T:
    """
    Try again for as long as the cluster is not available: for ever, unless the caller limits it or it is closed.

    @raise BusError: what C{attempt} fails with, but for L{BusUnavailable}
    @raise BusUnavailable: the cluster was closed
    """
    while True:
        try:
            return await attempt()
        except BusUnavailable as error:
            if cluster.closed:
                raise
            cluster.trouble = str(error)
        await deferLater(reactor, RETRY_WAIT)


async def findTopics(reactor: Any, cluster: Cluster, topics: Sequence[str]) -> list[str]:
    """
    Look topics up until they are all ready or some are certain not to exist.

    @return: those that do not exist
    @raise BusUnavailable: not now
    @raise BusError: the cluster is not one to work with
    """
    await cluster.checkVersions()
    missing = await cluster.lookup(topics)
    patience = 0.0
    while missing and patience < MISSING_PATIENCE:
        await deferLater(reactor, RETRY_WAIT)
        patience += RETRY_WAIT
        missing = await cluster.lookup(topics)
    return missing


async def topicSettings(cluster: Cluster, topics: Sequence[str]) -> dict[str, TopicSettings]:
    """
    What topics allow; nothing of those that we may not ask about.

    @raise BusUnavailable: no broker answers
    """
    names = ("max.message.bytes", "min.insync.replicas")
    answer: DescribeConfigsResponse = await cluster.ask(
        lambda: DescribeConfigsRequest(topics, names), DescribeConfigsResponse
    )
    return {
        topic: TopicSettings(*(int(settings[name]) for name in names))
        for topic, settings in answer.settings.items()
        if all(settings.get(name, "").isdigit() for name in names)
    }


async def makeTopics(
    reactor: Any, cluster: Cluster, topics: Sequence[str], partitions: int, replication: int
) -> list[str]:
    """
    Make the topics that are missing, and wait until all are ready: for ever, unless the caller limits it.

    @return: the names of those that were made
    @raise BusError: the broker refuses, e.g. as it has fewer brokers than replicas
    """
    made: list[str] = []

    async def attempt() -> None:
        missing = await cluster.lookup(topics)
        wanted = [topic for topic in missing if topic not in made]
        if wanted:
            made.extend(await _make(cluster, wanted, partitions, replication))
        if missing:
            raise BusUnavailable(f"not ready yet: {', '.join(missing)}")

    await persist(reactor, cluster, attempt)
    return made


async def _make(cluster: Cluster, topics: Sequence[str], partitions: int, replication: int) -> list[str]:
    answer: CreateTopicsResponse = await cluster.ask(
        lambda: CreateTopicsRequest(topics, partitions, replication, int(CREATE_TIMEOUT * 1000)),
        CreateTopicsResponse,
        CREATE_TIMEOUT + CONTROL_TIMEOUT,
        cluster.controller,
    )
    made = []
    for topic, (error, words) in answer.errors.items():
        if error == _MADE:
            made.append(topic)
        elif error != _EXISTS and error not in _TRY_AGAIN:
            raise BusError(f"cannot make topic {topic}: {words or 'no reason given'} (Kafka's error {error})")
    return made
