"""
What a worker's process does, as its parent tells it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.assembly import Assembly
from binaryserver.errors import ConfigError
from binaryserver.metrics.families import toJson
from binaryserver.ops.logs import Logs, parseLevels
from binaryserver.service import OrderedServices
from binaryserver.workers.channel import Channel
from binaryserver.workers.peers import ParentPeers

log = Logger()

_TELL_PERIOD = 1.0
"""s between two words of this worker's health"""


class WorkerProgram:
    """
    One worker, from the parent's first word to its own end.
    """

    def __init__(self, reactor: Any, beginLogging: Callable[[Logs], None]) -> None:
        """
        @param beginLogging: called once it is known how to log
        """
        self._reactor = reactor
        self._beginLogging = beginLogging
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
        elif kind == "logs":
            self._logs.setLevels(message["levels"])
        elif kind == "reload":
            self._assembly.reload(message["settings"])
        elif kind == "metrics":
            families = toJson(self._metrics.collect())
            self.channel.send("metrics", id=message["id"], families=families)
        else:
            self._peers.received(message)

    def _start(self, message: dict[str, Any]) -> None:
        settings = message["settings"]
        self._logs = Logs(settings["log-format"], parseLevels(settings["log-level"]), settings["instance"])
        self._beginLogging(self._logs)
        self._assembly = assembly = Assembly(self._reactor, settings, message["incarnation"], self._peers)
        self._services = services = OrderedServices()
        self._metrics = assembly.metrics
        assembly.addBackEnds(services)
        listeners = [
            (
                one["protocol"],
                assembly.listeners.adopted(one["protocol"], one["endpoint"], one["descriptor"], one["family"]),
            )
            for one in message["listening"]
        ]
        self._life = assembly.addGateway(services, listeners, self._end, message["worker"])
        services.startService()
        self._health = assembly.health
        self._tellHealth()
        services.started.addCallbacks(self._started, self._failed)

    def _started(self, _: None) -> None:
        self._sendHealth()
        self.channel.send("started")

    def _tellHealth(self) -> None:
        self._sendHealth()
        self._reactor.callLater(_TELL_PERIOD, self._tellHealth)

    def _sendHealth(self) -> None:
        self.channel.send("health", checks=self._health.checks())

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
