"""
C{twistd binaryserver}: from settings to services. The one module that fetches the reactor.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from twisted.application.service import MultiService

from binaryserver.assembly import Assembly
from binaryserver.errors import ConfigError
from binaryserver.options import GatewayOptions
from binaryserver.program import tuneCollector, whole
from binaryserver.service import OrderedServices
from binaryserver.session.registry import NoPeers
from binaryserver.workers.supervisor import Supervisor, WorkerPeers
from binaryserver.workers.worker import WorkerProgram

Options = GatewayOptions
"""What C{twistd} looks for."""


def makeService(options: GatewayOptions) -> MultiService:
    """
    Build the gateway, or the parent of its workers. Opens nothing.
    """
    from twisted.internet import reactor

    build = _parent if options["workers"] > 1 else _single
    return whole(reactor, "binaryserver", lambda: build(reactor, options))


def _single(reactor: Any, settings: Mapping[str, Any]) -> OrderedServices:
    incarnation = f"{settings['instance']}@{os.urandom(6).hex()}"
    assembly = Assembly(reactor, settings, incarnation, NoPeers())
    services = OrderedServices()
    assembly.addBackEnds(services)
    assembly.addHttp(services)
    assembly.addGateway(services, assembly.listeners(), reactor.stop)
    return services


def _parent(reactor: Any, settings: Mapping[str, Any]) -> OrderedServices:
    for name in ("bus", "sessions"):
        if settings[name].partition(":")[0].lower() == "memory":
            raise ConfigError(f"--{name}", "memory: is one process's own and cannot be shared by --workers")
    peers = WorkerPeers()
    assembly = Assembly(reactor, settings, settings["instance"], peers)
    services = OrderedServices()
    assembly.addSharedBackEnds(services)
    assembly.addPeers(services)
    assembly.addHttp(services)
    assembly.checkWorkers()
    peers.supervisor = Supervisor(reactor, dict(settings), assembly.listeners())
    peers.supervisor.setServiceParent(services)
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
    tuneCollector()
    worker = WorkerProgram(reactor)
    standardIO: Any = stdio.StandardIO
    standardIO(worker.channel, 3, 4, reactor)
    loop: Any = reactor
    loop.run(installSignalHandlers=False)
    sys.stdout.flush()
    os._exit(worker.status)
