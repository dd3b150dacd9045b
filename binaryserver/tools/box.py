"""
C{binaryserver-box}: simulated boxes that bring tracks to a gateway, and say what became of them.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn, TextIO

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, react
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    globalLogBeginner,
)
from twisted.python.failure import Failure

from binaryserver.errors import ConfigError
from binaryserver.tools.box_options import PROGRAM, fleetFrom, parser
from binaryserver.tools.box_sums import Sums

PROGRESS_INTERVAL: Final = 5.0
"""s"""
_FILES_BESIDES: Final = 64
"""Open files that a process needs besides the boxes' sockets."""


def run(reactor: Any, arguments: Sequence[str], out: TextIO, err: TextIO) -> Deferred[None]:
    """
    Run boxes, then sum up on C{out}; what a person should hear of meanwhile goes to C{err}.

    @return: fails with C{SystemExit}, whose code is the exit status, unless that is 0
    @raise SystemExit: a bad command line, or a request for help
    """
    try:
        options = parser().parse_args(arguments)
        _allowFiles(options.boxes)
        fleet = fleetFrom(reactor, options)
    except ConfigError as error:
        text = str(error)
        print(text if text.startswith(PROGRAM) else f"{PROGRAM}: {text}", file=err)
        raise SystemExit(1) from error

    def progress() -> None:
        print(f"{fleet.sums.acked} of {fleet.sums.tracks} tracks acked", file=err, flush=True)

    def sumUp(sums: Sums) -> None:
        print(json.dumps(sums.toJson()) if options.json else sums.toText(), file=out, flush=True)
        if not sums.complete:
            raise SystemExit(1)

    def failed(failure: Failure) -> None:
        failure.trap(ConfigError)
        print(f"{PROGRAM}: {failure.getErrorMessage()}", file=err)
        raise SystemExit(1)

    def cleanUp(result: Any) -> Any:
        if progressing.running:
            progressing.stop()
        if timeout is not None and timeout.active():
            timeout.cancel()
        return result

    progressing = LoopingCall(progress)
    progressing.clock = reactor
    if not options.json:
        progressing.start(PROGRESS_INTERVAL, now=False)
    timeout = None if options.timeout is None else reactor.callLater(options.timeout, fleet.stop)
    reactor.addSystemEventTrigger("before", "shutdown", fleet.stop)
    return fleet.start().addBoth(cleanUp).addCallbacks(sumUp, failed)


def _allowFiles(boxes: int) -> None:
    """
    See that the process may have a socket for each box.

    @raise ConfigError: it may not
    """
    needed = boxes + _FILES_BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ConfigError("--boxes", f"{boxes} need {needed} open files, and {hard} are allowed (ulimit -n)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _logTo(err: TextIO) -> None:
    def text(event: LogEvent) -> str:
        return f"{PROGRAM}: {eventAsText(event, includeTimestamp=False, includeSystem=False)}\n"

    warnings = LogLevelFilterPredicate(LogLevel.warn)
    observer = FilteringLogObserver(FileLogObserver(err, text), [warnings])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


def main() -> NoReturn:
    """
    The program: see C{binaryserver-box --help}.
    """
    _logTo(sys.stderr)
    react(run, (sys.argv[1:], sys.stdout, sys.stderr))
