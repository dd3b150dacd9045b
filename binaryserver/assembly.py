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
from binaryserver.endpoints.credentials import CredentialFiles, ReloadingCredentials
from binaryserver.endpoints.door import Door, DoorCounts, DoorLimits
from binaryserver.endpoints.errors import EndpointError
from binaryserver.endpoints.listening import ServerEndpoint, serverFromString
from binaryserver.endpoints.upgrade import TlsUpgrade
from binaryserver.errors import ConfigError
from binaryserver.gateway import Gateway, Limits
from binaryserver.interfaces import (
    IBoxProtocol,
    IBus,
    IBusPlugin,
    IDirectoryPlugin,
    IEventCodec,
    IPeers,
    ISessionStore,
    ISessionStorePlugin,
)
from binaryserver.md21.settings import Md21Settings
from binaryserver.md21.udpservice import UdpService
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
        self._credentials: list[ReloadingCredentials] = []
        self._threads = SecretThreads(reactor, settings["secret-threads"])
        self._bus = ObservedBus(self._clouds(), reactor)
        self.health = Health()
        self._peers: IPeers = self._store.peers(incarnation) or peers
        self._mustBeLoopback = _NEEDS_LOOPBACK if self._directory.requiresLoopback else ""

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
        endpoint = self._endpoint("--http", description)
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
        udp = self._udp(worker)
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
            self._credentials.append(credentials)
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
            listener.factory = partial(_boxProtocols()[name].buildFactory, gateway)
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
        for credentials in self._credentials:
            credentials.lookNow()

    def listeners(self) -> list[tuple[str, ListeningService]]:
        """
        Where boxes may connect, each with the name of its protocol.

        @raise ConfigError: an endpoint string is wrong
        """
        return [
            (name, ListeningService(_option(name), one, self._boxEndpoint(_option(name), one), self._mustBeLoopback))
            for name, one in self._descriptions()
        ]

    def adopted(self, name: str, description: str, descriptor: int, family: int) -> AdoptedListeningService:
        """
        One of them that the parent has bound.
        """
        return AdoptedListeningService(self._reactor, descriptor, family, self._boxEndpoint(_option(name), description))

    def checkWorkers(self) -> None:
        """
        Try what each worker makes for itself: what is wrong with it is told before one starts.

        @raise ConfigError: an option that only workers use is wrong
        """
        for name in ("bus", "sessions"):
            if self._settings[name].partition(":")[0].lower() == "memory":
                raise ConfigError(f"--{name}", "memory: is one process's own and cannot be shared by --workers")
        for name, description in self._descriptions():
            if description.partition(":")[0].lower() == "unix":
                raise ConfigError(_option(name), f"{description}: unix: cannot be shared by --workers")
        self._md21()
        self._udp(self._settings["workers"] - 1)

    def _descriptions(self) -> list[tuple[str, str]]:
        """
        Names of protocols, and endpoint strings.

        @raise ConfigError: a plugin's protocol is not there
        """
        given = {"md30": self._settings["md30"], "md21": self._settings["md21"]}
        found = [(name, one) for name, descriptions in given.items() for one in descriptions if one != OFF]
        for text in self._settings["listen"]:
            name, separator, description = text.partition("=")
            known = sorted(set(_boxProtocols()) - set(given))
            if not separator or name not in known:
                names = ", ".join(known) or "no plugin brings one"
                raise ConfigError("--listen", f"{text}: the form is PROTOCOL=ENDPOINT; known protocols: {names}")
            found.append((name, description))
        return found

    def _boxEndpoint(self, option: str, description: str) -> ServerEndpoint:
        return self._endpoint(option, description, self._door)

    def _endpoint(self, option: str, description: str, door: Door | None = None) -> ServerEndpoint:
        settings = self._settings
        handshakeTimeout, closeTimeout = settings["tls-handshake-timeout"], settings["output-timeout"]
        try:
            endpoint = serverFromString(self._reactor, description, handshakeTimeout, closeTimeout, door)
        except EndpointError as error:
            raise ConfigError(option, str(error)) from error
        if endpoint.credentials is not None:
            self._credentials.append(endpoint.credentials)
        return endpoint

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
            self._md21(),
            self._observed,
        )

    def _md21(self) -> Md21Settings:
        settings = self._settings
        certificate, key = settings["md21-cert"], settings["md21-key"]
        upgrade = None
        if certificate and key:
            try:
                trusted = settings["md21-clientca"] or None, settings["md21-crl"] or None
                files = CredentialFiles(certificate, key, *trusted)
                credentials = ReloadingCredentials(files, self._reactor)
            except EndpointError as error:
                raise ConfigError("--md21-cert", str(error)) from error
            timeout = settings["tls-handshake-timeout"]
            upgrade = TlsUpgrade(credentials, self._reactor, timeout, settings["output-timeout"])
        elif certificate or key:
            given, missing = ("--md21-cert", "--md21-key") if certificate else ("--md21-key", "--md21-cert")
            raise ConfigError(missing, f"is needed with {given}")
        else:
            for option, path in (("--md21-clientca", settings["md21-clientca"]), ("--md21-crl", settings["md21-crl"])):
                if path:
                    raise ConfigError(option, "is of no use without --md21-cert")
        if settings["md21-require-tls"] and upgrade is None:
            for name, description in self._descriptions():
                if name == "md21" and description.partition(":")[0].lower() not in ("tls", "ssl"):
                    raise ConfigError(
                        "--md21-require-tls", f"no box could have TLS on {description} without --md21-cert"
                    )
        return Md21Settings(
            upgrade,
            settings["md21-require-tls"],
            activityTimeout=settings["md21-activity-timeout"],
            ackTimeout=settings["md21-ack-timeout"],
        )

    def _udp(self, worker: int) -> UdpService | None:
        """
        The UDP side of MD21.
        """
        spec, advertise = self._settings["md21-udp"], self._settings["md21-udp-advertise"]
        if spec == OFF:
            if advertise:
                raise ConfigError("--md21-udp-advertise", "is of no use without --md21-udp")
            return None
        if not any(name == "md21" for name, _ in self._descriptions()):
            raise ConfigError("--md21-udp", "is of no use without --md21, where boxes are told of it")
        return UdpService(self._reactor, spec, advertise, worker, self._mustBeLoopback)


def _warned(check: Check, warnings: Sequence[str]) -> Check:
    """
    With what a store found at its start that its operator should know.
    """
    return check._replace(detail="; ".join((check.detail, *warnings)))


def _boxProtocols() -> dict[str, IBoxProtocol]:
    plugins: Iterable[IBoxProtocol] = getPlugins(IBoxProtocol)
    return {plugin.name: plugin for plugin in plugins}


def _option(protocol: str) -> str:
    """
    Which option makes a protocol listen.
    """
    return f"--{protocol}" if protocol in ("md30", "md21") else "--listen"
