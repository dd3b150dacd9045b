"""
C{twistd binaryserver}: from settings to services. The one module that fetches the reactor.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger
from twisted.plugin import getPlugins
from twisted.python.failure import Failure

from binaryserver.bus.topics import Topics
from binaryserver.downlink.consumer import DownlinkConsumer
from binaryserver.downlink.expiry import ChannelExpiry
from binaryserver.endpoints.credentials import CredentialFiles, ReloadingCredentials
from binaryserver.endpoints.errors import EndpointError
from binaryserver.endpoints.listening import ServerEndpoint, serverFromString
from binaryserver.endpoints.upgrade import TlsUpgrade
from binaryserver.errors import BinaryServerError, BusUnavailable, ConfigError, StoreUnavailable
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
from binaryserver.options import OFF, GatewayOptions
from binaryserver.plugins import BackEndContext, createBackEnd
from binaryserver.service import (
    AdoptedListeningService,
    BackEndService,
    GatewayService,
    ListeningService,
    OrderedServices,
)
from binaryserver.session.registry import NoPeers
from binaryserver.workers.channel import Channel
from binaryserver.workers.peers import ParentPeers
from binaryserver.workers.supervisor import Supervisor

Options = GatewayOptions
"""What C{twistd} looks for."""

_NEEDS_LOOPBACK = "open: lets anybody in, so that every listener must be on a loopback address"
_HTTP_NEEDS_LOOPBACK = "the HTTP side shows everybody everything, so that it must be on a loopback address"

log = Logger()


def makeService(options: GatewayOptions) -> MultiService:
    """
    Build the gateway, or the parent of its workers. Opens nothing.
    """
    from twisted.internet import reactor

    try:
        services = _parent(reactor, options) if options["workers"] > 1 else _single(reactor, options)
    except ConfigError as error:
        sys.exit(f"binaryserver: {error}")
    run = Run(reactor, services, "binaryserver")
    root = MultiService()
    services.setServiceParent(root)
    run.setServiceParent(root)
    return root


def _tuneCollector() -> None:
    """
    Let the cycle collector look at what lives for long less often: tracks pass through by the ten thousand, hardly ever
    in cycles, and at the default each some hundred of them had it walk over every link.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Run(Service):
    """
    What the process owes its caller: signals, one line when the start fails, and the exit status.
    """

    def __init__(self, reactor: Any, services: OrderedServices, program: str) -> None:
        """
        @param program: its name, for that line
        """
        self._reactor = reactor
        self._services = services
        self._program = program
        self._status = 0

    def startService(self) -> None:
        """
        See L{Service.startService}.
        """
        Service.startService(self)
        _tuneCollector()
        self._reactor.callWhenRunning(self._takeSignals)
        self._services.started.addCallbacks(self._started, self._failed)
        # What twistd would exit with is the signal's number, or 0. Registered here to run when all else is done.
        atexit.register(self._exit)

    def _takeSignals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: object) -> None:
        # A second one does not wait for the drain.
        signal.signal(number, signal.SIG_DFL)
        self._reactor.callFromThread(self._reactor.stop)

    def _started(self, _: None) -> None:
        log.info("{program} is ready", program=self._program)

    def _failed(self, failure: Failure) -> None:
        if failure.check(BinaryServerError):
            print(f"{self._program}: {_named(failure)}", file=sys.__stderr__, flush=True)
        else:
            log.failure("the start failed in an unforeseen way", failure)
            text = f"{failure.type}: {failure.getErrorMessage()}"
            print(f"{self._program}: {text}", file=sys.__stderr__, flush=True)
        self._status = 1
        self._reactor.callWhenRunning(self._reactor.stop)

    def _exit(self) -> None:
        drains = [one for one in self._services if isinstance(one, GatewayService | Supervisor)]
        if self._status or not self._services.stoppedWhole or not all(one.drainedWhole for one in drains):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)


def _named(failure: Failure) -> str:
    """
    What made a start impossible, with the option that it is about.
    """
    text = failure.getErrorMessage()
    options = {BusUnavailable: "--bus", StoreUnavailable: "--sessions"}
    option = next((option for kind, option in options.items() if failure.check(kind)), "")
    return text if text.startswith("--") or not option else f"{option}: {text}"


