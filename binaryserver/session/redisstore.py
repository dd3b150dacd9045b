"""
Sessions in Redis, which the instances of a fleet share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from binaryserver.errors import AccountFull, StoreError
from binaryserver.interfaces import IPeers, ISessionStore
from binaryserver.model import (
    EPOCH_2010_MS,
    BoxKey,
    Claim,
    DownlinkMessage,
    Draw,
    Erased,
    FingerprintUpdate,
    LinkState,
    MailboxEntry,
    MailboxLimits,
    MarkUpdate,
    MqttSession,
    Orphan,
    Progress,
    Put,
    Renewal,
    StreamMark,
    Take,
)
from binaryserver.plugins import BackEndContext
from binaryserver.session.boxrecords import BoxEvent, BoxPage, BoxQuery, BoxRecord, RefusalNote, takenOver
from binaryserver.session.memorystore import MAX_WORKERS, instanceOf
from binaryserver.session.redischecks import checkServer, startChecked
from binaryserver.session.redislink import RedisLink
from binaryserver.session.redismail import RedisMailboxes, chunks, joined
from binaryserver.session.redispeers import RedisPeers
from binaryserver.session.redisrecords import RedisRecords, packEvent
from binaryserver.session.redisscripts import loadScripts
from binaryserver.session.redissettings import parseSpec
from binaryserver.session.redistext import (
    boxName,
    boxOfName,
    escape,
    fields,
    keyName,
    lines,
    marksOf,
    ownerOf,
    packMqtt,
    reading,
    unescape,
    unpackMqtt,
)

_DAY_MS = 86_400_000

_LAPSED_MS = _DAY_MS
"""For how long a number's instance must have been away for another to get it, if there is no unused one left."""

_DECLARED_MS = 7 * _DAY_MS
"""How long it is remembered that an incarnation was declared dead."""


