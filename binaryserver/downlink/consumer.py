"""
From the bus's C{downlink} into mailboxes.

An offset is committed only once everything before it is in a mailbox, or durable in C{rejects}; what comes again after
a crash is known by its id. A record that cannot be used never blocks its partition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.directory.records import Account
from binaryserver.errors import BusError, DirectoryUnavailable, StoreError
from binaryserver.interfaces import IBusConsumer, IPeers
from binaryserver.model import (
    BoxKey,
    DownlinkMessage,
    MailboxLimits,
    Put,
    StoredRecord,
)
from binaryserver.proto import cloudnext_pb2
from binaryserver.service import Component
from binaryserver.transcode.downlink import QUEUED, RejectedMessage, decodeDownlink, readDownlink
from binaryserver.transcode.events import downlinkRejectRecord, isName
from binaryserver.transcode.pseudonyms import PseudonymsUnavailable

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway

_LIMIT = 500
_RETRY = 1.0

# s for which what was read waits for the directory: an account of which it cannot say anything must not hold up those
# of others for ever.
_DIRECTORY_PATIENCE = 60.0

# s between two reads: under load records gather meanwhile, and a call of the session store costs less for each.
_PACE = 0.004


_Accounts = dict[str, Account | None]
"""What the directory says of accounts by their names; of one that is not in it, nothing could be found out."""


class DownlinkConsumer(Component):
    """
    One member of the group that all instances form.
    """

    log = Logger()

    def __init__(
        self,
        gateway: Gateway,
        peers: IPeers,
        group: str,
        limits: MailboxLimits,
        maxPayload: int,
        expiry: Callable[[Account | None, str], int],
    ) -> None:
        """
        @param group: the consumer group's name
        @param limits: of a mailbox
        @param maxPayload: bytes
        @param expiry: gives the ms after which a message for an account's box on a channel expires if its sender does
            not say
        """
        self._gateway = gateway
        self._peers = peers
        self._group = group
        self._limits = limits
        self._maxPayload = maxPayload
        self._expiry = expiry
        self._consumer: IBusConsumer | None = None
        self._isStopping = False
        self._waiting: Deferred[Any] | None = None
        self._ended: Deferred[None] | None = None
        self._isReading = False
        # By name: accounts that could not be looked up, and since when, s of the clock.
        self._unknownSince: dict[str, float] = {}

    @property
    def lag(self) -> int | None:
        """
        See L{IBusConsumer.lag}; L{None} also while there is no consumer.
        """
        return None if self._consumer is None else self._consumer.lag

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """

        def opened(consumer: IBusConsumer) -> None:
            self._consumer = consumer
            self._ended = Deferred.fromCoroutine(self._run())

        return self._open().addCallback(opened)

    def _open(self) -> Deferred[IBusConsumer]:
        opened: Deferred[IBusConsumer] = self._gateway.bus.openConsumer((self._gateway.topics.downlink,), self._group)
        return opened

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}. What was read is put first; an outage is not waited for: what was not put comes again.
        """
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        self._isStopping = True
        if self._waiting is not None:
            self._waiting.cancel()
        if self._isReading and self._consumer is not None:
            await self._consumer.close()
        if self._ended is not None:
            # What was read is put and committed, and then the consumer closed.
            await self._ended

    async def _run(self) -> None:
        while not self._isStopping:
            try:
                await self._consume()
            except BusError as error:
                self.log.warn("downlink cannot be consumed, trying again: {reason}", reason=str(error))
                await self._reopen()
            except Exception:
                self.log.failure("downlink could not be consumed, in an unforeseen way; trying again")
                await self._reopen()
        if self._consumer is not None:
            await self._consumer.close()

    async def _consume(self) -> None:
        clock = self._gateway.clock
        if self._consumer is None:
            self._consumer = await self._open()
            return
        if self._gateway.hasMuchToTell:
            # What the bus does not take would only gather here.
            await self._pause()
            return
        self._isReading = True
        try:
            records = await self._consumer.read(_LIMIT)
        finally:
            self._isReading = False
        readAt = clock.seconds()
        if records and await self._take(records):
            offsets = {(record.topic, record.partition): record.offset + 1 for record in records}
            await self._consumer.commit(offsets)
            await self._wait(deferLater(clock, max(0.0, readAt + _PACE - clock.seconds())))

    async def _reopen(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None and not self._isStopping:
            await consumer.close()
        await self._pause()

    async def _pause(self) -> None:
        await self._wait(deferLater(self._gateway.clock, _RETRY))

    async def _wait(self, waited: Deferred[Any]) -> None:
        """
        Wait, but not beyond the stop.
        """
        if self._isStopping:
            waited.cancel()
        self._waiting = waited
        try:
            await waited
        except (CancelledError, FirstError):
            self.log.debug("the consumer stops instead of waiting")
        self._waiting = None

    async def _take(self, records: Sequence[StoredRecord]) -> bool:
        """
        Put records into mailboxes, or into C{rejects}.

        @return: whether all are; not, if the gateway stops first
        """
        reads = [self._read(record) for record in records]
        names = [_accountName(record, read) for record, read in zip(records, reads, strict=True)]
        accounts = await self._lookUp(set(filter(isName, names)))
        if accounts is None:
            return False
        nowMs = self._gateway.nowMs()
        messages: list[DownlinkMessage] = []
        rejected: list[Deferred[None]] = []
        for record, read, name in zip(records, reads, names, strict=True):
            try:
                messages.append(self._decode(record, read, accounts, nowMs))
            except RejectedMessage as error:
                rejected.append(self._reject(record, error, name, accounts, nowMs))
                if error.message is not None:
                    messages.append(error.message)
            except Exception as error:
                rejected.append(self._reject(record, self._unforeseen(error), name, accounts, nowMs))
        self._gateway.counters.downlinkMessages += len(messages)
        while messages:
            try:
                puts = await self._gateway.store.putMessages(messages, self._limits, self._gateway.nowMs())
            except StoreError as error:
                self.log.warn("session store did not take messages, trying again: {reason}", reason=str(error))
                await self._pause()
                if self._isStopping:
                    return False
            else:
                self._tell(puts, messages)
                break
        if rejected:
            await self._wait(gatherResults(rejected, consumeErrors=True))
        return not (rejected and self._isStopping)

    async def _lookUp(self, names: set[str]) -> _Accounts | None:
        """
        Ask the directory for accounts, and wait for it, up to a point.

        @return: L{None}: the gateway stops first
        """
        accounts: _Accounts = {}
        while True:
            reasons = await gatherResults([self._lookUpOne(name, accounts) for name in names - accounts.keys()])
            now = self._gateway.clock.seconds()
            since = [self._unknownSince.setdefault(name, now) for name in names - accounts.keys()]
            if all(now - one >= _DIRECTORY_PATIENCE for one in since):
                return accounts
            self.log.warn("messages wait for the directory: {reason}", reason=next(filter(None, reasons), ""))
            await self._pause()
            if self._isStopping:
                return None

    def _lookUpOne(self, name: str, accounts: _Accounts) -> Deferred[str]:
        """
        @return: fires with why it could not be looked up; empty: it was
        """

        def known(account: Account | None) -> str:
            accounts[name] = account
            self._unknownSince.pop(name, None)
            return ""

        def failed(failure: Failure) -> str:
            failure.trap(DirectoryUnavailable)
            return failure.getErrorMessage()

        return self._gateway.directory.account(name).addCallbacks(known, failed)

    def _read(self, record: StoredRecord) -> cloudnext_pb2.DownlinkMessage | RejectedMessage:
        try:
            return readDownlink(record)
        except RejectedMessage as error:
            return error
        except Exception as error:
            return self._unforeseen(error)

    def _unforeseen(self, error: Exception) -> RejectedMessage:
        self.log.failure("a downlink record could not be read, in an unforeseen way")
        return RejectedMessage("DECODE", f"it cannot be read ({type(error).__name__})", None)

    def _decode(
        self,
        record: StoredRecord,
        read: cloudnext_pb2.DownlinkMessage | RejectedMessage,
        accounts: _Accounts,
        nowMs: int,
    ) -> DownlinkMessage:
        """
        @raise RejectedMessage: it cannot be put into a mailbox, or only to end as rejected
        """
        if isinstance(read, RejectedMessage):
            raise read

        def real(box: BoxKey) -> BoxKey:
            return self._real(box, accounts)

        expiry = partial(self._expiry, accounts.get(read.account))
        return decodeDownlink(record, read, real, expiry, self._maxPayload, nowMs)

    def _real(self, named: BoxKey, accounts: _Accounts) -> BoxKey:
        """
        The box that a message is for.

        @raise RejectedMessage: there can be none of that name
        """
        if not isName(named.account):
            raise RejectedMessage("BAD_BOX", "the account is no [A-Za-z0-9._-]{1,64}", None)
        if named.account not in accounts:
            raise RejectedMessage("DIRECTORY_UNAVAILABLE", "whose box it is for could not be looked up", None)
        account = accounts[named.account]
        if account is None:
            raise RejectedMessage("UNKNOWN_ACCOUNT", "there is no such account", None)
        if not account.privacy.isPseudonymous:
            if not isName(named.asset):
                raise RejectedMessage("BAD_BOX", "the asset is no [A-Za-z0-9._-]{1,64}", None)
            return named
        try:
            asset = self._gateway.pseudonyms.real(named.account, named.asset)
        except PseudonymsUnavailable as error:
            raise RejectedMessage("NO_PSEUDONYMS", str(error), None) from error
        if asset is None:
            raise RejectedMessage("BAD_ASSET", "it is no pseudonym of a box of its account", None)
        return BoxKey(named.account, asset)

    def _tell(self, puts: Sequence[Put], messages: Sequence[DownlinkMessage]) -> None:
        statuses = self._gateway.statuses
        listeners: dict[str, dict[BoxKey, None]] = {}
        for put, message in zip(puts, messages, strict=True):
            entry = put.entry
            if entry is None:
                continue
            if entry.final is not None:
                statuses.final(entry)
                continue
            if put.isNew:
                statuses.progress(entry, QUEUED, message.queuedAt)
            if put.listener:
                listeners.setdefault(put.listener, {})[message.box] = None
        for incarnation, boxes in listeners.items():
            if incarnation == self._gateway.incarnation:
                self._gateway.delivery.wake(boxes)
            else:
                self._peers.wake(incarnation, list(boxes))

    def _reject(
        self, record: StoredRecord, error: RejectedMessage, name: str, accounts: _Accounts, nowMs: int
    ) -> Deferred[None]:
        """
        Send a record to C{rejects}. Fires once it is durable there.

        @param name: its account's, as far as it can be told
        """
        gateway = self._gateway
        gateway.counters.rejects += 1
        source = f"{record.topic}/{record.partition}/{record.offset}"
        self.log.info("a downlink record was rejected: {code} ({source})", code=error.code, source=source)
        done: Deferred[None] = Deferred()
        account = accounts.get(name)
        isPrivate = isName(name) and (name not in accounts or (account is not None and not account.privacy.isNone))
        box: BoxKey | None = None
        if error.message is not None:
            box = gateway.pseudonyms.published(error.message.box, account.privacy if account is not None else None)
        elif isPrivate:
            box = BoxKey(name, "")
        reject = downlinkRejectRecord(
            record, box, source, error.code, str(error), gateway.instance, nowMs, gateway.bus.maxRecord, isPrivate
        )
        gateway.rejects.announce(reject, lambda: done.callback(None))
        return done


def _accountName(record: StoredRecord, read: cloudnext_pb2.DownlinkMessage | RejectedMessage) -> str:
    """
    Whose box a record is for; if it cannot be read, its key says.
    """
    if isinstance(read, RejectedMessage):
        return record.key.partition(b"/")[0].decode("ascii", "replace")
    return read.account
