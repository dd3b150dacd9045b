"""
A directory in one TOML file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.directory.parsing import parseAccount, parseBox
from binaryserver.directory.records import Account, Box, Change
from binaryserver.directory.tables import BadRecord, kindOf
from binaryserver.errors import ConfigError, DirectoryUnavailable
from binaryserver.filestamp import FileStamp, stampOf
from binaryserver.interfaces import IDirectorySource
from binaryserver.plugins import BackEndContext

LOOK_INTERVAL = 0.5
"""
s between two looks at the file. A change is taken when the next look finds it unchanged: who writes it in place is done
by then, and a half of it, which may well be valid TOML, would cut off the boxes of the other half. So it takes 1 s at
most.
"""

MAX_SIZE = 64 << 20
"""Bytes that the file may have."""


@dataclass(frozen=True, slots=True)
class Contents:
    """
    What a version of the file says.

    @ivar accounts: by name
    @ivar boxes: by account and asset
    """

    accounts: Mapping[str, Account] = field(default_factory=dict)
    boxes: Mapping[tuple[str, str], Box] = field(default_factory=dict)


def parseContents(content: bytes) -> Contents:
    """
    Read TOML: C{[[account]]} tables, with the account's boxes in them as C{[[account.box]]}.

    @raise BadRecord: it cannot be understood
    """
    try:
        tables: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadRecord(f"line {line}: it is not UTF-8") from None
    except RecursionError:
        raise BadRecord("it is nested too deeply") from None
    except ValueError as error:
        raise BadRecord(f"it is not TOML: {error}") from None
    entries = tables.pop("account", [])
    if tables:
        raise BadRecord(f"{next(iter(tables))!r:.80} is no key: the file is a list of [[account]] tables")
    accounts: dict[str, Account] = {}
    boxes: dict[tuple[str, str], Box] = {}
    for entry, inner in _split(entries):
        account = parseAccount(entry, True)
        if account.name in accounts:
            raise BadRecord(f'account "{account.name}": is there twice')
        accounts[account.name] = account
        for each in inner:
            box = parseBox(each, account.name, True)
            if (account.name, box.asset) in boxes:
                raise BadRecord(f'account "{account.name}", box "{box.asset}": is there twice')
            boxes[account.name, box.asset] = box
    return Contents(accounts, boxes)


def _split(entries: object) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    if not isinstance(entries, list):
        raise BadRecord(f"account: is to be a list of [[account]] tables, not {kindOf(entries)}")
    for entry in entries:
        inner = entry.pop("box", []) if isinstance(entry, dict) else []
        if not isinstance(inner, list):
            raise BadRecord(f"box: is to be a list of [[account.box]] tables, not {kindOf(inner)}")
        yield entry, inner


def changesOf(old: Contents, new: Contents) -> list[Change]:
    """
    One for each account, and for each box, that is not in both or not alike. Boxes of an account that comes or goes
    count.
    """
    accounts = sorted(
        name for name in {*old.accounts, *new.accounts} if old.accounts.get(name) != new.accounts.get(name)
    )
    boxes = sorted(key for key in {*old.boxes, *new.boxes} if old.boxes.get(key) != new.boxes.get(key))
    return [*(Change(name) for name in accounts), *(Change(*key) for key in boxes)]


def _load(path: str) -> tuple[FileStamp, Contents | BadRecord]:
    with open(path, "rb") as file:
        stamp = stampOf(file.fileno())
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        return stamp, BadRecord(f"it has more than {MAX_SIZE >> 20} MiB")
    try:
        return stamp, parseContents(content)
    except BadRecord as error:
        return stamp, error


def _reload(path: str, old: Contents) -> tuple[FileStamp, Contents | BadRecord, list[Change]]:
    stamp, found = _load(path)
    return stamp, found, changesOf(old, found) if isinstance(found, Contents) else []


class _State(Enum):
    made = auto()
    open = auto()
    stopped = auto()


@implementer(IDirectorySource)
class FileDirectory:
    """
    C{file:PATH}. The file is read at the start and looked at again, in a thread; a version of it counts whole or not at
    all: of one that cannot be understood an error is logged, and what was read before counts on.
    """

    log = Logger()
    requiresLoopback = False
    defaultAccount = ""

    def __init__(self, spec: str, context: BackEndContext) -> None:
        self._path = spec.partition(":")[2]
        if not self._path:
            raise ConfigError(context.option, "the form is file:PATH")
        self._reactor = context.reactor
        self._option = context.option
        self._state = _State.made
        self._contents = Contents()
        self._changed: Callable[[Change], None] = lambda change: None
        self._judged: FileStamp | None = None
        self._seen: FileStamp | None = None
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
            self._judged, found = await self._inThread(_load, self._path)
        except (OSError, ValueError) as error:
            raise ConfigError(self._option, self._unreadable(error)) from error
        if isinstance(found, BadRecord):
            raise ConfigError(self._option, f"{self._path}: {found}")
        self._contents = found
        self._state = _State.open
        self._loop = LoopingCall(self._lookAgain)
        self._loop.clock = self._reactor
        self._loop.start(LOOK_INTERVAL, now=False)

    def stop(self) -> Deferred[None]:
        """
        See L{IDirectorySource.stop}. It does not wait for a disk that hangs.
        """
        self._state = _State.stopped
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
        return succeed(self._contents.accounts.get(name)) if self._state is _State.open else self._closed()

    def box(self, account: str, asset: str) -> Deferred[Box | None]:
        """
        See L{IDirectorySource.box}.
        """
        return succeed(self._contents.boxes.get((account, asset))) if self._state is _State.open else self._closed()

    def _closed(self) -> Deferred[Any]:
        return fail(DirectoryUnavailable(f"{self._option}: {self._path} is not open"))

    async def _inThread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self._work = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, *arguments)
        try:
            return await self._work
        finally:
            self._work = None

    def _lookAgain(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._lookOnce()).addErrback(self._unlooked)

    async def _lookOnce(self) -> None:
        try:
            stamp = await self._inThread(stampOf, self._path)
            if stamp == self._judged:
                self._seen, self._complaint = None, ""
                return
            if stamp != self._seen:
                self._seen = stamp
                return
            stamp, found, changes = await self._inThread(_reload, self._path, self._contents)
        except OSError as error:
            self._seen = None
            self._complain(self._unreadable(error))
            return
        if stamp != self._seen:
            # It was written meanwhile.
            self._seen = stamp
            return
        self._judged, self._seen = stamp, None
        # Another version: what is wrong with it is told, even if it is what was wrong with the last.
        self._complaint = ""
        if isinstance(found, BadRecord):
            self._complain(f"{self._path}: {found}")
        else:
            self._take(found, changes)

    def _take(self, found: Contents, changes: list[Change]) -> None:
        self._contents = found
        self.log.info(
            "{path} was read again: {accounts} accounts, {boxes} boxes, {changes} changes",
            path=self._path,
            accounts=len(found.accounts),
            boxes=len(found.boxes),
            changes=len(changes),
        )
        for change in changes:
            try:
                self._changed(change)
            except Exception:
                self.log.failure("a change of {account} was not taken notice of", account=change.account)

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._complaint = complaint
            self.log.error("{complaint}; what was read before counts on", complaint=complaint)

    def _unlooked(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("{path} could not be looked at", failure, path=self._path)

    def _unreadable(self, error: OSError | ValueError) -> str:
        reason = error.strerror if isinstance(error, OSError) else "its name cannot be that of a file"
        return f"cannot read {self._path!r}: {reason}"
