"""
What is logged, and how: the levels, which may change while the process runs, and the form of the lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import IO, Any, Final

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    formatEventAsClassicLogText,
)
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

from binaryserver.errors import ConfigError
from binaryserver.model import BoxKey

FORMATS: Final = ("text", "json")

_LEVELS: Final = {level.name: level for level in LogLevel.iterconstants()}

_SHOWN: Final = ("account", "asset", "link", "peer")
"""Fields of events that are fields of their lines."""


def parseLevel(text: str) -> tuple[str, str]:
    """
    One of C{--log-level}: C{LEVEL}, or C{NAMESPACE=LEVEL} for what the modules below that name log.

    @return: namespace (empty: everything that has none of its own) and level
    @raise ValueError: it is none
    """
    namespace, equals, level = text.rpartition("=")
    if level not in _LEVELS or (equals and not namespace):
        raise ValueError(f"{text!r} is neither {', '.join(_LEVELS)}, nor NAMESPACE=LEVEL with one of these")
    return namespace, level


def parseLevels(texts: Iterable[str], option: str = "--log-level") -> dict[str, str]:
    """
    All of C{--log-level}: the levels by their namespaces.

    @raise ConfigError: one is none
    """
    try:
        return {"": "info", **dict(parseLevel(text) for text in texts)}
    except ValueError as error:
        raise ConfigError(option, str(error)) from error


def levelTexts(levels: Mapping[str, str]) -> list[str]:
    """
    The opposite of L{parseLevels}.
    """
    return [f"{namespace}={level}" if namespace else level for namespace, level in levels.items()]


@implementer(ILogObserver)
class Logs:
    """
    The log of one process: what C{twistd}, or a worker, hands its events to.

    @ivar levels: by namespace; the empty one stands for all that have none
    """

    def __init__(self, form: str, levels: Mapping[str, str], instance: str) -> None:
        """
        @param form: C{--log-format}: one of L{FORMATS}
        @param instance: this process's, told in each line of JSON
        @raise ConfigError: it is none of these
        """
        if form not in FORMATS:
            raise ConfigError("--log-format", f"{form!r} is neither {' nor '.join(FORMATS)}")
        self._form = form
        self._instance = instance
        self._predicate = LogLevelFilterPredicate()
        self._observer: FilteringLogObserver | None = None
        self.levels: dict[str, str] = {}
        self.setLevels(levels)

    @property
    def isSpecial(self) -> bool:
        """
        It is to be otherwise than C{twistd}'s own.
        """
        return self._form != "text" or self.levels != {"": "info"}

    def open(self, file: IO[Any]) -> None:
        """
        Write to a file from now on.
        """
        format_ = self._asJson if self._form == "json" else formatEventAsClassicLogText
        self._observer = FilteringLogObserver(FileLogObserver(file, format_), [self._predicate])

    def __call__(self, event: LogEvent) -> None:
        """
        See L{ILogObserver}.
        """
        if self._observer is not None:
            self._observer(event)

    def setLevels(self, levels: Mapping[str, str]) -> None:
        """
        Have these levels, and no others.
        """
        self.levels = {"": "info", **levels}
        self._predicate.clearLogLevels()
        for namespace, level in self.levels.items():
            self._predicate.setLogLevelForNamespace(namespace, _LEVELS[level])

    def _asJson(self, event: LogEvent) -> str:
        """
        One line. Only what is meant to be seen: an event may hold more than its text shows.
        """
        moment = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
        level = event.get("log_level")
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": getattr(level, "name", "info"),
            "namespace": event.get("log_namespace") or "",
            "message": formatEvent(event),
            "instance": self._instance,
        }
        box = event.get("box")
        if isinstance(box, BoxKey):
            line |= box._asdict()
        line |= {name: _plain(event[name]) for name in _SHOWN if event.get(name) not in (None, "")}
        failure = event.get("log_failure")
        if isinstance(failure, Failure):
            line["traceback"] = failure.getTraceback()
        return json.dumps(line) + "\n"


def _plain(value: Any) -> str | int:
    if isinstance(value, int):
        return value
    # An address.
    return str(getattr(value, "host", value))


def openTwistdLog(logs: Logs, twistd: Mapping[str, Any], onRotate: Any) -> None:
    """
    Open the log where C{twistd}'s own options say.

    @param twistd: its options
    @param onRotate: called with what rotates the file, if it is one
    """
    path = twistd.get("logfile") or ("-" if twistd.get("nodaemon") else "twistd.log")
    if path == "-":
        if not twistd.get("nodaemon"):
            raise ConfigError("--logfile", "a daemon has no standard output to log to")
        logs.open(sys.stdout)
        return
    file = LogFile.fromFullPath(path)
    logs.open(file)
    onRotate(file.rotate)
