"""
Accounts and boxes in a CSV file, as a spreadsheet saves it::

    account,asset,secret_hash,active,revoked,limits,metadata
    acme,,,true,,"{""links"": 500}",
    acme,350000000000001,$argon2id$v=19$...,,false,,"{""plate"": ""B-XY 12""}"

A line without an asset is an account, one with an asset a box of it. The columns have the names of the keys of
docs/directory.md. A cell holds JSON where the key wants something else than a text; an empty one says nothing.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.directory.parsing import parseAccount, parseBox
from binaryserver.directory.records import Account, Box, Change
from binaryserver.errors import ConfigError, DirectoryUnavailable
from binaryserver.interfaces import IDirectorySource
from binaryserver.plugins import BackEndContext

LOOK_INTERVAL = 0.5
"""s between two looks at the file."""

_TEXTS = frozenset({"asset", "cloud", "secret_hash", "certificate"})


class BadFile(Exception):
    """
    The file cannot be understood. The message is one line.
    """


Records = dict[tuple[str, str], Account | Box]
"""By account and asset; an account's asset is empty."""


class Version(NamedTuple):
    """
    What tells one version of the file from another: ns, inode, bytes.
    """

    modified: int
    inode: int
    size: int


def parse(content: bytes) -> Records:
    """
    Read the file.

    @raise BadFile: it cannot be understood
    """
    records: Records = {}
    try:
        lines = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        for cells in lines:
            where = f"line {lines.line_num}"
            if None in cells or None in cells.values():
                raise BadFile(f"{where}: it has not as many cells as the first")
            key, record = _readRecord({name: cell for name, cell in cells.items() if cell}, where)
            if key in records:
                raise BadFile(f"{where}: this account or box is there twice")
            records[key] = record
    except UnicodeDecodeError as error:
        raise BadFile("it is not UTF-8") from error
    except csv.Error as error:
        raise BadFile(f"line {lines.line_num}: {error}") from error
    for account, asset in records:
        if (account, "") not in records:
            raise BadFile(f"box {asset}: it has no line of its account")
    return records


def _readRecord(cells: dict[str, str], where: str) -> tuple[tuple[str, str], Account | Box]:
    account, asset = cells.pop("account", ""), cells.get("asset", "")
    values: dict[str, Any] = {}
    for name, cell in cells.items():
        try:
            values[name] = cell if name in _TEXTS else json.loads(cell)
        except (ValueError, RecursionError) as error:
            # The cell is not shown: somebody may have put a secret into the wrong column.
            raise BadFile(f"{where}: {name!r:.80}: it is not JSON") from error
    try:
        if asset:
            return (account, asset), parseBox(values, account, True)
        return (account, ""), parseAccount({**values, "name": account}, True)
    except DirectoryUnavailable as error:
        raise BadFile(f"{where}: {error}") from error


@implementer(IDirectorySource)
class CsvDirectory:
    """
    C{csv:PATH}. A version of the file counts whole or not at all: of one that cannot be understood an error is logged,
    and what was read before counts on.
    """

    log = Logger()
    requiresLoopback = False
    defaultAccount = ""

    def __init__(self, spec: str, context: BackEndContext) -> None:
        path = spec.partition(":")[2]
        if not path or "\0" in path:
            raise ConfigError(context.option, "the form is csv:PATH")
        self._path = Path(path)
        self._reactor = context.reactor
        self._option = context.option
        self._records: Records = {}
        self._changed: Callable[[Change], None] = lambda change: None
        self._judged: Version | None = None
        self._seen: Version | None = None
        self._complaint = ""
        self._loop: LoopingCall | None = None
        self._work: Deferred[Any] | None = None

    def start(self, changed: Callable[[Change], None]) -> Deferred[None]:
        """
        See L{IDirectorySource.start}.
        """
        self._changed = changed
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        try:
            self._judged, found = await self._inThread(self._load)
        except OSError as error:
            raise ConfigError(self._option, f"{self._path}: {error.strerror}") from error
        if isinstance(found, BadFile):
            raise ConfigError(self._option, f"{self._path}: {found}")
        self._records = found
        self._loop = LoopingCall(self._lookAgain)
        self._loop.clock = self._reactor
        self._loop.start(LOOK_INTERVAL, now=False)

    def stop(self) -> Deferred[None]:
        """
        See L{IDirectorySource.stop}.
        """
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()
        if self._work is not None:
            self._work.cancel()
        return succeed(None)

    def account(self, name: str) -> Deferred[Account | None]:
        """
        See L{IDirectorySource.account}.
        """
        return self._find(name, "")

    def box(self, account: str, asset: str) -> Deferred[Box | None]:
        """
        See L{IDirectorySource.box}.
        """
        # Under an empty asset stands the account itself.
        return self._find(account, asset) if asset else succeed(None)

    def _find(self, account: str, asset: str) -> Deferred[Any]:
        if self._loop is None:
            return fail(DirectoryUnavailable(f"{self._option}: {self._path} is not open"))
        return succeed(self._records.get((account, asset)))

    # The file is read in a thread: a disk that hangs must not hold up the boxes.

    async def _inThread(self, function: Callable[[], Any]) -> Any:
        self._work = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function)
        try:
            return await self._work
        finally:
            self._work = None

    def _look(self) -> Version:
        return _versionOf(os.stat(self._path))

    def _load(self) -> tuple[Version, Records | BadFile]:
        with open(self._path, "rb") as file:
            version, content = _versionOf(os.fstat(file.fileno())), file.read()
        try:
            return version, parse(content)
        except BadFile as error:
            return version, error

    def _lookAgain(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._reload()).addErrback(self._unread)

    async def _reload(self) -> None:
        version = await self._inThread(self._look)
        if version == self._judged:
            return
        if version != self._seen:
            # It counts when the next look finds it unchanged: half of a file that is being written may well be CSV,
            # and would cut off the boxes of its other half.
            self._seen = version
            return
        version, found = await self._inThread(self._load)
        if version != self._seen:
            self._seen = version
            return
        self._judged, self._complaint = version, ""
        if isinstance(found, BadFile):
            self._complain(str(found))
            return
        old, self._records = self._records, found
        for key in {*old, *found}:
            if old.get(key) != found.get(key):
                self._changed(Change(*key))

    def _unread(self, failure: Failure) -> None:
        if failure.check(OSError):
            self._complain(failure.getErrorMessage())
        elif not failure.check(CancelledError):
            self.log.failure("{path} could not be read", failure, path=self._path)

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._complaint = complaint
            self.log.error("{path}: {complaint}; what was read before counts on", path=self._path, complaint=complaint)


def _versionOf(status: os.stat_result) -> Version:
    return Version(status.st_mtime_ns, status.st_ino, status.st_size)
