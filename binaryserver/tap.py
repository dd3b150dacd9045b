"""
C{twistd binaryserver}: from settings to services. The one module that fetches the reactor.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import MultiService

from binaryserver.assembly import Assembly
from binaryserver.errors import ConfigError
from binaryserver.metrics.workers import WorkersCollector, gatherWorkers
from binaryserver.ops.control import Control
from binaryserver.ops.logs import Logs, openTwistdLog, parseLevels
from binaryserver.options import GatewayOptions
from binaryserver.program import Stop, tuneCollector, whole
from binaryserver.reloading import Reloading
from binaryserver.service import OrderedServices, ServingService
from binaryserver.session.registry import NoPeers
from binaryserver.workers.supervisor import Supervisor, WorkerPeers
from binaryserver.workers.worker import WorkerProgram

Options = GatewayOptions
"""What C{twistd} looks for."""


def makeService(options: GatewayOptions) -> MultiService:
    """
    Build the gateway, or the parent of its workers. Opens nothing but the log.
    """
    from twisted.internet import reactor

    build = _parent if options["workers"] > 1 else _single
    try:
        logs = _logs(reactor, options)
        reloading = Reloading(options, options.again)
    except ConfigError as error:
        sys.exit(f"binaryserver: {error}")
    return whole(
        reactor, "binaryserver", lambda stop: build(reactor, options, stop, logs, reloading), logs, reloading.reload
    )


def _logs(reactor: Any, options: GatewayOptions) -> Logs | None:
    """
    The log, where C{twistd}'s own options leave it to us.
    """
    logs = Logs(options["log-format"], parseLevels(options["log-level"]), options["instance"])
    twistd = options.parent or {"nodaemon": True}
    for other in ("logger", "syslog"):
        if twistd.get(other):
            if logs.isSpecial:
                raise ConfigError("--log-format", f"is of no use, and --log-level neither, with twistd's --{other}")
            return None

    def rotated(rotate: Callable[[], None]) -> None:
        # As twistd has it.
        signal.signal(signal.SIGUSR1, lambda number, frame: reactor.callFromThread(rotate))

    openTwistdLog(logs, twistd, rotated)
    return logs


def _single(
    reactor: Any, settings: Mapping[str, Any], stop: Stop, logs: Logs | None, reloading: Reloading
) -> OrderedServices:
    incarnation = f"{settings['instance']}@{os.urandom(6).hex()}"
    assembly = Assembly(reactor, settings, incarnation, NoPeers())
    control = Control(settings["instance"], logs, stop)
    services = OrderedServices()
    assembly.addBackEnds(services)
    assembly.addHttp(services, control)
    assembly.addGateway(services, assembly.listeners.all(), stop)
    reloading.onReload(lambda live: control.setLevels(parseLevels(live["log-level"])))
    reloading.onReload(assembly.reload)
    return services


def _parent(
    reactor: Any, settings: Mapping[str, Any], stop: Stop, logs: Logs | None, reloading: Reloading
) -> OrderedServices:
    peers = WorkerPeers()
    assembly = Assembly(reactor, settings, settings["instance"], peers)
    supervisor = peers.supervisor = Supervisor(reactor, dict(settings), assembly.listeners.all())
    control = Control(settings["instance"], logs, stop, supervisor)
    services = OrderedServices()
    assembly.metrics.register(WorkersCollector(supervisor))
    assembly.addSharedBackEnds(services)
    assembly.addPeers(services)
    assembly.addMetrics(services)
    assembly.addHttp(services, control, lambda: gatherWorkers(supervisor, assembly.metrics))
    assembly.checkWorkers()
    supervisor.setServiceParent(services)
    assembly.health.join(supervisor.checks)
    # Its workers wait for --drain-delay, each for itself.
    ServingService(assembly.health, 0, reactor).setServiceParent(services)
    reloading.onReload(lambda live: control.setLevels(parseLevels(live["log-level"])))
    reloading.onReload(assembly.reload)
    reloading.onReload(supervisor.reload)
    return services


def runWorker() -> None:
    """
    The program of a worker: its parent tells it over descriptor 3 what to be, and it ends when that closes.
    """
    from twisted.internet import reactor, stdio
    from twisted.logger import globalLogBeginner

    # The terminal's signals reach the whole group; when to stop, and to read again, is the parent's to say.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    def beginLogging(logs: Logs) -> None:
        logs.open(sys.stdout)
        globalLogBeginner.beginLoggingTo([logs])

    tuneCollector()
    worker = WorkerProgram(reactor, beginLogging)
    standardIO: Any = stdio.StandardIO
    standardIO(worker.channel, 3, 4, reactor)
    loop: Any = reactor
    loop.run(installSignalHandlers=False)
    sys.stdout.flush()
    os._exit(worker.status)
