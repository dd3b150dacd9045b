"""
The parts of a gateway, made from its settings. Opens nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from twisted.plugin import getPlugins

from binaryserver.bus.topics import Topics
from binaryserver.downlink.consumer import DownlinkConsumer
from binaryserver.downlink.expiry import ChannelExpiry
from binaryserver.endpoints.credentials import CredentialFiles, ReloadingCredentials
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
    IDirectorySource,
    IEventCodec,
    IPeers,
    ISessionStore,
    ISessionStorePlugin,
)
from binaryserver.md21.settings import Md21Settings
from binaryserver.md21.udpservice import UdpService
from binaryserver.model import MailboxLimits
from binaryserver.ops.http import makeSite
from binaryserver.options import OFF
from binaryserver.plugins import BackEndContext, createBackEnd
from binaryserver.service import (
    AdoptedListeningService,
    BackEndService,
    GatewayService,
    ListeningService,
    OrderedServices,
)

_NEEDS_LOOPBACK = "open: lets anybody in, so that every listener must be on a loopback address"
_HTTP_NEEDS_LOOPBACK = "the HTTP side shows everybody everything, so that it must be on a loopback address"


class Assembly:
    """
    Of one process. Each part is made when it is asked for, the back ends at once.
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
        self._store: ISessionStore = self._make(ISessionStorePlugin, "sessions")
        self._directory: IDirectorySource = self._make(IDirectoryPlugin, "directory")
        self._bus = self._clouds()
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
        self._addBackEnds(services, (self._bus, "bus"), (self._store, "sessions"), (self._directory, "directory"))

    def addSharedBackEnds(self, services: OrderedServices) -> None:
        """
        What the parent of workers stands on, which has no links of its own.
        """
        self._addBackEnds(services, (self._mainBus, "bus"), (self._store, "sessions"))

    def _addBackEnds(self, services: OrderedServices, *backEnds: tuple[Any, str]) -> None:
        for backEnd, name in backEnds:
            timeout = self._settings["start-timeout"]
            BackEndService(backEnd, f"--{name}", timeout, self._reactor).setServiceParent(services)

    def addHttp(self, services: OrderedServices) -> None:
        """
        The HTTP side, unless it is off.
        """
        description = self._settings["http"]
        if description == OFF:
            return
        listener = ListeningService("--http", description, self._endpoint("--http", description), _HTTP_NEEDS_LOOPBACK)
        listener.factory = lambda: makeSite(self._mainBus, self._store, self._topics, self._reactor)
        listener.setServiceParent(services)

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
        gateway = self._gateway()
        udp = self._udp(worker)
        if udp is not None:
            # It stops after MD21's links have ended: the drain's acks go by it too.
            gateway.md21.udp = udp.side
            udp.setServiceParent(services)
        lease, grace = settings["lease"], settings["reconnect-grace"]
        life = GatewayService(gateway, self._peers, settings["drain-timeout"], lease, grace, giveUp)
        life.setServiceParent(services)
        limits = MailboxLimits(settings["mailbox-messages"], settings["mailbox-bytes"])
        group = f"{settings['topic-prefix']}gateway"
        expiry = ChannelExpiry(settings["message-expiry"], settings["channel-expiry"])
        consumer = DownlinkConsumer(gateway, self._peers, group, limits, settings["max-message"], expiry)
        consumer.setServiceParent(services)
        for name, listener in listeners:
            listener.factory = partial(_boxProtocol(name).buildFactory, gateway)
            listener.setServiceParent(services)
        return life

    def listeners(self) -> list[tuple[str, ListeningService]]:
        """
        Where boxes may connect, each with the name of its protocol.

        @raise ConfigError: an endpoint string is wrong
        """
        return [
            (name, ListeningService(f"--{name}", one, self._endpoint(f"--{name}", one), self._mustBeLoopback))
            for name, one in self._descriptions()
        ]

    def adopted(self, name: str, description: str, descriptor: int, family: int) -> AdoptedListeningService:
        """
        One of them that the parent has bound.
        """
        return AdoptedListeningService(self._reactor, descriptor, family, self._endpoint(f"--{name}", description))

    def checkWorkers(self) -> None:
        """
        Try what each worker makes for itself: what is wrong with it is told before one starts.

        @raise ConfigError: an option that only workers use is wrong
        """
        for name, description in self._descriptions():
            if description.partition(":")[0].lower() == "unix":
                raise ConfigError(f"--{name}", f"{description}: unix: cannot be shared by --workers")
        self._md21()
        self._udp(self._settings["workers"] - 1)

    def _descriptions(self) -> list[tuple[str, str]]:
        """
        Names of protocols, and endpoint strings.
        """
        given = {"md30": self._settings["md30"], "md21": self._settings["md21"]}
        return [(name, one) for name, descriptions in given.items() for one in descriptions if one != OFF]

    def _endpoint(self, option: str, description: str) -> ServerEndpoint:
        settings = self._settings
        try:
            return serverFromString(
                self._reactor, description, settings["tls-handshake-timeout"], closeTimeout=settings["output-timeout"]
            )
        except EndpointError as error:
            raise ConfigError(option, str(error)) from error

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
                md21Window=settings["md21-window"],
            ),
            getPlugins(IEventCodec),
            self._md21(),
        )

    def _md21(self) -> Md21Settings:
        settings = self._settings
        certificate, key = settings["md21-cert"], settings["md21-key"]
        upgrade = None
        if certificate and key:
            try:
                credentials = ReloadingCredentials(CredentialFiles(certificate, key), self._reactor)
            except EndpointError as error:
                raise ConfigError("--md21-cert", str(error)) from error
            timeout = settings["tls-handshake-timeout"]
            upgrade = TlsUpgrade(credentials, self._reactor, timeout, settings["output-timeout"])
        elif certificate or key:
            given, missing = ("--md21-cert", "--md21-key") if certificate else ("--md21-key", "--md21-cert")
            raise ConfigError(missing, f"is needed with {given}")
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


def _boxProtocol(name: str) -> IBoxProtocol:
    plugins: Iterable[IBoxProtocol] = getPlugins(IBoxProtocol)
    return next(plugin for plugin in plugins if plugin.name == name)
