"""
The brokers of a cluster, and which of them leads which partition.

In place of pykafka's own C{Cluster}, which opens and leaks a connection for every question, asks brokers of Kafka 4 for
versions they have dropped, and ends the process's work when a broker's address changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from binaryserver.bus.pykafka_grouprequests import GROUP_NEEDED
from binaryserver.bus.pykafka_link import BrokerLink, IBrokerLink, Sendable
from binaryserver.bus.pykafka_options import Address, Settings
from binaryserver.bus.pykafka_requests import (
    NEEDED,
    MetadataRequest,
    MetadataResponse,
    TopicPartition,
    VersionsRequest,
    VersionsResponse,
    missingVersions,
)
from binaryserver.errors import BusError, BusUnavailable

_T = TypeVar("_T")

CONNECT_TIMEOUT = 5.0
"""s"""
CONTROL_TIMEOUT = 5.0
"""s that a broker may take for a question about the cluster before another is asked"""

UNKNOWN_TOPIC = 3


class Cluster:
    """
    Asks whichever broker answers.

    @ivar partitions: how many partitions a topic has, by topic, of those that were looked up
    @ivar closed: L{close} was called
    @ivar trouble: why it could not be worked with when last tried
    """

    log = Logger()

    def __init__(
        self, reactor: Any, settings: Settings, makeLink: Callable[[Address], IBrokerLink] | None = None
    ) -> None:
        """
        @param reactor: C{IReactorTime}, C{IReactorFromThreads}
        @param makeLink: makes the link to a broker
        """
        self.settings = settings
        self.partitions: dict[str, int] = {}
        self.closed = False
        self.trouble = "no answer"
        self._reactor = reactor
        self._makeLink = makeLink or self._realLink
        self._brokers: dict[int, Address] = {}
        self._controller = -1
        self._control: tuple[Address, IBrokerLink] | None = None
        self._links: set[IBrokerLink] = set()
        self._leaders: dict[TopicPartition, int] = {}

    def open(self, address: Address) -> IBrokerLink:
        """
        A link to a broker. Closed with the cluster, or by L{release}.
        """
        link = self._makeLink(address)
        self._links.add(link)
        return link

    def release(self, link: IBrokerLink) -> Deferred[None]:
        """
        Close a link that L{open} gave. Fires when its thread has ended.
        """
        self._links.discard(link)
        return link.close()

    def leader(self, place: TopicPartition) -> tuple[int, Address] | None:
        """
        Id and address of the broker that leads a partition; L{None} if it is not known now.
        """
        broker = self._leaders.get(place, -1)
        address = self._brokers.get(broker)
        return None if address is None else (broker, address)

    def moved(self, place: TopicPartition) -> None:
        """
        Forget the leader of a partition, until the next L{lookup}.
        """
        self._leaders.pop(place, None)

    async def ask(
        self,
        build: Callable[[], Sendable],
        parse: Callable[[memoryview], _T],
        timeout: float = CONTROL_TIMEOUT,
        first: Address | None = None,
    ) -> _T:
        """
        Ask any broker: that which answered last, then the others, each once.

        @param first: begin with this one
        @raise BusUnavailable: none answered
        """
        order = [self._control[0]] if self._control else []
        if first is not None:
            order.insert(0, first)
        order += [*self._brokers.values(), *self.settings.seeds]
        reasons: list[str] = []
        for address in dict.fromkeys(order):
            if self.closed:
                raise BusUnavailable("stopped")
            try:
                return await self._controlLink(address).ask(build, parse, timeout)
            except BusError as error:
                reasons.append(str(error))
        raise BusUnavailable("no broker answers: " + "; ".join(reasons))

    async def lookup(self, topics: Iterable[str]) -> list[str]:
        """
        Learn brokers, leaders and, of topics that are new, partitions.

        @return: those of the topics that do not exist
        @raise BusUnavailable: no broker answers, or none knows yet
        """
        wanted = tuple(topics)
        answer: MetadataResponse = await self.ask(lambda: MetadataRequest(wanted), MetadataResponse)
        brokers = {number: Address(str(broker.host, "utf-8"), broker.port) for number, broker in answer.brokers.items()}
        if brokers:
            self._brokers = brokers
        self._controller = answer.controller_id
        missing = []
        unready = []
        for topic in wanted:
            found = answer.topics.get(topic.encode())
            if found is None or found.err == UNKNOWN_TOPIC:
                missing.append(topic)
            elif found.err or not found.partitions:
                # Just made: no leader has been chosen.
                unready.append(f"{topic} (error {found.err})")
            else:
                # Fixed once known: keys must not move to other partitions while the bus is up.
                self.partitions.setdefault(topic, len(found.partitions))
                self._lead(topic, {number: part.leader for number, part in found.partitions.items()})
        if unready:
            raise BusUnavailable(f"not ready yet: {', '.join(unready)}")
        return missing

    async def checkVersions(self) -> None:
        """
        @raise BusError: the cluster does not take the requests that are sent here
        @raise BusUnavailable: no broker answers
        """
        versions: VersionsResponse = await self.ask(VersionsRequest, VersionsResponse)
        missing = missingVersions(versions, (*NEEDED, *GROUP_NEEDED))
        if missing:
            raise BusError(f"the broker does not take {', '.join(missing)}; pykafka: is for Kafka 2.2 and later")

    @property
    def controller(self) -> Address | None:
        """
        The broker to ask for new topics, as of the last L{lookup}.
        """
        return self._brokers.get(self._controller)

    def close(self) -> Deferred[None]:
        """
        Break all links. Fires when their threads have ended.
        """
        self.closed = True
        links, self._links = self._links, set()
        if self._control is not None:
            links.add(self._control[1])
            self._control = None
        return gatherResults([link.close() for link in links]).addCallback(lambda _: None)

    def _lead(self, topic: str, leaders: Mapping[int, int]) -> None:
        for number, leader in leaders.items():
            place = TopicPartition(topic, number)
            if leader in self._brokers:
                self._leaders[place] = leader
            else:
                self.moved(place)

    def _controlLink(self, address: Address) -> IBrokerLink:
        if self._control is not None:
            known, link = self._control
            if known == address:
                return link
            self.release(link)
        link = self.open(address)
        self._control = (address, link)
        return link

    def _realLink(self, address: Address) -> IBrokerLink:
        return BrokerLink(self._reactor, address, CONNECT_TIMEOUT, self.settings.tls)
