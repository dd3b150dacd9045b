"""
What every L{ISessionStore} must do with what is heard of messages, and with their final statuses.
"""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from binaryserver.interfaces import ISessionStore
from binaryserver.model import (
    NO_QUEUE_MS,
    REMEMBERED_MS,
    RETRY_MS,
    BoxKey,
    Final,
    FinalStatus,
    MailboxEntry,
    Progress,
    Put,
    Take,
)
from tests.session.contract_base import (
    BOX,
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

LATER = NOW + 1000


class ProgressContractMixin(ContractBase):
    """
    Of what is heard of messages.
    """

    async def hear(self, store: ISessionStore, id_: str, at: int, final: Final | None = None) -> MailboxEntry | None:
        """
        Of one message.
        """
        (entry,) = await store.progressMessages([Progress(BOX, id_, at, final)])
        return entry

    async def test_ackIsFinal(self) -> None:
        """
        Where its application need not answer; told once.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1"))
        wanted = MailboxEntry(messageFor("m1"), 1, 0, 0, LATER, acked(LATER))
        self.assertEqual(await self.hear(store, "m1", LATER), wanted)
        self.assertIsNone(await self.hear(store, "m1", LATER + 1))
        self.assertIsNone(await self.hear(store, "m1", LATER + 1, refused("NO_LISTENER")))
        self.assertEqual(await store.mailbox(BOX), [wanted])

    async def test_wantAck(self) -> None:
        """
        The box has it, which is told once; its application's answer is final, which is told once.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1", wantAck=True))
        delivered = MailboxEntry(messageFor("m1", wantAck=True), 1, 0, 0, LATER)
        self.assertEqual(await self.hear(store, "m1", LATER), delivered)
        self.assertIsNone(await self.hear(store, "m1", LATER + 1))
        self.assertEqual(await store.mailbox(BOX), [delivered])
        final = refused("NO_LISTENER", LATER + 2)
        wanted = delivered._replace(final=final)
        self.assertEqual(await self.hear(store, "m1", LATER + 9, final), wanted)
        self.assertIsNone(await self.hear(store, "m1", LATER + 9, final))
        self.assertEqual(await store.mailbox(BOX), [wanted])

    async def test_answerBeforeAck(self) -> None:
        """
        An application may answer before its box acks: the answer stands, and the ack is told no more.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1", wantAck=True))
        wanted = MailboxEntry(messageFor("m1", wantAck=True), 1, final=acked(LATER))
        self.assertEqual(await self.hear(store, "m1", LATER, acked(LATER)), wanted)
        self.assertIsNone(await self.hear(store, "m1", LATER + 1))
        self.assertEqual((await store.mailbox(BOX))[0].final, acked(LATER))

    async def test_everyFinal(self) -> None:
        """
        Each status may be chosen, with a reason and without.
        """
        store = await self.startStore()
        finals = [Final(status, reason, LATER) for status in FinalStatus for reason in ("", "NOT_UNDERSTOOD")]
        await self.put(store, *[messageFor(f"m{n}") for n in range(len(finals))])
        heard = [Progress(BOX, f"m{n}", LATER, final) for n, final in enumerate(finals)]
        self.assertEqual([entry and entry.final for entry in await store.progressMessages(heard)], finals)

    async def test_firstWins(self) -> None:
        """
        Of many that choose at once one does, and that one stands.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1"))
        finals = [refused(f"R{n}", NOW + n) for n in range(20)]
        calls = [store.progressMessages([Progress(BOX, "m1", NOW, final)]) for final in finals]
        chosen = [entry.final for (entry,) in await gatherResults(calls) if entry is not None]
        self.assertEqual(len(chosen), 1)
        self.assertEqual([entry.final for entry in await store.mailbox(BOX)], chosen)
        both = await store.progressMessages([Progress(BOX, "m1", NOW, acked()), Progress(BOX, "m1", NOW)])
        self.assertEqual(both, [None, None])

    async def test_boundToAnAttempt(self) -> None:
        """
        What was heard of one attempt is nothing once there was another.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        await self.put(store, messageFor("m1"))
        for attempts in (1, 2):
            await store.takeMessages([Take(BOX, epoch, 0, 1)], NOW)
            other = [Progress(BOX, "m1", NOW, refused("BOX_AWAY"), 3 - attempts), Progress(BOX, "m1", NOW, None, 7)]
            self.assertEqual(await store.progressMessages(other), [None, None])
        (entry,) = await store.progressMessages([Progress(BOX, "m1", NOW, refused("BOX_AWAY"), 2)])
        assert entry is not None
        self.assertEqual(entry.final, refused("BOX_AWAY"))

    async def test_nothingThere(self) -> None:
        """
        Of what is unknown or finished nothing changes.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1"))
        await store.progressMessages([Progress(BOX, "m1", NOW)])
        await store.removeMessages([(BOX, "m1")])
        heard = [Progress(BOX, "m1", NOW), Progress(BOX, "m1", NOW, acked()), Progress(OTHER, "m1", NOW, acked())]
        self.assertEqual(await store.progressMessages(heard), [None, None, None])
        self.assertEqual(await store.progressMessages([]), [])
        self.assertEqual((await store.mailbox(BOX), await store.mailbox(OTHER)), ([], []))

    async def test_oneCallInOrder(self) -> None:
        """
        Ack and answer of one message may come in one call.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1", wantAck=True), messageFor("m2"))
        heard = [Progress(BOX, "m1", LATER), Progress(BOX, "m2", LATER), Progress(BOX, "m1", LATER, acked(LATER))]
        first, second, third = await store.progressMessages(heard)
        assert first is not None and second is not None and third is not None
        self.assertEqual((first.final, first.deliveredAt), (None, LATER))
        self.assertEqual(third, first._replace(final=acked(LATER)))
        self.assertEqual(second.final, acked(LATER))


class RemoveContractMixin(ContractBase):
    """
    Of what is done with.
    """

    async def test_onlyWithAFinal(self) -> None:
        """
        What has none stays, and what is unknown is no matter.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1"), messageFor("m2"), messageFor("m2", OTHER))
        await store.progressMessages([Progress(BOX, "m2", NOW)])
        for _ in range(2):
            await store.removeMessages([(BOX, "m1"), (BOX, "m2"), (OTHER, "m2"), (OTHER, "m9")])
        await store.removeMessages([])
        self.assertEqual(idsOf(await store.mailbox(BOX)), ["m1"])
        self.assertEqual(idsOf(await store.mailbox(OTHER)), ["m2"])
        self.assertTrue((await self.put(store, messageFor("m9", OTHER)))[0].isNew)

    async def test_counted(self) -> None:
        """
        Over all boxes: what stands in a mailbox counts until it is removed, whether its final status is chosen or not.
        """
        store = await self.startStore()
        before = await store.mailboxMessages()
        await self.put(store, messageFor("m1"), messageFor("m2"), messageFor("m2", OTHER), messageFor("m1"))
        self.assertEqual(await store.mailboxMessages(), before + 3)
        await store.progressMessages([Progress(BOX, "m2", NOW)])
        self.assertEqual(await store.mailboxMessages(), before + 3)
        await store.removeMessages([(BOX, "m2")])
        self.assertEqual(await store.mailboxMessages(), before + 2)

    async def test_rememberedUntil(self) -> None:
        """
        A finished id is known until its expiry and L{REMEMBERED_MS} more; then it is as any other.
        """
        store = await self.startStore()
        until = NOW + 60_000 + REMEMBERED_MS
        await self.put(store, messageFor("m1"))
        await store.progressMessages([Progress(BOX, "m1", NOW)])
        await store.removeMessages([(BOX, "m1")])
        again = messageFor("m1", expiresAt=until + 60_000, queuedAt=until)
        for nowMs in (NOW, until - 1):
            self.assertEqual(await store.dueMessages(nowMs, 10), [])
            self.assertEqual(await self.put(store, again, nowMs=nowMs), [Put(None, False, "")])
        self.assertEqual(await self.put(store, again, nowMs=until + 1), [Put(MailboxEntry(again, 2), True, "")])
        await store.progressMessages([Progress(BOX, "m1", until + 2)])
        await store.removeMessages([(BOX, "m1")])
        self.assertEqual(await store.dueMessages(until + 3, 10), [])
        self.assertEqual(await self.put(store, again, nowMs=until + 3), [Put(None, False, "")])

    async def test_forgottenBySweep(self) -> None:
        """
        What sweeps pass by after that time is forgotten, and nothing else.
        """
        store = await self.startStore()
        finals = {"early": NOW + 10, "late": NOW + 20, "never": MAX_INT64}
        await self.put(store, *[messageFor(name, expiresAt=expiresAt) for name, expiresAt in finals.items()])
        await store.progressMessages([Progress(BOX, name, NOW) for name in finals])
        await store.removeMessages([(BOX, name) for name in finals])
        nowMs = NOW + 15 + REMEMBERED_MS
        self.assertEqual(await store.dueMessages(nowMs, 10), [])
        puts = await self.put(store, *[messageFor(name, expiresAt=nowMs + 60_000) for name in finals], nowMs=nowMs)
        self.assertEqual([put.isNew for put in puts], [True, False, False])


class DueContractMixin(ContractBase):
    """
    Of what nobody has looked after.
    """

    async def due(self, store: ISessionStore, nowMs: int, limit: int = 100) -> dict[str, Final | None]:
        """
        The final statuses of what is given, by id.
        """
        entries = await store.dueMessages(nowMs, limit)
        finals = {entry.message.id: entry.final for entry in entries}
        self.assertEqual(len(finals), len(entries))
        return finals

    async def test_expired(self) -> None:
        """
        What is over gets its final status, whether it was sent, or delivered, or not; the sooner is not left behind.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        names = ("waits", "sent", "delivered")
        await self.put(store, *[messageFor(name, wantAck=True, expiresAt=NOW + 500) for name in names])
        await self.put(store, messageFor("later", OTHER), messageFor("sooner", OTHER, expiresAt=NOW + 1))
        await store.takeMessages([Take(BOX, epoch, 1, 10)], NOW)
        await store.progressMessages([Progress(BOX, "delivered", NOW)])
        self.assertEqual(await self.due(store, NOW), {})
        self.assertEqual(await self.due(store, NOW + 499), {"sooner": expired(NOW + 499)})
        self.assertEqual(await self.due(store, NOW + 500), dict.fromkeys(names, expired(NOW + 500)))
        entries = await store.mailbox(BOX)
        self.assertEqual([entry.final for entry in entries], [expired(NOW + 500)] * 3)
        self.assertEqual([entry.attempts for entry in entries], [0, 1, 1])
        self.assertEqual(
            await store.progressMessages([Progress(BOX, name, NOW, acked()) for name in names]), [None] * 3
        )
        self.assertEqual(await store.takeMessages([Take(BOX, epoch, 0, 10)], NOW), [[]])
        self.assertEqual([entry.final for entry in await store.mailbox(OTHER)], [None, expired(NOW + 499)])

    async def test_whole(self) -> None:
        """
        An entry is given as it stands, box and all.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1", OTHER, wantAck=True))
        await store.progressMessages([Progress(OTHER, "m1", LATER)])
        nowMs = NOW + 60_000
        wanted = MailboxEntry(messageFor("m1", OTHER, wantAck=True), 1, 0, 0, LATER, expired(nowMs))
        self.assertEqual(await store.dueMessages(nowMs, 10), [wanted])
        self.assertEqual(await store.mailbox(OTHER), [wanted])

    async def test_noQueueLate(self) -> None:
        """
        What may not wait is refused once it has waited for L{NO_QUEUE_MS}; what was attempted by then is not.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        await self.put(
            store, messageFor("attempted", noQueue=True), messageFor("left", noQueue=True), messageFor("waits")
        )
        await self.put(store, messageFor("over", noQueue=True, expiresAt=NOW + 10))
        await store.takeMessages([Take(BOX, epoch, 0, 1)], NOW)
        self.assertEqual(await self.due(store, NOW + 10), {"over": expired(NOW + 10)})
        self.assertEqual(await self.due(store, NOW + NO_QUEUE_MS - 1), {})
        late = NOW + NO_QUEUE_MS
        self.assertEqual(await self.due(store, late), {"left": refused("BOX_AWAY", late)})
        self.assertEqual(await store.takeMessages([Take(BOX, epoch, 1, 1)], NOW), [[(await store.mailbox(BOX))[2]]])
        rest = {"attempted", "waits"}
        await store.removeMessages([(BOX, "left"), (BOX, "over")])
        self.assertEqual(await self.due(store, NOW + 60_000), dict.fromkeys(rest, expired(NOW + 60_000)))

    async def test_notPublished(self) -> None:
        """
        A final status that was chosen, and whose entry is still there after L{RETRY_MS}: the same, every time, until
        the entry goes.
        """
        store = await self.startStore()
        await self.put(store, messageFor("acked"), messageFor("answered"), messageFor("late", expiresAt=NOW))
        await store.progressMessages([Progress(BOX, "acked", LATER)])
        await store.progressMessages([Progress(BOX, "answered", NOW, refused("NO_LISTENER", LATER))])
        finals = {"acked": acked(LATER), "answered": refused("NO_LISTENER", LATER)}
        self.assertEqual(await self.due(store, NOW + RETRY_MS - 1), {})
        self.assertEqual(await self.due(store, LATER + RETRY_MS - 1), {"late": expired(NOW)})
        self.assertEqual(await self.due(store, LATER + RETRY_MS), finals)
        self.assertEqual(await self.due(store, LATER + 2 * RETRY_MS - 2), {})
        self.assertEqual(await self.due(store, LATER + 2 * RETRY_MS), {**finals, "late": expired(NOW)})
        await store.removeMessages([(BOX, "acked"), (BOX, "late")])
        finals.pop("acked")
        self.assertEqual(await self.due(store, LATER + 9 * RETRY_MS), finals)
        await store.removeMessages([(BOX, "answered")])
        self.assertEqual(await self.due(store, LATER + 99 * RETRY_MS), {})

    async def test_expiredIsGivenAgain(self) -> None:
        """
        Who was given what expired has L{RETRY_MS} to publish it; then another is given it, with the time it first had.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1", expiresAt=LATER))
        first = await store.dueMessages(LATER + 7, 10)
        self.assertEqual(await store.dueMessages(LATER + 6 + RETRY_MS, 10), [])
        self.assertEqual(await store.dueMessages(LATER + 7 + RETRY_MS, 10), first)
        self.assertEqual(first[0].final, expired(LATER + 7))

    async def test_dueLimit(self) -> None:
        """
        No more than that; the next call goes on.
        """
        store = await self.startStore()
        boxes = [BoxKey("acme", str(number)) for number in range(5)]
        await self.put(store, *[messageFor("m1", box, expiresAt=LATER + n) for n, box in enumerate(boxes)])
        given: list[BoxKey] = []
        for wanted in (2, 2, 1, 0):
            entries = await store.dueMessages(LATER + 100, 2)
            self.assertEqual(len(entries), wanted)
            given += [entry.message.box for entry in entries]
        self.assertEqual(sorted(given), boxes)

    async def test_givenOnce(self) -> None:
        """
        However many ask at once.
        """
        store = await self.startStore()
        boxes = [BoxKey("acme", str(number)) for number in range(30)]
        await self.put(store, *[messageFor("m1", box, expiresAt=LATER) for box in boxes])
        answers = await gatherResults([store.dueMessages(LATER + n, 4) for n in range(12)])
        self.assertEqual(sorted(entry.message.box for entries in answers for entry in entries), sorted(boxes))


class CrashContractMixin(ContractBase):
    """
    Of the steps between mailbox, status and removal: what is found by whoever comes after a crash.
    """

    async def test_putAndNotCommitted(self) -> None:
        """
        A record that is consumed again finds its message there, as far as it has come.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1", wantAck=True))
        await store.progressMessages([Progress(BOX, "m1", NOW)])
        (put,) = await self.put(store, messageFor("m1", wantAck=True, queuedAt=LATER), nowMs=LATER)
        self.assertEqual(put, Put(MailboxEntry(messageFor("m1", wantAck=True), 1, 0, 0, NOW), False, ""))
        self.assertEqual(len(await store.mailbox(BOX)), 1)

    async def test_chosenAndNotPublished(self) -> None:
        """
        Who comes later is given it with the status that was chosen; published and removed, it is done with.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1"))
        (chosen,) = await store.progressMessages([Progress(BOX, "m1", NOW)])
        self.assertEqual(await store.dueMessages(NOW + RETRY_MS, 10), [chosen])
        await store.removeMessages([(BOX, "m1")])
        self.assertEqual(await store.dueMessages(MAX_INT64 // 2, 10), [])

    async def test_publishedAndNotRemoved(self) -> None:
        """
        It is given again with the same status, whatever was heard meanwhile.
        """
        store = await self.startStore()
        await self.put(store, messageFor("m1", wantAck=True, expiresAt=LATER))
        (first,) = await store.dueMessages(LATER, 10)
        self.assertEqual(await store.progressMessages([Progress(BOX, "m1", LATER + 1, acked(LATER + 1))]), [None])
        (again,) = await store.dueMessages(LATER + RETRY_MS, 10)
        self.assertEqual((again.message.id, again.final), ("m1", first.final))
        await store.removeMessages([(BOX, "m1")])
        await store.removeMessages([(BOX, "m1")])
        self.assertEqual(await store.mailbox(BOX), [])

    async def test_putAgainAfterRemoval(self) -> None:
        """
        Whatever its final status was, a record that comes again is no message any more.
        """
        store = await self.startStore()
        messages = [
            messageFor("acked"),
            messageFor("expired", expiresAt=NOW),
            messageFor("away", noQueue=True),
        ]
        await self.put(store, *messages)
        await store.progressMessages([Progress(BOX, "acked", NOW)])
        await store.removeMessages([(BOX, message.id) for message in messages])
        self.assertEqual(await self.put(store, *messages, nowMs=LATER), [Put(None, False, "")] * 3)
        self.assertEqual(await store.dueMessages(NOW + 10 * RETRY_MS, 10), [])
        self.assertEqual(await store.mailbox(BOX), [])
