"""
C{binaryserver-box}: simulated boxes that bring tracks to a gateway, answer its messages, and say what came of it.
"""

from __future__ import annotations

import base64
import json
import os
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
from binaryserver.tools.box_inbox import Heard
from binaryserver.tools.box_options import PROGRAM, fleetFrom, parser
from binaryserver.tools.box_sums import Sums
from binaryserver.tools.terminal import printable

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
        _allowFiles(options.boxes, 2 if options.udp else 1)
        fleet = fleetFrom(reactor, options, lambda asset, heard: None if options.quiet else messageHeard(asset, heard))
    except ConfigError as error:
        text = str(error)
        print(text if text.startswith(PROGRAM) else f"{PROGRAM}: {text}", file=err)
        raise SystemExit(1) from error

    def progress() -> None:
        print(f"{fleet.sums.acked} of {fleet.sums.tracks} tracks acked", file=err, flush=True)

    def messageHeard(asset: str, heard: Heard) -> None:
        if not say(json.dumps(messageToJson(asset, heard)) if options.json else messageToText(asset, heard)):
            fleet.stop()

    def say(text: str) -> bool:
        try:
            print(text, file=out, flush=True)
        except BrokenPipeError:
            # Nobody reads us any more; Python would complain when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
            return False
        return True

    def sumUp(sums: Sums) -> None:
        say(json.dumps(sums.toJson()) if options.json else sums.toText())
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
    if not options.json and options.tracks:
        progressing.start(PROGRESS_INTERVAL, now=False)
    timeout = None if options.timeout is None else reactor.callLater(options.timeout, fleet.stop)
    reactor.addSystemEventTrigger("before", "shutdown", fleet.leave)
    return fleet.start().addBoth(cleanUp).addCallbacks(sumUp, failed)


def messageToJson(asset: str, heard: Heard) -> dict[str, object]:
    """
    A message that a box got, as C{--json} prints it.
    """
    message = heard.message
    return {
        "received_at": heard.at,
        "asset": asset,
        "id": message.id,
        "channel": message.channel,
        "payload": base64.b64encode(message.payload).decode(),
        "want_ack": message.want_ack,
        "expires_at": message.expires_at,
    }


def messageToText(asset: str, heard: Heard) -> str:
    """
    The same in a line for a person: the payload as text if it is some, else in base64.
    """
    message = heard.message
    try:
        payload = message.payload.decode()
    except UnicodeDecodeError:
        payload = ""
    if not payload.isprintable() or (message.payload and not payload):
        payload = f"base64:{base64.b64encode(message.payload).decode()}"
    return printable(f"{asset} message {message.id} {message.channel}: {payload}")


def _allowFiles(boxes: int, sockets: int) -> None:
    """
    See that the process may have the sockets of each box.

    @raise ConfigError: it may not
    """
    needed = boxes * sockets + _FILES_BESIDES
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