@implementer(ISessionStore)
class RedisSessionStore:
    """
    C{redis://[:PASSWORD@]HOST:PORT/DB[?option=value]}, C{rediss://...} with TLS.

    @ivar warnings: what was found at the start that the operator should know, a sentence each
    """

    log = Logger()

    def __init__(self, spec: str, context: BackEndContext) -> None:
        self._context = context
        self._settings = parseSpec(spec, context.option)
        self._scripts = loadScripts()
        self._link = RedisLink(context.reactor, self._settings, context.option, tuple(self._scripts.values()))
        self._mailboxes = RedisMailboxes(self._script)
        self._records = RedisRecords(self._script)
        self.warnings: tuple[str, ...] = ()

    def start(self) -> Deferred[None]:
        """
        See L{ISessionStore.start}.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        option, reactor, timeout = self._context.option, self._context.reactor, self._context.startTimeout
        self.warnings = await startChecked(
            self._link,
            self._settings.where,
            option,
            reactor,
            timeout,
            lambda: checkServer(self._link.call, self._settings, option),
        )

    def stop(self) -> Deferred[None]:
        """
        See L{ISessionStore.stop}.
        """
        return self._link.stop(self._context.stopTimeout)

    def peers(self, incarnation: str) -> IPeers:
        """
        See L{ISessionStore.peers}.
        """
        return RedisPeers(self._context, self._settings, incarnation, self._link.call, self.isDead)

    def _script(self, name: str, *arguments: Any) -> Deferred[Any]:
        return self._link.script(self._scripts[name], self._settings.prefix, *arguments)

    def _key(self, kind: str, name: str = "") -> str:
        return f"{self._settings.prefix}{kind}:{name}" if name else f"{self._settings.prefix}{kind}"

    # Incarnations.

    def leaseWorker(self, incarnation: str, wanted: int | None = None) -> Deferred[int]:
        """
        See L{ISessionStore.leaseWorker}. When every number has an instance, the one that was not heard of for longest
        loses it to the newcomer, if that was a day or more.
        """

        def leased(reply: bytes) -> int:
            if not reply:
                raise StoreError(f"all {MAX_WORKERS} worker numbers are taken by instances that lived within a day")
            return int(reply)

        instance, number = escape(instanceOf(incarnation)), "" if wanted is None else wanted
        return self._script("lease", instance, escape(incarnation), number, MAX_WORKERS, _LAPSED_MS).addCallback(
            reading(leased)
        )

    def renew(self, incarnation: str) -> Deferred[Renewal]:
        """
        See L{ISessionStore.renew}.
        """
        renewed = self._script("renew", escape(instanceOf(incarnation)), escape(incarnation))
        return renewed.addCallback(reading(lambda reply: Renewal[reply.decode("ascii")]))

    def bury(self, leaseMs: int) -> Deferred[list[str]]:
        """
        See L{ISessionStore.bury}.
        """
        buried = self._script("bury", leaseMs, _DECLARED_MS)
        return buried.addCallback(reading(lambda reply: sorted(unescape(each) for each in lines(reply)[:-1])))

    def isDead(self, incarnation: str) -> Deferred[bool]:
        """
        See L{ISessionStore.isDead}.
        """
        score = self._link.call("ZSCORE", self._key("alive"), escape(incarnation))
        return score.addCallback(lambda score: score is None)

    def resign(self, incarnation: str) -> Deferred[None]:
        """
        See L{ISessionStore.resign}.
        """
        return self._link.call("ZREM", self._key("alive"), escape(incarnation)).addCallback(lambda _: None)

    # Ownership.

    def claim(
        self,
        box: BoxKey,
        incarnation: str,
        protocol: str,
        peer: str,
        nowMs: int,
        clean: bool,
        attempt: str,
        most: int = 0,
    ) -> Deferred[Claim]:
        """
        See L{ISessionStore.claim}.
        """

        def claimed(reply: bytes) -> Claim:
            epoch, *rest = lines(reply)
            if epoch == "full":
                raise AccountFull(f"{most} boxes of {box.account} are connected already")
            if not rest:
                raise StoreError(f"{incarnation} may not claim: {Renewal[epoch].value}")
            marks, mqtt, *previous = rest
            return Claim(int(epoch), ownerOf(previous), marksOf(marks), unpackMqtt(mqtt))

        return self._script(
            "claim",
            boxName(box),
            escape(instanceOf(incarnation)),
            escape(incarnation),
            escape(protocol),
            escape(peer),
            nowMs,
            nowMs - EPOCH_2010_MS,
            int(clean),
            escape(attempt),
            most,
            *packEvent(takenOver(nowMs, protocol, peer, incarnation, 0))[2:],
        ).addCallback(reading(claimed))

    def release(self, box: BoxKey, linkEpoch: int, nowMs: int, event: BoxEvent | None = None) -> Deferred[bool]:
        """
        See L{ISessionStore.release}.
        """
        told = () if event is None else packEvent(event)
        return self._script("release", boxName(box), linkEpoch, nowMs, *told).addCallback(bool)

    def restore(self, incarnation: str, links: Sequence[LinkState]) -> Deferred[list[bool]]:
        """
        See L{ISessionStore.restore}.
        """

        def one(part: Sequence[LinkState]) -> Deferred[list[bool]]:
            values: list[object] = []
            for link in part:
                values += (boxName(link.box), link.linkEpoch, escape(link.protocol), escape(link.peer))
                values += (link.since, int(link.isListening))
                values += (packMqtt(link.mqtt), len(link.marks), *(value for mark in link.marks for value in mark))
            reply = self._script("restore", escape(incarnation), fields(values))
            return reply.addCallback(lambda restored: [each == ord("1") for each in restored])

        return joined([one(part) for part in chunks(links)])

    def adopt(self, dead: str, incarnation: str, nowMs: int, limit: int, attempt: str) -> Deferred[list[Orphan]]:
        """
        See L{ISessionStore.adopt}.
        """

        def adopted(reply: bytes) -> list[Orphan]:
            texts = iter(lines(reply))
            return [
                Orphan(boxOfName(name), int(epoch), int(lost), unescape(protocol), unescape(peer), ownerOf(previous))
                for name, epoch, lost, protocol, peer, *previous in zip(*[texts] * 9, strict=False)
            ]

        arguments = (escape(dead), escape(incarnation), nowMs, nowMs - EPOCH_2010_MS, limit, escape(attempt), _DAY_MS)
        return self._script("adopt", *arguments).addCallback(reading(adopted))

    def accounts(self, asset: str) -> Deferred[tuple[str, ...]]:
        """
        See L{ISessionStore.accounts}.
        """
        return self._members("accounts", asset)

    def _members(self, kind: str, asset: str) -> Deferred[tuple[str, ...]]:
        members = self._link.call("SMEMBERS", self._key(kind, keyName(asset)))
        return members.addCallback(
            reading(lambda names: tuple(sorted(unescape(each.decode("ascii")) for each in names)))
        )

    # For operators.

    def listBoxes(self, query: BoxQuery, after: BoxKey | None, limit: int) -> Deferred[BoxPage]:
        """
        See L{ISessionStore.listBoxes}.
        """
        return self._records.listBoxes(query, after, limit)

    def boxRecord(self, box: BoxKey) -> Deferred[BoxRecord | None]:
        """
        See L{ISessionStore.boxRecord}.
        """
        return self._records.boxRecord(box)

    def links(self, account: str) -> Deferred[int]:
        """
        See L{ISessionStore.links}.
        """
        return self._link.call("SCARD", self._key("linked", keyName(account)))

    def noteRefusals(self, refusals: Sequence[RefusalNote]) -> Deferred[None]:
        """
        See L{ISessionStore.noteRefusals}.
        """
        return self._records.noteRefusals(refusals)

    def refusedAs(self, asset: str) -> Deferred[tuple[str, ...]]:
        """
        See L{ISessionStore.refusedAs}.
        """
        return self._members("tried", asset)

    # Limits, and what is kept for how long.

    def draw(self, draws: Sequence[Draw]) -> Deferred[list[float]]:
        """
        See L{ISessionStore.draw}.
        """

        def one(part: Sequence[Draw]) -> Deferred[list[float]]:
            values: list[str | float] = []
            for each in part:
                values += [keyName(each.account, each.kind), each.wanted, each.rate, each.least]
            drawn = self._script("draw", fields(values))
            return drawn.addCallback(reading(lambda reply: [float(granted) for granted in lines(reply)]))

        return joined([one(part) for part in chunks(draws)])

    def erase(self, box: BoxKey) -> Deferred[Erased]:
        """
        See L{ISessionStore.erase}.
        """

        def erased(reply: Sequence[int]) -> Erased:
            wasKnown, isConnected, *counts = reply
            return Erased(bool(wasKnown), bool(isConnected), *counts)

        return self._script("erase", boxName(box)).addCallback(reading(erased))

    def purge(self, beforeMs: int, limit: int) -> Deferred[int]:
        """
        See L{ISessionStore.purge}.
        """
        return self._script("purge", beforeMs, limit)

    # Tracks and MQTT.

    def commitMarks(self, marks: Sequence[MarkUpdate]) -> Deferred[None]:
        """
        See L{ISessionStore.commitMarks}.
        """

        def one(part: Sequence[MarkUpdate]) -> Deferred[list[None]]:
            values = [value for box, *numbers in part for value in (boxName(box), *numbers)]
            return self._script("marks", fields(values)).addCallback(lambda _: [])

        return joined([one(part) for part in chunks(marks)]).addCallback(lambda _: None)

    def marks(self, box: BoxKey) -> Deferred[tuple[StreamMark, ...]]:
        """
        See L{ISessionStore.marks}.
        """
        text = self._link.call("HGET", self._key("box", boxName(box)), "marks")
        return text.addCallback(reading(lambda text: marksOf((text or b"").decode("ascii"))))

    def fingerprints(self, box: BoxKey) -> Deferred[bytes]:
        """
        See L{ISessionStore.fingerprints}.
        """
        return self._script("fingerprints", boxName(box))

    def commitFingerprints(self, updates: Sequence[FingerprintUpdate], window: int) -> Deferred[None]:
        """
        See L{ISessionStore.commitFingerprints}.
        """

        def one(part: Sequence[FingerprintUpdate]) -> Deferred[list[None]]:
            values = [value for box, fingerprints in part for value in (boxName(box), fingerprints)]
            return self._script("append", window, *values).addCallback(lambda _: [])

        parts = chunks(updates, lambda update: len(update.fingerprints))
        return joined([one(part) for part in parts]).addCallback(lambda _: None)

    def saveMqtt(self, box: BoxKey, linkEpoch: int, session: MqttSession | None, isListening: bool) -> Deferred[bool]:
        """
        See L{ISessionStore.saveMqtt}.
        """
        return self._script("mqtt", boxName(box), linkEpoch, packMqtt(session), int(isListening)).addCallback(bool)

    # Mailboxes.

    def putMessages(
        self, messages: Sequence[DownlinkMessage], limits: MailboxLimits, nowMs: int
    ) -> Deferred[list[Put]]:
        """
        See L{ISessionStore.putMessages}.
        """
        return self._mailboxes.put(messages, limits, nowMs)

    def takeMessages(self, takes: Sequence[Take], nowMs: int) -> Deferred[list[list[MailboxEntry] | None]]:
        """
        See L{ISessionStore.takeMessages}.
        """
        return self._mailboxes.take(takes, nowMs)

    def progressMessages(self, heard: Sequence[Progress]) -> Deferred[list[MailboxEntry | None]]:
        """
        See L{ISessionStore.progressMessages}.
        """
        return self._mailboxes.progress(heard)

    def removeMessages(self, finished: Sequence[tuple[BoxKey, str]]) -> Deferred[None]:
        """
        See L{ISessionStore.removeMessages}.
        """
        return self._mailboxes.remove(finished)

    def dueMessages(self, nowMs: int, limit: int) -> Deferred[list[MailboxEntry]]:
        """
        See L{ISessionStore.dueMessages}.
        """
        return self._mailboxes.due(nowMs, limit)

    def mailbox(self, box: BoxKey) -> Deferred[list[MailboxEntry]]:
        """
        See L{ISessionStore.mailbox}.
        """
        return self._mailboxes.mailbox(box)

    def mailboxMessages(self) -> Deferred[int]:
        """
        See L{ISessionStore.mailboxMessages}.
        """
        # Each of them is due at some time.
        counted: Deferred[int] = self._link.call("ZCARD", self._key("due"))
        return counted
