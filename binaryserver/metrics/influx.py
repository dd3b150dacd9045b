"""
Families pushed to InfluxDB: as its line protocol, over HTTP or UDP.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, urlsplit

from prometheus_client import Metric
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from binaryserver.directory.httpbody import PlainAgent, readBody
from binaryserver.errors import ConfigError
from binaryserver.metrics.influxlines import asLines, datagrams
from binaryserver.options import OFF

TIMEOUT = 10.0
"""s that a push may take"""
LOG_INTERVAL = 60.0
"""s, at least, between two lines of the log on pushes that failed"""
MAX_ANSWER = 65_536
"""Bytes of an answer, which says what was wrong, that are read."""

_SHOWN = 200


def pusherTo(
    spec: str, interval: float, instance: str, gather: Callable[[], Iterable[Metric]], reactor: Any
) -> Pusher | None:
    """
    What pushes to where C{--influx} says; L{None}: nowhere.

    @param interval: s
    @param instance: the tag C{instance} of all that is pushed
    @param gather: gives the families
    @raise ConfigError: that cannot be understood
    """
    if spec == OFF:
        return None
    try:
        parts = urlsplit(spec)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    database = "" if host is None else parts.path.removeprefix("/")
    isPlain = host is not None and port and not (parts.query or parts.fragment or "@" in parts.netloc)
    if isPlain and parts.scheme == "http" and database and "/" not in database:
        base = f"http://{parts.netloc}/write?db={quote(database, safe='')}"
        return HttpPusher(base, interval, instance, gather, reactor)
    if isPlain and parts.scheme == "udp" and not database:
        assert host is not None and port is not None
        return UdpPusher((host, port), interval, instance, gather, reactor)
    raise ConfigError("--influx", "is http://HOST:PORT/DB or udp://HOST:PORT")


class Pusher:
    """
    Pushes every so often, one push at a time: while one is under way the next is left out, so that nothing gathers.

    @ivar pushed: pushes that were taken, since the start; over UDP, that were sent
    @ivar failed: pushes that were not
    """

    log = Logger()

    def __init__(self, interval: float, instance: str, gather: Callable[[], Iterable[Metric]], reactor: Any) -> None:
        self._interval = interval
        self._tags = {"instance": instance}
        self._gather = gather
        self._reactor = reactor
        self._next: IDelayedCall | None = None
        self._underWay: Deferred[None] | None = None
        self._loggedAt = float("-inf")
        self._unlogged = 0
        self._isRunning = False
        self.pushed = 0
        self.failed = 0

    def start(self) -> None:
        """
        Begin.
        """
        self._isRunning = True
        self._next = self._reactor.callLater(self._interval, self._push)

    def stop(self) -> None:
        """
        End. What is under way is given up.
        """
        self._isRunning = False
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._underWay is not None:
            self._underWay.cancel()

    @abstractmethod
    def send(self, lines: list[bytes]) -> Deferred[None]:
        """
        Send one push. Fails with what is to be logged.
        """

    def _push(self) -> None:
        self._next = self._reactor.callLater(self._interval, self._push)
        if self._underWay is not None:
            return
        lines = asLines(self._gather(), self._tags, time.time_ns())
        self._underWay = sent = self.send(lines)
        sent.addTimeout(TIMEOUT, self._reactor)
        sent.addCallbacks(self._sent, self._failed).addErrback(self._atFault)

    def _sent(self, _: None) -> None:
        self._underWay = None
        self.pushed += 1

    def _failed(self, failure: Failure) -> None:
        self._underWay = None
        if not self._isRunning:
            # Given up: what that looks like depends on how far it was.
            return
        self.failed += 1
        self._unlogged += 1
        now = self._reactor.seconds()
        if now - self._loggedAt >= LOG_INTERVAL:
            why = "no answer in time" if failure.check(TimeoutError) else failure.getErrorMessage()
            self.log.warn("metrics could not be pushed ({count} times): {why}", count=self._unlogged, why=why[:_SHOWN])
            self._loggedAt, self._unlogged = now, 0

    def _atFault(self, failure: Failure) -> None:
        self._underWay = None
        self.log.failure("metrics could not be pushed, in an unforeseen way", failure)


class NotTaken(Exception):
    """
    InfluxDB answered, and did not take what was pushed.
    """


@implementer(IStreamClientEndpoint)
class _QuietEndpoint:
    """
    Connects without a line in the log each time.
    """

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        See L{IStreamClientEndpoint.connect}.
        """
        factory: Any = protocolFactory
        factory.noisy = False
        connected: Deferred[IProtocol] = self._endpoint.connect(protocolFactory)
        return connected


@implementer(IAgentEndpointFactory)
class _QuietEndpoints:
    """
    Where an agent connects to.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """
        See L{IAgentEndpointFactory.endpointForURI}.
        """
        return _QuietEndpoint(HostnameEndpoint(self._reactor, uri.host, uri.port, timeout=TIMEOUT))


class HttpPusher(Pusher):
    """
    By C{POST /write}.
    """

    def __init__(
        self, url: str, interval: float, instance: str, gather: Callable[[], Iterable[Metric]], reactor: Any
    ) -> None:
        super().__init__(interval, instance, gather, reactor)
        self._url = url
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = 1
        agent = Agent.usingEndpointFactory(reactor, _QuietEndpoints(reactor), pool=self._pool)
        self._client = HTTPClient(PlainAgent(agent))

    def stop(self) -> None:
        """
        See L{Pusher.stop}.
        """
        super().stop()
        self._pool.closeCachedConnections()

    def send(self, lines: list[bytes]) -> Deferred[None]:
        """
        See L{Pusher.send}.
        """
        return Deferred.fromCoroutine(self._send(b"\n".join(lines)))

    async def _send(self, body: bytes) -> None:
        response: IResponse = await self._client.post(
            self._url, data=body, headers=Headers({"content-type": ["text/plain; charset=utf-8"]}), unbuffered=True
        )
        said = await readBody(response, MAX_ANSWER)
        if response.code // 100 != 2:
            raise NotTaken(f"{response.code} {said.decode('utf-8', 'replace').strip()}")


class UdpPusher(Pusher, DatagramProtocol):
    """
    By datagrams, each of whole lines; whether they arrive nobody says.
    """

    noisy = False

    def __init__(
        self,
        address: tuple[str, int],
        interval: float,
        instance: str,
        gather: Callable[[], Iterable[Metric]],
        reactor: Any,
    ) -> None:
        super().__init__(interval, instance, gather, reactor)
        self._address = address

    def stop(self) -> None:
        """
        See L{Pusher.stop}.
        """
        super().stop()
        if self.transport is not None:
            self.transport.stopListening()

    def send(self, lines: list[bytes]) -> Deferred[None]:
        """
        See L{Pusher.send}.
        """
        return Deferred.fromCoroutine(self._send(lines))

    async def _send(self, lines: list[bytes]) -> None:
        host, port = self._address
        found = await self._reactor.resolve(host)
        if self.transport is None:
            self._reactor.listenUDP(0, self, interface="::" if ":" in found else "")
        socket: Any = self.transport
        for datagram in datagrams(lines):
            socket.write(datagram, (found, port))

    def connectionRefused(self) -> None:
        """
        See L{DatagramProtocol.connectionRefused}.
        """
