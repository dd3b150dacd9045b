"""
The services of one instance, and the order in which they start and stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from binaryserver.endpoints.credentials import ReloadingCredentials
from binaryserver.endpoints.listening import ServerEndpoint
from binaryserver.errors import ConfigError
from binaryserver.gateway import Gateway
from binaryserver.interfaces import IInbox, IPeers
from binaryserver.model import BoxKey, StreamMark
from binaryserver.ops.health import Check, Health, Phase
from binaryserver.session.farewell import endLinks
from binaryserver.session.membership import Membership

_DRAIN_TICK = 0.02


class Component(Service):
    """
    A service whose start and stop may take time.
    """

    def begin(self) -> Deferred[None]:
        """
        Start. Fails with what makes the start impossible.
        """
        raise NotImplementedError

    def end(self) -> Deferred[None]:
        """
        Stop. Called only if L{begin} was, whether that succeeded or not.
        """
        raise NotImplementedError


class OrderedServices(MultiService):
    """
    Starts its components one after the other, each once the one before it runs, and stops them the other way round.

    @ivar stoppedWhole: nothing failed while stopping
    @ivar started: fires when all run, or fails with what the first failing one says
    """

    log = Logger()
    started: Deferred[None]

    def __init__(self) -> None:
        MultiService.__init__(self)
        self._begun: list[Component] = []
        self._isStopping = False
        self.stoppedWhole = True

    def startService(self) -> None:
        """
        See L{MultiService.startService}.
        """
        Service.startService(self)
        self.started = Deferred.fromCoroutine(self._startAll())

    async def _startAll(self) -> None:
        for service in self:
            if self._isStopping:
                return
            self._begun.append(service)
            service.running = True
            await service.begin()

    def stopService(self) -> Deferred[None]:
        """
        See L{MultiService.stopService}.
        """
        Service.stopService(self)
        self._isStopping = True
        return Deferred.fromCoroutine(self._stopAll())

    async def _stopAll(self) -> None:
        while self._begun:
            service = self._begun.pop()
            service.running = False
            try:
                await service.end()
            except Exception:
                # What comes after it holds data too.
                self.stoppedWhole = False
                self.log.failure("a service failed to stop")


class BackEndService(Component):
    """
    A bus, a session store or a directory.
    """

    def __init__(self, backEnd: Any, option: str, timeout: float, clock: Any) -> None:
        """
        @param option: the option that named it
        @param timeout: s, the longest that its start may take
        """
        self._backEnd = backEnd
        self._option = option
        self._timeout = timeout
        self._clock = clock

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """

        def late(_: object, timeout: float) -> None:
            raise ConfigError(self._option, f"not reachable within {timeout:g} s")

        started: Deferred[None] = self._backEnd.start()
        # A little longer than the back end's own check, which knows better what is wrong.
        return started.addTimeout(self._timeout + 2, self._clock, late)

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}.
        """
        stopped: Deferred[None] = self._backEnd.stop()
        return stopped


class GatewayService(Component):
    """
    The gateway's own life: from the lease of its worker number to the drain.

    @ivar drainedWhole: the last drain ended by itself, with everything durable and told
    """

    log = Logger()

    def __init__(
        self,
        gateway: Gateway,
        peers: IPeers,
        drainTimeout: float,
        lease: float,
        grace: float,
        giveUp: Callable[[], None],
    ) -> None:
        """
        @param giveUp: called once if another process has taken this instance's name: the process is to stop
        @param drainTimeout: s
        @param lease: s, see L{Membership}
        @param grace: s, likewise
        """
        self._gateway = gateway
        self._peers = peers
        self._drainTimeout = drainTimeout
        self._giveUp = giveUp
        self._isSuperseded = False
        self._membership = Membership(gateway, lease, grace, self._wasSuperseded)
        self.drainedWhole = True

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """
        gateway = self._gateway

        def heard(_: None) -> Deferred[None]:
            return self._membership.start()

        def leased(_: None) -> None:
            gateway.sweeper.start()
            gateway.recheck.start()
            gateway.retention.start()
            gateway.delivery.start()

        return self._peers.start(gateway).addCallback(heard).addCallback(leased)

    def checkStore(self) -> Check:
        """
        How the session store does, as the renewals of the lease show it.
        """
        return self._membership.check()

    def _wasSuperseded(self) -> None:
        if not self._isSuperseded:
            self._isSuperseded = True
            self._giveUp()

    def end(self) -> Deferred[None]:
        """
        Drain: the links end one after the other, each once what it has in flight is committed and acked; and presences
        and marks are written.
        """
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        gateway = self._gateway
        gateway.isDraining = True
        gateway.recheck.stop()
        gateway.retention.stop()
        self.drainedWhole = False
        deadline = gateway.clock.seconds() + self._drainTimeout
        links = gateway.registry.links
        acked = await endLinks(gateway, self._drainTimeout, deadline)
        gateway.delivery.stop()
        told = await self._until(
            lambda: (
                gateway.delivery.isIdle
                and not (gateway.untold or gateway.registry.releases.waiting)
                and not (gateway.uplink.hasUnwrittenMarks or gateway.uplink.pendingBytes)
            ),
            deadline,
        )
        self.drainedWhole = acked and told and not self._isSuperseded
        left = {
            "untold": gateway.untold,
            "releases": gateway.registry.releases.waiting,
            "size": gateway.uplink.pendingBytes,
            "marks": not gateway.uplink.hasUnwrittenMarks,
            "isIdle": gateway.delivery.isIdle,
        }
        gateway.sweeper.stop()
        await self._until(lambda: not links, min(deadline, gateway.clock.seconds() + 1))
        for link in list(links):
            link.abort()
        await self._peers.stop()
        await self._membership.stop()
        self.log.info("counted since the start: {counted}", counted=gateway.counters.asDict())
        if not self.drainedWhole:
            self.log.warn(
                "the drain was cut short: boxes will send again what was not acked (all acked: {acked}; left: {untold} "
                "events, {releases} ends of links, {size} bytes for the bus; marks written: {marks}; messages idle: "
                "{isIdle})",
                acked=acked,
                **left,
            )

    async def _until(self, isSo: Callable[[], bool], deadline: float) -> bool:
        clock = self._gateway.clock
        while not isSo():
            if clock.seconds() >= deadline:
                return False
            await deferLater(clock, _DRAIN_TICK)
        return True


