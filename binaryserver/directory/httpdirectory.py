"""
A directory behind HTTP: the operator's own service. docs/directory-api.yaml is what it is expected to answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from zope.interface import implementer

from binaryserver.directory.httpfetch import Fetcher
from binaryserver.directory.httpsettings import parseSpec
from binaryserver.directory.parsing import MAX_CHANNELS, MAX_FIELDS, parseAccount, parseBox
from binaryserver.directory.records import Account, Box, Change
from binaryserver.directory.tables import BadRecord, Table
from binaryserver.directory.tokenfile import TokenFile
from binaryserver.errors import DirectoryUnavailable
from binaryserver.interfaces import IDirectorySource
from binaryserver.plugins import BackEndContext
from binaryserver.transcode.events import isName

PAGE_SIZE = 500
"""Entries of a list that are asked for at once."""

MAX_PAGES = 40
"""Answers that a list may take, as services may have smaller pages than they are asked for."""

MAX_LIST = 4 << 20
"""Bytes that the answers of one list may have together."""

_MAX_PAGE_TOKEN = 1024
_IDLE_TIMEOUT = 30
_CLOSE_TIMEOUT = 1.0

_T = TypeVar("_T")


class _State(Enum):
    made = auto()
    open = auto()
    stopped = auto()


@implementer(IDirectorySource)
class HttpDirectory:
    """
    C{http://HOST[:PORT]/BASE} and C{https://}. What the service says is asked for anew each time; changes are told by
    other ways.

    @ivar fetcher: what asks it
    """

    log = Logger()
    requiresLoopback = False
    defaultAccount = ""

    def __init__(self, spec: str, context: BackEndContext) -> None:
        self._settings = settings = parseSpec(spec, context.option)
        self._reactor = context.reactor
        self._option = context.option
        self._state = _State.made
        self._token = TokenFile(context.reactor, settings.tokenFile, context.option)
        self._pool = HTTPConnectionPool(context.reactor)
        self._pool.maxPersistentPerHost = settings.concurrency
        self._pool.cachedConnectionTimeout = _IDLE_TIMEOUT
        agent = Agent(context.reactor, settings.policy, settings.timeout, pool=self._pool)
        self.fetcher = Fetcher(context.reactor, settings, context.option, self._token, agent)
        self._lookups: set[Deferred[Any]] = set()

    def start(self, changed: Callable[[Change], None]) -> Deferred[None]:
        """
        See L{IDirectorySource.start}.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self._token.start()
        if self._settings.isExposed:
            self.log.warn(
                "{base} has no TLS: whoever is on the way can read what the directory says, and change it",
                base=self._settings.base,
            )
        self._state = _State.open

    def stop(self) -> Deferred[None]:
        """
        See L{IDirectorySource.stop}.
        """
        self._state = _State.stopped
        for lookup in list(self._lookups):
            lookup.cancel()
        stopped: Deferred[None] = Deferred()

        def end(_: object = None) -> None:
            if late.active():
                late.cancel()
            if not stopped.called:
                stopped.callback(None)

        # With TLS, a peer that is frozen would never have its end of the connection closed.
        late = self._reactor.callLater(_CLOSE_TIMEOUT, end)
        self._pool.closeCachedConnections().addBoth(end)
        return stopped

    def account(self, name: str) -> Deferred[Account | None]:
        """
        See L{IDirectorySource.account}.
        """
        return self._lookUp(self._account(name))

    def box(self, account: str, asset: str) -> Deferred[Box | None]:
        """
        See L{IDirectorySource.box}.
        """
        return self._lookUp(self._box(account, asset))

    def _lookUp(self, asking: Coroutine[Deferred[Any], Any, _T]) -> Deferred[_T]:
        if self._state is not _State.open:
            asking.close()
            return fail(self._closed())
        lookup = Deferred.fromCoroutine(asking)
        self._lookups.add(lookup)
        return lookup.addBoth(self._done, lookup)

    def _done(self, result: Any, lookup: Deferred[Any]) -> Any:
        self._lookups.discard(lookup)
        if isinstance(result, Failure) and result.check(CancelledError) and self._state is _State.stopped:
            raise self._closed()
        return result

    def _closed(self) -> DirectoryUnavailable:
        return DirectoryUnavailable(f"{self._option}: {self._settings.base} is not open")

    async def _account(self, name: str) -> Account | None:
        path = _path("accounts", name)
        if path is None:
            return None
        body = await self.fetcher.get(path)
        if body is None:
            return None
        record = self._object(path, body)
        record["fields"] = await self._list(path, "fields", MAX_FIELDS)
        record["channels"] = await self._list(path, "channels", MAX_CHANNELS)
        account = self._parsed(path, parseAccount, record, False)
        if account.name != name:
            self._fault(path, f"it answers with account {account.name}")
        return account

    async def _box(self, account: str, asset: str) -> Box | None:
        path = _path("accounts", account, "boxes", asset)
        if path is None:
            return None
        body = await self.fetcher.get(path)
        if body is None:
            return None
        box = self._parsed(path, parseBox, self._object(path, body), account, False)
        if box.asset != asset:
            self._fault(path, f"it answers with box {box.asset}")
        return box

    async def _list(self, path: str, name: str, most: int) -> list[Any] | None:
        """
        All pages of a list; L{None}: there is none.
        """
        path = f"{path}/{name}"
        entries: list[Any] = []
        pageToken, size = "", 0
        for _ in range(MAX_PAGES):
            query = f"page_size={PAGE_SIZE}" + (f"&page_token={quote(pageToken, safe='')}" if pageToken else "")
            body = await self.fetcher.get(path, query)
            if body is None:
                if pageToken:
                    self._fault(path, "a page that it named is not there")
                return None
            size += len(body)
            page = Table(self._object(path, body), "a page", False)
            found: list[Any] | None = self._parsed(path, page.list, name, most)
            entries += found or []
            if size > MAX_LIST or len(entries) > most:
                self._fault(path, f"the list is too long: {most} entries and {MAX_LIST >> 20} MiB are the most")
            pageToken = self._parsed(path, page.text, "next_page_token")
            if not pageToken:
                return entries
            if len(pageToken) > _MAX_PAGE_TOKEN:
                self._fault(path, f"its next_page_token has more than {_MAX_PAGE_TOKEN} characters")
        self._fault(path, f"the list has more than {MAX_PAGES} pages")

    def _object(self, path: str, body: bytes) -> dict[str, Any]:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            self._fault(path, "its answer is not JSON")
        if not isinstance(found, dict):
            self._fault(path, "its answer is not a JSON object")
        return found

    def _parsed(self, path: str, parse: Callable[..., _T], *arguments: Any) -> _T:
        try:
            return parse(*arguments)
        except BadRecord as error:
            self._fault(path, str(error))

    def _fault(self, path: str, reason: str) -> NoReturn:
        raise DirectoryUnavailable(f"{self._option}: {self._settings.base}{path}: {reason}")


def _path(*parts: str) -> str | None:
    """
    The path of a resource; L{None}: there can be none of that name. C{.} and C{..} are names, but no server is asked
    for them: in a path they mean another resource.
    """
    if not all(isName(part) and part not in (".", "..") for part in parts):
        return None
    return "/" + "/".join(parts)