def _context(reactor: Any, settings: Mapping[str, Any], option: str) -> BackEndContext:
    return BackEndContext(
        reactor=reactor,
        option=option,
        flushInterval=settings["flush-interval"],
        batchDeadline=settings["batch-deadline"],
        startTimeout=settings["start-timeout"],
        stopTimeout=settings["drain-timeout"],
        topics=Topics.named(settings["topic-prefix"]).all,
    )


def _endpoint(reactor: Any, settings: Mapping[str, Any], option: str, description: str) -> ServerEndpoint:
    try:
        return serverFromString(
            reactor, description, settings["tls-handshake-timeout"], closeTimeout=settings["output-timeout"]
        )
    except EndpointError as error:
        raise ConfigError(option, str(error)) from error


def _boxListeners(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    Where boxes may connect: names of protocols and endpoint strings.
    """
    given = {"md30": settings["md30"], "md21": settings["md21"]}
    return [(name, one) for name, descriptions in given.items() for one in descriptions if one != OFF]


def _md21(reactor: Any, settings: Mapping[str, Any]) -> Md21Settings:
    certificate, key = settings["md21-cert"], settings["md21-key"]
    upgrade = None
    if certificate and key:
        try:
            credentials = ReloadingCredentials(CredentialFiles(certificate, key), reactor)
        except EndpointError as error:
            raise ConfigError("--md21-cert", str(error)) from error
        upgrade = TlsUpgrade(credentials, reactor, settings["tls-handshake-timeout"], settings["output-timeout"])
    elif certificate or key:
        given, missing = ("--md21-cert", "--md21-key") if certificate else ("--md21-key", "--md21-cert")
        raise ConfigError(missing, f"is needed with {given}")
    if settings["md21-require-tls"] and upgrade is None:
        for name, description in _boxListeners(settings):
            if name == "md21" and description.partition(":")[0].lower() not in ("tls", "ssl"):
                raise ConfigError("--md21-require-tls", f"no box could have TLS on {description} without --md21-cert")
    return Md21Settings(
        upgrade,
        settings["md21-require-tls"],
        activityTimeout=settings["md21-activity-timeout"],
        ackTimeout=settings["md21-ack-timeout"],
    )


def _udp(reactor: Any, settings: Mapping[str, Any], built: _Built, worker: int = 0) -> UdpService | None:
    """
    The UDP side of MD21.

    @param worker: the number of this worker
    """
    spec, advertise = settings["md21-udp"], settings["md21-udp-advertise"]
    if spec == OFF:
        if advertise:
            raise ConfigError("--md21-udp-advertise", "is of no use without --md21-udp")
        return None
    if not any(name == "md21" for name, _ in _boxListeners(settings)):
        raise ConfigError("--md21-udp", "is of no use without --md21, where boxes are told of it")
    return UdpService(reactor, spec, advertise, worker, _NEEDS_LOOPBACK if built.directory.requiresLoopback else "")


def _useUdp(gateway: Gateway, udp: UdpService | None, services: OrderedServices) -> None:
    """
    Let MD21's links use it. It stops after they have ended: the drain's acks go by it too.
    """
    if udp is not None:
        gateway.md21.udp = udp.side
        udp.setServiceParent(services)


def _single(reactor: Any, settings: Mapping[str, Any]) -> OrderedServices:
    built = _Built(reactor, settings, f"{settings['instance']}@{os.urandom(6).hex()}", NoPeers())
    services = OrderedServices()
    built.backEnds(services)
    gateway = built.gateway()
    _http(reactor, settings, built, services)
    _useUdp(gateway, _udp(reactor, settings, built), services)
    built.life(gateway, reactor.stop).setServiceParent(services)
    built.consumer(gateway).setServiceParent(services)
    for name, listener in _listeningServices(reactor, settings, built):
        listener.factory = _factoryOf(name, gateway)
        listener.setServiceParent(services)
    return services


class _Built:
    """
    The back ends of one process, made from its settings.
    """

    def __init__(self, reactor: Any, settings: Mapping[str, Any], incarnation: str, peers: IPeers) -> None:
        self._reactor = reactor
        self._settings = settings
        self._incarnation = incarnation
        self.mainBus: IBus = self._make(IBusPlugin, "bus")
        self.store: ISessionStore = self._make(ISessionStorePlugin, "sessions")
        self.directory: IDirectorySource = self._make(IDirectoryPlugin, "directory")
        self.bus = self._clouds()
        self._peers: IPeers = self.store.peers(incarnation) or peers
        self._expiry = ChannelExpiry(settings["message-expiry"], settings["channel-expiry"])

    def _make(self, interface: Any, name: str) -> Any:
        return createBackEnd(interface, self._settings[name], _context(self._reactor, self._settings, f"--{name}"))

    def _clouds(self) -> IBus:
        """
        The bus of a gateway: with CloudConnect beside it, where that is configured.
        """
        settings = self._settings
        if settings["cloudconnect"] == OFF:
            return self.mainBus
        from binaryserver.bus.clouds import CloudsBus
        from binaryserver.bus.rqueue import RQueue

        context = _context(self._reactor, settings, "--cloudconnect")
        queue = RQueue(settings["cloudconnect"], context, Topics.named(settings["topic-prefix"]))
        return CloudsBus(self.mainBus, queue, self.directory.clouds)

    def backEnds(self, services: OrderedServices) -> None:
        """
        Let the services begin with the back ends.
        """
        timeout = self._settings["start-timeout"]
        for backEnd, name in ((self.bus, "bus"), (self.store, "sessions"), (self.directory, "directory")):
            BackEndService(backEnd, f"--{name}", timeout, self._reactor).setServiceParent(services)

    def life(self, gateway: Gateway, giveUp: Callable[[], None]) -> GatewayService:
        """
        The gateway's own life.

        @param giveUp: stops the process
        """
        settings = self._settings
        lease, grace = settings["lease"], settings["reconnect-grace"]
        return GatewayService(gateway, self._peers, settings["drain-timeout"], lease, grace, giveUp)

    def consumer(self, gateway: Gateway) -> DownlinkConsumer:
        """
        Its member of the consumer group.
        """
        settings = self._settings
        limits = MailboxLimits(settings["mailbox-messages"], settings["mailbox-bytes"])
        group = f"{settings['topic-prefix']}gateway"
        return DownlinkConsumer(gateway, self._peers, group, limits, settings["max-message"], self._expiry)

    def gateway(self) -> Gateway:
        """
        The gateway on them.
        """
        settings = self._settings
        return Gateway(
            self._reactor,
            lambda: time.time_ns() // 1_000_000,
            settings["instance"],
            self._incarnation,
            self.bus,
            self.store,
            self.directory,
            self._peers,
            Topics.named(settings["topic-prefix"]),
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
            _md21(self._reactor, settings),
        )


def _listeningServices(reactor: Any, settings: Mapping[str, Any], built: _Built) -> list[tuple[str, ListeningService]]:
    """
    What boxes connect to, each with its protocol's name.
    """
    mustBeLoopback = _NEEDS_LOOPBACK if built.directory.requiresLoopback else ""
    services = []
    for name, description in _boxListeners(settings):
        option = f"--{name}"
        endpoint = _endpoint(reactor, settings, option, description)
        services.append((name, ListeningService(option, description, endpoint, mustBeLoopback)))
    return services


def _factoryOf(name: str, gateway: Gateway) -> Callable[[], IProtocolFactory]:
    """
    What makes the factory of a protocol's links once the gateway runs.
    """
    return lambda: _boxProtocol(name).buildFactory(gateway)


def _boxProtocol(name: str) -> IBoxProtocol:
    plugins: Iterable[IBoxProtocol] = getPlugins(IBoxProtocol)
    return next(plugin for plugin in plugins if plugin.name == name)


def _http(reactor: Any, settings: Mapping[str, Any], built: _Built, services: OrderedServices) -> None:
    if settings["http"] == OFF:
        return
    listener = ListeningService(
        "--http", settings["http"], _endpoint(reactor, settings, "--http", settings["http"]), _HTTP_NEEDS_LOOPBACK
    )
    listener.factory = lambda: makeSite(built.mainBus, built.store, Topics.named(settings["topic-prefix"]), reactor)
    listener.setServiceParent(services)


def _parent(reactor: Any, settings: Mapping[str, Any]) -> OrderedServices:
    for name in ("bus", "sessions"):
        if settings[name].partition(":")[0].lower() == "memory":
            raise ConfigError(f"--{name}", "memory: is one process's own and cannot be shared by --workers")
    built = _Built(reactor, settings, settings["instance"], NoPeers())
    services = OrderedServices()
    BackEndService(built.mainBus, "--bus", settings["start-timeout"], reactor).setServiceParent(services)
    BackEndService(built.store, "--sessions", settings["start-timeout"], reactor).setServiceParent(services)
    _http(reactor, settings, built, services)
    for name, description in _boxListeners(settings):
        if description.partition(":")[0].lower() == "unix":
            raise ConfigError(f"--{name}", f"{description}: unix: cannot be shared by --workers")
    # Each worker makes its own; what is wrong with it is told before one starts.
    _md21(reactor, settings)
    _udp(reactor, settings, built, settings["workers"] - 1)
    listeners = _listeningServices(reactor, settings, built)
    Supervisor(reactor, dict(settings), listeners).setServiceParent(services)
    return services


def runWorker() -> None:
    """
    The program of a worker: its parent tells it over descriptor 3 what to be, and it ends when that closes.
    """
    from twisted.internet import reactor, stdio
    from twisted.logger import globalLogBeginner, textFileLogObserver

    # The terminal's signals reach the whole group; when to stop is the parent's to say.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    _tuneCollector()
    worker = _Worker(reactor)
    standardIO: Any = stdio.StandardIO
    standardIO(worker.channel, 3, 4, reactor)
    loop: Any = reactor
    loop.run(installSignalHandlers=False)
    sys.stdout.flush()
    os._exit(worker.status)


class _Worker:
    """
    One worker, from the parent's first word to its own end.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._services: OrderedServices | None = None
        self._isEnding = False
        self.status = 0
        self.channel = Channel(self._received, self._end)
        self._peers = ParentPeers(self.channel.send)

    def _received(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "start":
            try:
                self._start(message)
            except ConfigError as error:
                self._failed(Failure(error))
        elif kind == "stop":
            self._end()
        else:
            self._peers.received(message)

    def _start(self, message: dict[str, Any]) -> None:
        settings = message["settings"]
        built = _Built(self._reactor, settings, message["incarnation"], self._peers)
        self._services = services = OrderedServices()
        built.backEnds(services)
        gateway = built.gateway()
        _useUdp(gateway, _udp(self._reactor, settings, built, message["worker"]), services)
        self._life = built.life(gateway, self._end)
        self._life.setServiceParent(services)
        built.consumer(gateway).setServiceParent(services)
        for one in message["listening"]:
            name = one["protocol"]
            endpoint = _endpoint(self._reactor, settings, f"--{name}", one["endpoint"])
            listener = AdoptedListeningService(self._reactor, one["descriptor"], one["family"], endpoint)
            listener.factory = _factoryOf(name, gateway)
            listener.setServiceParent(services)
        services.startService()
        services.started.addCallbacks(lambda _: self.channel.send("started"), self._failed)

    def _failed(self, failure: Failure) -> None:
        self.status = 1
        option = failure.value.option if isinstance(failure.value, ConfigError) else "--workers"
        text = failure.getErrorMessage()
        self.channel.send("failed", option=option, message=text.removeprefix(f"{option}: "))
        self._end()

    def _end(self) -> None:
        if self._isEnding:
            return
        self._isEnding = True
        services = self._services
        stopped: Deferred[Any] = maybeDeferred(services.stopService if services else lambda: None)
        stopped.addErrback(lambda failure: log.failure("a worker's stop failed", failure))
        stopped.addCallback(self._ended)

    def _ended(self, _: object) -> None:
        if self._services is not None and not (self._life.drainedWhole and self._services.stoppedWhole):
            self.status = 1
        self.channel.send("drained", status=self.status)
        # The word is written before the reactor stops.
        self._reactor.callLater(0.05, self._reactor.stop)
