"""
What a process of C{twistd}'s owes its caller.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from binaryserver.errors import BinaryServerError, BusUnavailable, ConfigError, StoreUnavailable
from binaryserver.service import GatewayService, OrderedServices
from binaryserver.workers.supervisor import Supervisor

log = Logger()


def tuneCollector() -> None:
    """
    Let the cycle collector look at what lives for long less often: tracks pass through by the ten thousand, hardly ever
    in cycles, and at the default each some hundred of them had it walk over every link.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Stop:
    """
    Ends a process in good order, however many ask for it.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._isAsked = False

    def __call__(self) -> None:
        """
        Ask for it.
        """
        if not self._isAsked:
            self._isAsked = True
            self._reactor.stop()


class _Root(MultiService):
    """
    What C{twistd} is given.
    """

    def __init__(self, log: ILogObserver | None) -> None:
        MultiService.__init__(self)
        self._log = log

    def setServiceParent(self, parent: Any) -> None:
        """
        See L{MultiService.setServiceParent}.
        """
        if self._log is not None and isinstance(parent, Componentized):
            # Where twistd looks for it, before it begins to log.
            parent.setComponent(ILogObserver, self._log)
        MultiService.setServiceParent(self, parent)


def whole(
    reactor: Any,
    program: str,
    build: Callable[[Stop], OrderedServices],
    log: ILogObserver | None = None,
    reload: Callable[[], None] | None = None,
) -> MultiService:
    """
    What C{twistd} is given: the services, and with them what the process owes its caller.

    @param program: its name
    @param build: makes the services, given what ends the process; where a L{ConfigError} stops it the process ends with
        that line
    @param log: where to log; L{None}: as C{twistd} does
    @param reload: called at SIGHUP; L{None}: that ends the process
    """
    stop = Stop(reactor)
    try:
        services = build(stop)
    except ConfigError as error:
        sys.exit(f"{program}: {error}")
    root = _Root(log)
    run = _Run(reactor, services, program, stop, reload)
    services.setServiceParent(root)
    run.setServiceParent(root)
    return root


class _Run(Service):
    """
    What the process owes its caller: signals, one line when the start fails, and the exit status.
    """

    def __init__(
        self,
        reactor: Any,
        services: OrderedServices,
        program: str,
        stop: Stop,
        reload: Callable[[], None] | None,
    ) -> None:
        """
        @param program: its name, for that line
        @param reload: called at SIGHUP
        """
        self._stop = stop
        self._reload = reload
        self._reactor = reactor
        self._services = services
        self._program = program
        self._status = 0

    def startService(self) -> None:
        """
        See L{Service.startService}.
        """
        Service.startService(self)
        tuneCollector()
        self._reactor.callWhenRunning(self._takeSignals)
        self._services.started.addCallbacks(self._started, self._failed)
        # What twistd would exit with is the signal's number, or 0. Registered here to run when all else is done.
        atexit.register(self._exit)

    def _takeSignals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        if self._reload is not None:
            signal.signal(signal.SIGHUP, self._hungUp)

    def _hungUp(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self._reload)

    def _signalled(self, number: int, frame: object) -> None:
        # A second one does not wait for the drain.
        signal.signal(number, signal.SIG_DFL)
        self._reactor.callFromThread(self._stop)

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
        self._reactor.callWhenRunning(self._stop)

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
