"""
The parts of a gateway, made from its settings. Opens nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from twisted.internet.defer import Deferred, succeed
from twisted.plugin import getPlugins

from binaryserver.admission.notices import DirectoryNotices
from binaryserver.admission.passwords import PasswordChecker
from binaryserver.admission.secretthreads import SecretThreads
from binaryserver.bus.observed import ObservedBus
from binaryserver.bus.topics import Topics
from binaryserver.directory.cache import Directory, Freshness
from binaryserver.directory.records import Change
from binaryserver.downlink.consumer import DownlinkConsumer
from binaryserver.downlink.expiry import ChannelExpiry
from binaryserver.endpoints.door import Door, DoorCounts, DoorLimits
from binaryserver.errors import ConfigError
from binaryserver.gateway import Gateway, Limits
from binaryserver.interfaces import (
    IBus,
    IBusPlugin,
    IDirectoryPlugin,
    IEventCodec,
    IPeers,
    ISessionStore,
    ISessionStorePlugin,
)
from binaryserver.listeners import Listeners, boxProtocols, optionOf
from binaryserver.metrics.depth import MailboxDepth
from binaryserver.metrics.influx import pusherTo
from binaryserver.metrics.instance import GatewayCollector
from binaryserver.metrics.lag import ReactorLag
from binaryserver.metrics.observed import Observed
from binaryserver.metrics.process import ProcessCollector
from binaryserver.metrics.service import MetricsService, Running
from binaryserver.metrics.timed import timed
from binaryserver.metrics.tls import TlsCollector
from binaryserver.model import BoxKey, MailboxLimits
from binaryserver.ops.access import accessTo
from binaryserver.ops.control import Control
from binaryserver.ops.health import Check, Health
from binaryserver.ops.http import makeSite
from binaryserver.options import OFF
from binaryserver.plugins import BackEndContext, createBackEnd
from binaryserver.service import (
    AdoptedListeningService,
    BackEndService,
    CredentialsService,
    GatewayService,
    ListeningService,
    OrderedServices,
    PeersService,
    ServingService,
)
from binaryserver.transcode.pseudonyms import Pseudonyms

_IN_CLOUDCONNECT = "events in CloudConnect's queue, until its readers take them"
_NEEDS_LOOPBACK = "open: lets anybody in, so that every listener must be on a loopback address"


class Assembly:
    """
    Of one process. Each part is made when it is asked for, the back ends at once.

    @ivar listeners: where boxes come in
    @ivar health: whether boxes may be sent to the process
    @ivar metrics: what the process tells of itself
    """

    def __init__(self, reactor: Any, settings: Mapping[str, Any], incarnation: str, peers: IPeers) -> None:
        """
        @param settings: by the names of the options
        @param peers: the other incarnations, unless the session store knows them
        @raise ConfigError: a back end cannot be as the settings say
        """
        self._reactor = reactor
        self._settings = settings
        self._incarnation = incarnation
        self._topics = Topics.named(settings["topic-prefix"])
        self._mainBus: IBus = self._make(IBusPlugin, "bus")
        self._observed = Observed()
        self.metrics = CollectorRegistry(auto_describe=False)
        self.metrics.register(ProcessCollector(settings["instance"], time.time(), self._observed.reactorLag))
        self._tls = TlsCollector()
        self.metrics.register(self._tls)
        self._store: ISessionStore = timed(self._make(ISessionStorePlugin, "sessions"), self._observed.store, reactor)
        freshness = Freshness(
            settings["directory-fresh"],
            settings["directory-stale"],
            settings["directory-absent"],
            settings["directory-size"],
        )
        source = timed(self._make(IDirectoryPlugin, "directory"), self._observed.directory, reactor)
        self._directory = Directory(source, reactor, freshness)
        self._pseudonyms = Pseudonyms.fromFile(settings["pseudonym-key-file"])
        limits = DoorLimits(settings["max-links"], settings["max-handshakes"], settings["address-rate"])
        self._door = Door(reactor, limits, DoorCounts())
        self._gatewayMade: Gateway | None = None
        self._threads = SecretThreads(reactor, settings["secret-threads"])
        self._bus = ObservedBus(self._clouds(), reactor)
        self.health = Health()
        self._peers: IPeers = self._store.peers(incarnation) or peers
        mustBeLoopback = _NEEDS_LOOPBACK if self._directory.requiresLoopback else ""
        self.listeners = Listeners(reactor, settings, self._door, mustBeLoopback)

    def _make(self, interface: Any, name: str) -> Any:
        return createBackEnd(interface, self._settings[name], self._context(f"--{name}"))

    def _context(self, option: str) -> BackEndContext:
        settings = self._settings
        return BackEndContext(
            reactor=self._reactor,
            option=option,
            flushInterval=settings["flush-interval"],
            batchDeadline=settings["batch-deadline"],
            startTimeout=settings["start-timeout"],
            stopTimeout=settings["drain-timeout"],
            topics=self._topics.all,
        )

    def _clouds(self) -> IBus:
        """
        The bus of a gateway: with CloudConnect beside it, where that is configured.
        """
        settings = self._settings
        if settings["cloudconnect"] == OFF:
            return self._mainBus
        from binaryserver.bus.clouds import CloudsBus
        from binaryserver.bus.rqueue import RQueue

        queue = RQueue(settings["cloudconnect"], self._context("--cloudconnect"), self._topics)
        return CloudsBus(self._mainBus, queue, self._directory.clouds)

    # What runs, in the order of its start.

    def addBackEnds(self, services: OrderedServices) -> None:
        """
        What a gateway stands on.
        """
        self._addBackEnds(services, (self._bus, "bus"), (self._store, "sessions"))
        self._addDirectory(services)
        self._threads.setServiceParent(services)

    def addSharedBackEnds(self, services: OrderedServices) -> None:
        """
        What the parent of workers stands on, which has no links of its own.
        """
        self._addBackEnds(services, (self._mainBus, "bus"), (self._store, "sessions"))
        if self._settings["http"] != OFF:
            # Operators are told what it says of boxes.
            self._addDirectory(services)

    def _addDirectory(self, services: OrderedServices) -> None:
        notices = DirectoryNotices(self._directory, self._mainBus, self._topics.directory, self._reactor)
        # Before the directory: no change of it is missed in between.
        notices.setServiceParent(services)
        self._addBackEnds(services, (self._directory, "directory"))

    def _addBackEnds(self, services: OrderedServices, *backEnds: tuple[Any, str]) -> None:
        for backEnd, name in backEnds:
            timeout = self._settings["start-timeout"]
            BackEndService(backEnd, f"--{name}", timeout, self._reactor).setServiceParent(services)

    def addMetrics(self, services: OrderedServices, *parts: Running) -> None:
        """
        What runs for the numbers' sake.

        @param parts: beside what each process has
        @raise ConfigError: what is to take them cannot be understood
        """
        settings = self._settings
        lag = ReactorLag(self._reactor, self._observed.reactorLag)
        pusher = pusherTo(
            settings["influx"], settings["influx-interval"], settings["instance"], self.metrics.collect, self._reactor
        )
        MetricsService(lag, *([] if pusher is None else [pusher]), *parts).setServiceParent(services)

    def addHttp(
        self,
        services: OrderedServices,
        control: Control | None = None,
        gather: Callable[[], Deferred[Iterable[Metric]]] | None = None,
    ) -> None:
        """
        The HTTP side, unless it is off.

        @param control: what can be done to the process
        @param gather: gives the families for C{/metrics}; those of this process by default
        """
        description = self._settings["http"]
        if description == OFF:
            return
        endpoint = self.listeners.endpoint("--http", description)
        access, mustBeLoopback = accessTo(
            endpoint, description, self._settings["http-token-file"], self._settings["http-behind-tls"], self._reactor
        )
        self._tls.add(endpoint.credentials)
        listener = ListeningService("--http", description, endpoint, mustBeLoopback)
        elsewhere = [] if self._settings["cloudconnect"] == OFF else [_IN_CLOUDCONNECT]
        listener.factory = lambda: makeSite(
            self._mainBus,
            self._store,
            self._topics,
            self._reactor,
            access=access,
            published=lambda box: self._pseudonyms.published(box, None),
            elsewhere=elsewhere,
            health=self.health,
            control=control,
            gather=gather or (lambda: succeed(list(self.metrics.collect()))),
            known=self._directory,
            disconnect=self._disconnect,
        )
        listener.setServiceParent(services)

    def _disconnect(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[bool | None]:
        """
        Close the link of a box, whichever instance has it.
        """
        if self._gatewayMade is not None and incarnation == self._incarnation:
            return succeed(self._gatewayMade.disconnect(box, linkEpoch))
        return self._peers.disconnect(incarnation, box, linkEpoch)

    def addPeers(self, services: OrderedServices) -> None:
        """
        How the parent of workers reaches instances.
        """
        PeersService(self._peers).setServiceParent(services)

    def addGateway(
        self,
        services: OrderedServices,
        listeners: Iterable[tuple[str, ListeningService | AdoptedListeningService]],
        giveUp: Callable[[], None],
        worker: int = 0,
    ) -> GatewayService:
        """
        The gateway itself, its member of the consumer group, and where boxes come in.

        @param listeners: each with the name of its protocol
        @param giveUp: stops the process
        @param worker: the number of this worker
        @return: the gateway's life
        """
        settings = self._settings
        gateway = self._gatewayMade = self._gateway()
        udp = self.listeners.udp(worker)
        if udp is not None:
            # It stops after MD21's links have ended: the drain's acks go by it too.
            gateway.md21.udp = udp.side
            udp.setServiceParent(services)
        lease, grace = settings["lease"], settings["reconnect-grace"]
        serving = ServingService(self.health, settings["drain-delay"], self._reactor)

        def superseded() -> None:
            serving.hurry()
            giveUp()

        life = GatewayService(gateway, self._peers, settings["drain-timeout"], lease, grace, superseded)
        life.setServiceParent(services)
        limits = MailboxLimits(settings["mailbox-messages"], settings["mailbox-bytes"])
        group = f"{settings['topic-prefix']}gateway"
        expiry = ChannelExpiry(settings["message-expiry"], settings["channel-expiry"])
        consumer = DownlinkConsumer(gateway, self._peers, group, limits, settings["max-message"], expiry)
        consumer.setServiceParent(services)
        if gateway.md21.upgrade is not None:
            credentials = gateway.md21.upgrade.credentials
            self.listeners.credentials.append(credentials)
            credentials.onReload(gateway.recheck.certificatesChanged)
            CredentialsService(credentials).setServiceParent(services)
            self._tls.add(credentials)
        depth = MailboxDepth(self._store, self._reactor)
        self.metrics.register(
            GatewayCollector(gateway, self._door.counts, lambda: consumer.lag, lambda: depth.messages)
        )
        self.addMetrics(services, depth)
        for name, listener in listeners:
            listener.endpoint.onReload(gateway.recheck.certificatesChanged)
            self._tls.add(listener.endpoint.credentials)
            listener.factory = partial(boxProtocols()[name].buildFactory, gateway)
            listener.setServiceParent(services)
        serving.setServiceParent(services)
        self._watch(life)
        return life

    def _watch(self, life: GatewayService) -> None:
        """
        Have the health tell of what the gateway stands on.
        """
        health = self.health
        health.watch("bus", self._bus.check)
        health.watch("sessions", lambda: _warned(life.checkStore(), getattr(self._store, "warnings", ())))
        health.watch("directory", self._directory.check)

    def reload(self, live: Mapping[str, Any]) -> None:
        """
        Take the settings that can change, and look again at what comes from elsewhere. (Tokens are anyway.)

        @param live: see L{binaryserver.reloading.LIVE}
        """
        gateway = self._gatewayMade
        if gateway is not None:
            gateway.limits = replace(
                gateway.limits,
                window=live["window"],
                windowBytes=live["window-bytes"],
                maxPacket=live["max-packet"],
                connectTimeout=live["connect-timeout"],
                packetTimeout=live["packet-timeout"],
                controlRate=live["control-rate"],
            )
            self._directory.changed(Change())
        self._door.setLimits(DoorLimits(live["max-links"], live["max-handshakes"], live["address-rate"]))
        for credentials in self.listeners.credentials:
            credentials.lookNow()

    def checkWorkers(self) -> None:
        """
        Try what each worker makes for itself: what is wrong with it is told before one starts.

        @raise ConfigError: an option that only workers use is wrong
        """
        for name in ("bus", "sessions"):
            if self._settings[name].partition(":")[0].lower() == "memory":
                raise ConfigError(f"--{name}", "memory: is one process's own and cannot be shared by --workers")
        for name, description in self.listeners.descriptions():
            if description.partition(":")[0].lower() == "unix":
                raise ConfigError(optionOf(name), f"{description}: unix: cannot be shared by --workers")
        self.listeners.md21()
        self.listeners.udp(self._settings["workers"] - 1)

    def _gateway(self) -> Gateway:
        settings = self._settings
        return Gateway(
            self._reactor,
            lambda: time.time_ns() // 1_000_000,
            settings["instance"],
            self._incarnation,
            self._bus,
            self._store,
            self._directory,
            PasswordChecker(self._threads.call, settings["secret-queue"], settings["secret-threads"]),
            self._pseudonyms,
            self._peers,
            self._topics,
            Limits(
                maxPacket=settings["max-packet"],
                window=settings["window"],
                windowBytes=settings["window-bytes"],
                globalWindow=settings["global-window"],
                partialPackets=settings["partial-packets"],
                connectTimeout=settings["connect-timeout"],
                packetTimeout=settings["packet-timeout"],
                outputTimeout=settings["output-timeout"],
                batchDeadline=settings["batch-deadline"],
                reconnectGrace=settings["reconnect-grace"],
                downlinkWindow=settings["downlink-window"],
                controlRate=settings["control-rate"],
                recheckPeriod=settings["directory-recheck"],
                sessionRetention=settings["session-retention"],
                md21Window=settings["md21-window"],
            ),
            getPlugins(IEventCodec),
            self.listeners.md21(),
            self._observed,
        )


def _warned(check: Check, warnings: Sequence[str]) -> Check:
    """
    With what a store found at its start that its operator should know.
    """
    return check._replace(detail="; ".join((check.detail, *warnings)))
