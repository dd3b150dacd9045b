"""
C{twistd binaryserver-shovel}: from settings to services. Fetches the reactor, as L{binaryserver.tap} does.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.application.service import MultiService

from binaryserver.bus.topics import Topics
from binaryserver.endpoints.errors import EndpointError
from binaryserver.endpoints.listening import serverFromString
from binaryserver.errors import ConfigError
from binaryserver.interfaces import IBus, IBusPlugin
from binaryserver.options import OFF
from binaryserver.plugins import BackEndContext, createBackEnd
from binaryserver.program import whole
from binaryserver.service import BackEndService, ListeningService, OrderedServices
from binaryserver.shovel.http import makeSite
from binaryserver.shovel.options import ShovelOptions
from binaryserver.shovel.service import Pace, ShovelService

Options = ShovelOptions
"""What C{twistd} looks for."""


def makeService(options: ShovelOptions) -> MultiService:
    """
    Build the Shovel. Opens nothing.
    """
    from twisted.internet import reactor

    return whole(reactor, "binaryserver-shovel", lambda _: build(reactor, options))


def build(reactor: Any, settings: Any) -> OrderedServices:
    """
    The services, in the order of their start.

    @param settings: by the names of the options
    @raise ConfigError: one cannot be used
    """
    topics = Topics.named(settings["topic-prefix"])
    context = BackEndContext(
        reactor=reactor,
        option="--bus",
        flushInterval=settings["flush-interval"],
        batchDeadline=settings["batch-deadline"],
        startTimeout=settings["start-timeout"],
        stopTimeout=settings["drain-timeout"],
        topics=(topics.tracks, topics.messages, topics.presences, topics.rejects),
    )
    bus: IBus = createBackEnd(IBusPlugin, settings["bus"], context)
    shovel = ShovelService(
        reactor,
        lambda: time.time_ns() // 1_000_000,
        settings["rqueue"],
        "--rqueue",
        bus,
        topics,
        settings["instance"],
        Pace(
            batch=settings["batch"],
            poll=settings["poll-interval"],
            lease=settings["lease"],
            startTimeout=settings["start-timeout"],
            drainTimeout=settings["drain-timeout"],
        ),
    )
    services = OrderedServices()
    BackEndService(bus, "--bus", settings["start-timeout"], reactor).setServiceParent(services)
    if settings["http"] != OFF:
        try:
            endpoint = serverFromString(reactor, settings["http"], 10.0, closeTimeout=30.0)
        except EndpointError as error:
            raise ConfigError("--http", str(error)) from error
        listener = ListeningService("--http", settings["http"], endpoint, "")
        listener.factory = lambda: makeSite(shovel.counts, reactor)
        listener.setServiceParent(services)
    shovel.setServiceParent(services)
    return services
