"""
What every L{ISessionStore} must do with messages on their way into a mailbox and to the box.
"""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from binaryserver.interfaces import ISessionStore
from binaryserver.model import (
    NO_QUEUE_MS,
    BoxKey,
    Final,
    FinalStatus,
    MailboxEntry,
    MailboxLimits,
    Progress,
    Put,
    Take,
)
from tests.session.contract_base import (
    AWKWARD,
    BOX,
    LIMITS,
    MAX_INT64,
    NOW,
    OTHER,
    ContractBase,
    acked,
    expired,
    idsOf,
    messageFor,
    refused,
)


class PutContractMixin(ContractBase):
    """
    Of messages that are put.
    """

    async def test_order(self) -> None:
        """
        Sequences count from 1 in each box's mailbox, in the order of the messages.
        """
        store = await self.startStore()
        messages = [messageFor("z"), messageFor("b", OTHER), messageFor("a"), messageFor("m")]
        puts = await self.put(store, *messages)
        entries = [MailboxEntry(message, n) for message, n in zip(messages, (1, 1, 2, 3), strict=True)]
        self.assertEqual(puts, [Put(entry, True, "") for entry in entries])
        (put,) = await self.put(store, messageFor("0"))
        self.assertEqual(put, Put(MailboxEntry(messageFor("0"), 4), True, ""))
        self.assertEqual(idsOf(await store.mailbox(BOX)), ["z", "a", "m", "0"])
        self.assertEqual(await store.mailbox(OTHER), [entries[1]])
        self.assertEqual(await store.mailbox(BoxKey("acme", "unknown")), [])
        self.assertEqual(await self.put(store), [])

    async def test_sequenceGoesOn(self) -> None:
        """
        Also once the mailbox was emptied.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1"), messageFor("m2"))
        for name in ("m1", "m2"):
            await store.progressMessages([Progress(BOX, name, NOW)])
        await store.removeMessages([(BOX, "m1"), (BOX, "m2")])
        (put,) = await self.put(store, messageFor("m3"))
        assert put.entry is not None
        self.assertEqual(put.entry.sequence, 3)

    async def test_idempotent(self) -> None:
        """
        A message whose id stands there changes nothing, whatever else it says: it is told how that one stands.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        first, again = await self.put(store, messageFor("m1"), messageFor("m1", payload=b"another"))
        self.assertEqual(again, Put(first.entry, False, "a@1"))
        (taken,) = await self.take(store, epoch, nowMs=NOW + 5)
        (again,) = await self.put(store, messageFor("m1", expiresAt=NOW), nowMs=NOW + 9)
        self.assertEqual(again, Put(taken, False, "a@1"))
        self.assertEqual(taken, MailboxEntry(messageFor("m1"), 1, 1, NOW + 5))
        self.assertEqual(await store.mailbox(BOX), [taken])
        (other,) = await self.put(store, messageFor("m1", OTHER))
        self.assertTrue(other.isNew)

    async def test_finalStands(self) -> None:
        """
        An id whose final status is chosen and not yet published is told with it.
        """
        store = await self.startStore()
        (first,) = await self.put(store, messageFor("m1", expiresAt=NOW))
        (again,) = await self.put(store, messageFor("m1"), nowMs=NOW + 9)
        self.assertEqual(again, Put(first.entry, False, ""))
        assert first.entry is not None
        self.assertEqual(first.entry.final, expired(NOW))

    async def test_finished(self) -> None:
        """
        An id that is finished is remembered: nothing enters, and there is no entry to tell.
        """
        store = await self.startStore()
        await self.listen(store)
        await self.put(store, messageFor("m1"))
        await store.progressMessages([Progress(BOX, "m1", NOW)])
        await store.removeMessages([(BOX, "m1")])
        for _ in range(2):
            self.assertEqual(await self.put(store, messageFor("m1")), [Put(None, False, "a@1")])
        self.assertEqual(await store.mailbox(BOX), [])
        (put,) = await self.put(store, messageFor("m1", OTHER))
        self.assertTrue(put.isNew)

    async def test_expiredOnArrival(self) -> None:
        """
        One whose time is over enters as such, without its payload: also when it could not be queued.
        """
        store = await self.startStore()
        messages = [
            messageFor("now", expiresAt=NOW),
            messageFor("long ago", expiresAt=1, noQueue=True),
            messageFor("soon", expiresAt=NOW + 1),
        ]
        puts = await self.put(store, *messages, limits=MailboxLimits(1, 1000))
        wanted = [
            MailboxEntry(messages[0]._replace(payload=b""), 1, final=expired(NOW)),
            MailboxEntry(messages[1]._replace(payload=b""), 2, final=expired(NOW)),
            MailboxEntry(messages[2], 3),
        ]
        self.assertEqual(puts, [Put(entry, True, "") for entry in wanted])
        self.assertEqual(await store.mailbox(BOX), wanted)

    async def test_rejected(self) -> None:
        """
        What can never be sent enters as rejected, with its reason, whatever else may be said of it.
        """
        store = await self.startStore()
        message = messageFor(expiresAt=NOW - 1, noQueue=True)._replace(rejected="ünï, {BAD}")
        final = Final(FinalStatus.rejected, "ünï, {BAD}", NOW)
        entry = MailboxEntry(message._replace(payload=b""), 1, final=final)
        self.assertEqual(await self.put(store, message, limits=MailboxLimits(0, 0)), [Put(entry, True, "")])
        self.assertEqual(await store.mailbox(BOX), [entry])
        await store.removeMessages([(BOX, message.id)])
        self.assertEqual(await self.put(store, message), [Put(None, False, "")])

    async def assertAway(self, store: ISessionStore, id_: str) -> None:
        """
        A C{noQueue} message is refused, without its payload; another waits.
        """
        message = messageFor(id_, noQueue=True)
        put, queued = await self.put(store, message, messageFor(f"{id_}, queued"))
        assert put.entry is not None and queued.entry is not None
        self.assertEqual(put.entry[0], message._replace(payload=b""))
        self.assertEqual((put.entry.final, put.isNew, put.listener), (refused("BOX_AWAY"), True, ""))
        self.assertEqual((queued.entry.final, queued.isNew, queued.listener), (None, True, ""))

    async def test_boxAway(self) -> None:
        """
        C{noQueue} is refused unless the box's owner is connected, and listens, and lives.
        """
        store = await self.startStore()
        await self.assertAway(store, "nobody knows it")
        await store.leaseWorker("a@1")
        epoch = (await self.claim(store)).linkEpoch
        await self.assertAway(store, "does not listen")
        await store.saveMqtt(BOX, epoch, None, True)
        (put,) = await self.put(store, messageFor("listens", noQueue=True))
        self.assertEqual((put.entry and put.entry.final, put.listener), (None, "a@1"))
        await store.leaseWorker("a@2")
        await self.assertAway(store, "newer incarnation")
        epoch = await self.listen(store, incarnation="a@2")
        await store.release(BOX, epoch, NOW)
        await self.assertAway(store, "is gone")
        await self.listen(store, incarnation="a@2")
        await store.resign("a@2")
        await self.assertAway(store, "has resigned")
        await self.listen(store, incarnation="b@1")
        await self.elapse(0.2)
        (put,) = await self.put(store, messageFor("late, but not dead", noQueue=True))
        self.assertEqual((put.entry and put.entry.final, put.listener), (None, "b@1"))
        await store.bury(50)
        await self.assertAway(store, "declared dead")

    async def test_tooMany(self) -> None:
        """
        No more messages without a final status than the limit: not those that have one.
        """
        store = await self.startStore()
        limits = MailboxLimits(2, 1000)
        puts = await self.put(store, *[messageFor(f"m{n}") for n in range(4)], messageFor("o", OTHER), limits=limits)
        finals = [put.entry.final for put in puts if put.entry is not None]
        self.assertEqual(finals, [None, None, refused("MAILBOX_FULL"), refused("MAILBOX_FULL"), None])
        self.assertEqual(
            [entry.message.payload for entry in await store.mailbox(BOX)], [b"open the door"] * 2 + [b""] * 2
        )
        await store.progressMessages([Progress(BOX, "m1", NOW)])
        puts = await self.put(store, messageFor("m4"), messageFor("m5"), limits=limits)
        finals = [put.entry.final for put in puts if put.entry is not None]
        self.assertEqual(finals, [None, refused("MAILBOX_FULL")])

    async def test_tooLarge(self) -> None:
        """
        No more bytes of payload without a final status than the limit: one that fits enters after one that does not.
        """
        store = await self.startStore()
        sizes = {"a": 60, "b": 41, "c": 40, "d": 1, "e": 0}
        messages = [messageFor(name, payload=b"\x00" * size) for name, size in sizes.items()]
        puts = await self.put(store, *messages, limits=MailboxLimits(100, 100))
        full = {put.entry.message.id: put.entry.final for put in puts if put.entry is not None}
        refusal = refused("MAILBOX_FULL")
        self.assertEqual(full, {"a": None, "b": refusal, "c": None, "d": refusal, "e": None})
        await store.progressMessages([Progress(BOX, "c", NOW, refused("NO_LISTENER"))])
        (put,) = await self.put(store, messageFor("f", payload=b"\x00" * 40), limits=MailboxLimits(100, 100))
        self.assertIsNone(put.entry and put.entry.final)

    async def test_fullForTheLast(self) -> None:
        """
        A box that has acked leaves its message where its application is still to answer: it counts.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1", wantAck=True))
        await store.progressMessages([Progress(BOX, "m1", NOW)])
        (put,) = await self.put(store, messageFor("m2"), limits=MailboxLimits(1, 100))
        self.assertEqual(put.entry and put.entry.final, refused("MAILBOX_FULL"))

    async def test_anyValue(self) -> None:
        """
        What a message holds comes back as it was: any text, any bytes, 64 bits.
        """
        store = await self.startStore()
        payloads = [b"", bytes(range(256)), "ünï".encode(), b"\xff\x00\xfe"]
        messages = [
            messageFor(id_, payload=payloads[n % 4], expiresAt=MAX_INT64 - n, queuedAt=2**62 + n, wantAck=bool(n % 2))
            for n, id_ in enumerate(AWKWARD)
        ]
        messages = [message._replace(correlationId=message.id, channel="a.b_c-D9") for message in messages]
        puts = await self.put(store, *messages)
        self.assertEqual([put.entry and put.entry.message for put in puts], messages)
        epoch = await self.listen(store)
        self.assertEqual([entry.message for entry in await self.take(store, epoch)], messages)
        for n, id_ in enumerate(AWKWARD):
            final = Final(FinalStatus.refused, id_, 2**62 + n)
            (entry,) = await store.progressMessages([Progress(BOX, id_, 2**61, final)])
            self.assertEqual(entry and entry.final, final)
        self.assertEqual([entry.message.id for entry in await store.mailbox(BOX)], list(AWKWARD))
        await store.removeMessages([(BOX, id_) for id_ in AWKWARD])
        self.assertEqual(await self.put(store, *messages), [Put(None, False, "a@1")] * len(messages))

    async def test_manyBoxes(self) -> None:
        """
        One call puts for many boxes, and each other call takes them all.
        """
        store = await self.startStore()
        boxes = [BoxKey("acme", str(number)) for number in range(100)]
        await store.leaseWorker("a@1")
        epochs = [(await self.claim(store, box)).linkEpoch for box in boxes]
        puts = await self.put(store, *[messageFor(f"m{n}", box) for n in range(3) for box in boxes])
        self.assertEqual([put.entry and put.entry.sequence for put in puts], [1] * 100 + [2] * 100 + [3] * 100)
        takes = [Take(box, epoch, 1, 1) for box, epoch in zip(boxes, epochs, strict=True)]
        self.assertEqual([idsOf(one) for one in await store.takeMessages(takes, NOW)], [["m1"]] * 100)
        heard = await store.progressMessages([Progress(box, "m1", NOW) for box in boxes])
        self.assertEqual([entry and entry.final for entry in heard], [acked()] * 100)
        await store.removeMessages([(box, "m1") for box in boxes])
        self.assertEqual([idsOf(await store.mailbox(box)) for box in boxes[::33]], [["m0", "m2"]] * 4)

    async def test_manyPutAtOnce(self) -> None:
        """
        The same messages, from many: each enters once, and the sequences have no hole.
        """
        store = await self.startStore()
        messages = [messageFor(f"m{n}") for n in range(10)]
        answers = await gatherResults([store.putMessages(messages, LIMITS, NOW) for _ in range(10)])
        self.assertEqual(sum(put.isNew for puts in answers for put in puts), 10)
        self.assertEqual([entry.sequence for entry in await store.mailbox(BOX)], list(range(1, 11)))


class TakeContractMixin(ContractBase):
    """
    Of messages that are taken.
    """

    async def takeIds(
        self, store: ISessionStore, epoch: int, after: int = 0, limit: int = 100, nowMs: int = NOW
    ) -> list[str]:
        """
        The ids of what is given.
        """
        return idsOf(await self.take(store, epoch, after, limit, nowMs))

    async def test_inOrder(self) -> None:
        """
        Behind the last one, no more than the limit.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        await self.put(store, *[messageFor(name) for name in "edcba"])
        self.assertEqual(await self.takeIds(store, epoch, limit=2), ["e", "d"])
        self.assertEqual(await self.takeIds(store, epoch, after=2, limit=2), ["c", "b"])
        self.assertEqual(await self.takeIds(store, epoch, after=4, limit=2), ["a"])
        self.assertEqual(await self.takeIds(store, epoch, after=5), [])
        self.assertEqual(await self.takeIds(store, epoch), list("edcba"))
        self.assertEqual(await store.takeMessages([], NOW), [])

    async def test_attempts(self) -> None:
        """
        Each time that one is given is counted and timed; what is not given is not.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        await self.put(store, messageFor("m1"), messageFor("m2"))
        (first,) = await self.take(store, epoch, limit=1, nowMs=NOW + 1)
        self.assertEqual(first, MailboxEntry(messageFor("m1"), 1, 1, NOW + 1))
        again, second = await self.take(store, epoch, limit=2, nowMs=NOW + 7)
        self.assertEqual(
            [again, second], [first._replace(attempts=2, sentAt=NOW + 7), MailboxEntry(messageFor("m2"), 2, 1, NOW + 7)]
        )
        self.assertEqual(await store.mailbox(BOX), [again, second])

    async def test_fence(self) -> None:
        """
        A link that is not the box's latest is given nothing, and nothing is noted; the latest is, released or not.
        """
        store = await self.startStore()
        old = await self.listen(store)
        await self.put(store, messageFor("m1"), messageFor("o1", OTHER))
        new = await self.listen(store)
        takes = [Take(BOX, old, 0, 10), Take(OTHER, new, 0, 10), Take(BOX, new + 1, 0, 10), Take(BOX, new, 5, 10)]
        self.assertEqual(await store.takeMessages(takes, NOW), [None, None, None, []])
        self.assertEqual(await store.mailbox(BOX), [MailboxEntry(messageFor("m1"), 1)])
        await store.release(BOX, new, NOW)
        self.assertEqual(await self.takeIds(store, new), ["m1"])

    async def test_leftOut(self) -> None:
        """
        What the box has acked, what has its final status, and what is over; the latter is not noted as attempted.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        messages = [messageFor(name, wantAck=True) for name in ("delivered", "answered", "fresh")]
        await self.put(store, *messages, messageFor("over", expiresAt=NOW + 100), messageFor("late", expiresAt=NOW))
        await store.progressMessages([Progress(BOX, "delivered", NOW), Progress(BOX, "answered", NOW, acked())])
        self.assertEqual(await self.takeIds(store, epoch, nowMs=NOW + 100), ["fresh"])
        self.assertEqual(await self.takeIds(store, epoch, limit=1, nowMs=NOW + 99), ["fresh"])
        self.assertEqual(await self.takeIds(store, epoch, limit=2, nowMs=NOW + 99), ["fresh", "over"])
        attempts = {entry.message.id: entry.attempts for entry in await store.mailbox(BOX)}
        self.assertEqual(attempts, {"delivered": 0, "answered": 0, "fresh": 3, "over": 1, "late": 0})

    async def test_noQueueInTime(self) -> None:
        """
        One that may not wait is given over the link that it was put for, not more than L{NO_QUEUE_MS} after that.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        await self.put(store, messageFor("may not wait", noQueue=True), messageFor("waits"))
        late = NOW + NO_QUEUE_MS + 1
        self.assertEqual(await self.takeIds(store, epoch, limit=1, nowMs=late), ["waits"])
        self.assertEqual(await self.takeIds(store, epoch, limit=1, nowMs=late - 1), ["may not wait"])
        self.assertEqual(await self.takeIds(store, epoch, nowMs=late + 10_000), ["may not wait", "waits"])

    async def test_noQueueOtherLink(self) -> None:
        """
        It is not given over a later link, unless it was attempted before.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        await self.put(store, messageFor("attempted", noQueue=True), messageFor("lost", noQueue=True))
        self.assertEqual(await self.takeIds(store, epoch, limit=1), ["attempted"])
        epoch = await self.listen(store)
        await self.put(store, messageFor("new", noQueue=True))
        self.assertEqual(await self.takeIds(store, epoch), ["attempted", "new"])

    async def test_severalTakes(self) -> None:
        """
        Of one box in one call, one after the other.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        await self.put(store, messageFor("m1"), messageFor("m2"))
        first, second = await store.takeMessages([Take(BOX, epoch, 0, 10), Take(BOX, epoch, 1, 10)], NOW)
        self.assertEqual([entry.attempts for entry in first or []], [1, 1])
        self.assertEqual([entry.attempts for entry in second or []], [2])