@implementer(IInbox)
class _NoInbox:
    """
    Of one that holds no links.
    """

    def handOver(self, box: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...]]:
        """
        See L{IInbox.handOver}.
        """
        return succeed(())

    def wake(self, boxes: Sequence[BoxKey]) -> None:
        """
        See L{IInbox.wake}.
        """

    def wakeAll(self) -> None:
        """
        See L{IInbox.wakeAll}.
        """

    def disconnect(self, box: BoxKey, linkEpoch: int) -> bool:
        """
        See L{IInbox.disconnect}.
        """
        return False


class PeersService(Component):
    """
    The way to other instances, of one that holds no links.
    """

    def __init__(self, peers: IPeers) -> None:
        self._peers = peers

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """
        return self._peers.start(_NoInbox())

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}.
        """
        return self._peers.stop()


class ServingService(Component):
    """
    The last to start and the first to stop: while it runs, boxes are to come.
    """

    def __init__(self, health: Health, delay: float, clock: Any) -> None:
        """
        @param delay: s between the word that boxes are to come no more and the end of everything: until then those that
            have not heard it are served as before
        """
        self._health = health
        self._delay = delay
        self._clock = clock

    def hurry(self) -> None:
        """
        Let the end of everything follow the word at once.
        """
        self._delay = 0.0

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """
        self._health.phase = Phase.serving
        return succeed(None)

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}.
        """
        wasServing = self._health.phase is Phase.serving
        self._health.phase = Phase.draining
        return deferLater(self._clock, self._delay) if wasServing else succeed(None)


class CredentialsService(Component):
    """
    Certificates that no listener of their own looks after.
    """

    def __init__(self, credentials: ReloadingCredentials) -> None:
        self._credentials = credentials

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """
        self._credentials.start()
        return succeed(None)

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}.
        """
        self._credentials.stop()
        return succeed(None)


class ListeningService(Component):
    """
    One endpoint that is listened on.

    @ivar port: once it listens
    @ivar description: the endpoint's string
    @ivar endpoint: what the string says
    """

    port: IListeningPort | None = None

    def __init__(self, option: str, description: str, endpoint: ServerEndpoint, mustBeLoopback: str) -> None:
        """
        @param description: the endpoint's string
        @param mustBeLoopback: why it may only listen on loopback; empty: it may anywhere
        """
        self._option = option
        self.description = description
        self.endpoint = endpoint
        self._mustBeLoopback = mustBeLoopback
        self.factory: Callable[[], IProtocolFactory]

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """
        return self.bind(self.factory())

    def bind(self, factory: IProtocolFactory) -> Deferred[None]:
        """
        Listen.

        @raise ConfigError: cannot, or must not, there
        """
        listening: Deferred[IListeningPort] = maybeDeferred(self.endpoint.listen, factory)

        def bound(port: IListeningPort) -> Deferred[None]:
            self.port = port
            host = getattr(port.getHost(), "host", "")
            if self._mustBeLoopback and host and not ip_address(host.partition("%")[0]).is_loopback:
                return self.end().addCallback(self._refuse)
            return succeed(None)

        def failed(failure: Any) -> None:
            # A port beyond 65535 is an OverflowError, and a path that cannot be an OSError of its own.
            failure.trap(CannotListenError, OSError, OverflowError)
            error = failure.value
            cause = error.socketError if isinstance(error, CannotListenError) else error
            text = getattr(cause, "strerror", None) or cause
            raise ConfigError(self._option, f"{self.description}: {text}") from error

        return listening.addCallbacks(bound, failed)

    def _refuse(self, _: None) -> None:
        raise ConfigError(self._option, f"{self.description}: {self._mustBeLoopback}")

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}.
        """
        port, self.port = self.port, None
        return _stopListening(port)


class AdoptedListeningService(Component):
    """
    A socket that the parent bound.

    @ivar endpoint: what is put on it
    """

    def __init__(self, reactor: Any, descriptor: int, family: int, endpoint: ServerEndpoint) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._family = family
        self.endpoint = endpoint
        self._port: IListeningPort | None = None
        self.factory: Callable[[], IProtocolFactory]

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """
        self._port = self._reactor.adoptStreamPort(self._descriptor, self._family, self.endpoint.wrap(self.factory()))
        return succeed(None)

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}.
        """
        port, self._port = self._port, None
        return _stopListening(port)


def _stopListening(port: IListeningPort | None) -> Deferred[None]:
    # Some ports stop at once and give nothing.
    stopping = None if port is None else port.stopListening()
    return succeed(None) if stopping is None else stopping
