"""
What every L{ISessionStore} must tell operators of boxes.
"""

from __future__ import annotations

from binaryserver.interfaces import ISessionStore
from binaryserver.model import (
    EPOCH_2010_MS,
    BoxKey,
    Erased,
    FingerprintUpdate,
    LinkState,
    MarkUpdate,
    MqttSession,
    Owner,
    Progress,
    StreamMark,
)
from binaryserver.session.boxrecords import (
    KEPT_EVENTS,
    MOST_STRANGERS,
    BoxEvent,
    BoxQuery,
    BoxRecord,
    BoxSummary,
    EventKind,
    MailboxSummary,
    RefusalNote,
    remembered,
)
from tests.session.contract_base import AWKWARD, BOX, NOW, OTHER, ContractBase, messageFor
from tests.session.contract_fingerprints import packed

EPOCH = NOW - EPOCH_2010_MS
REFUSED = BoxEvent(EventKind.refused, NOW, "AUTH_FAILED_ASSET", "wrong secret", "md30", "192.0.2.9", "a", 0, 1, NOW)
GONE = BoxEvent(EventKind.disconnected, NOW + 5, "SOCKET_CLOSED", "", "md30", "192.0.2.1", "a", EPOCH, since=NOW + 5)


class ListContractMixin(ContractBase):
    """
    Of the list of boxes.
    """

    async def listed(
        self, store: ISessionStore, query: BoxQuery, after: BoxKey | None = None, limit: int = 3
    ) -> list[str]:
        """
        All of them, page by page.
        """
        found: list[str] = []
        while True:
            page = await store.listBoxes(query, after, limit)
            self.assertLessEqual(len(page.boxes), limit)
            found += ["/".join(one.box) for one in page.boxes]
            if page.after is None:
                return found
            self.assertTrue(after is None or page.after > after)
            after = page.after

    async def test_order(self) -> None:
        """
        By account and then asset, however the pages are cut; a name that begins like another's stands behind it.
        """
        store = await self.startStore()
        names = ["a-b/1", "a/10", "a/2", "a/1", "a.b/1", "B/1", "a/1-", "a/1.", "aa/0", "a/1_"]
        for name in names:
            await self.claim(store, BoxKey(*name.split("/")))
        everybody = ["B/1", "a/1", "a/1-", "a/1.", "a/10", "a/1_", "a/2", "a-b/1", "a.b/1", "aa/0"]
        for limit in (1, 2, 3, 10, 11):
            self.assertEqual(await self.listed(store, BoxQuery(), limit=limit), everybody)
        for place, name in enumerate(everybody):
            after = BoxKey(*name.split("/"))
            self.assertEqual(await self.listed(store, BoxQuery(), after), everybody[place + 1 :])
        self.assertEqual(await self.listed(store, BoxQuery(), BoxKey("a", "11")), everybody[5:])
        self.assertEqual(await self.listed(store, BoxQuery(), BoxKey("b", "")), [])

    async def test_filters(self) -> None:
        """
        By account, by how the asset begins, and by whether it is connected, alone and together.
        """
        store = await self.startStore()
        for account in ("acme", "acme-2", "zeta"):
            for asset in ("1", "10", "11", "2", "20"):
                claim = await self.claim(store, BoxKey(account, asset))
                if asset.endswith("0"):
                    await store.release(BoxKey(account, asset), claim.linkEpoch, NOW)
        for query, expected in (
            (BoxQuery("acme"), "acme/1 acme/10 acme/11 acme/2 acme/20"),
            (BoxQuery("acme", "1"), "acme/1 acme/10 acme/11"),
            (BoxQuery("acme", "1", True), "acme/1 acme/11"),
            (BoxQuery("acme", "10", True), ""),
            (BoxQuery("acme", isConnected=False), "acme/10 acme/20"),
            (BoxQuery("", "2"), "acme/2 acme/20 acme-2/2 acme-2/20 zeta/2 zeta/20"),
            (BoxQuery(isConnected=False), "acme/10 acme/20 acme-2/10 acme-2/20 zeta/10 zeta/20"),
            (BoxQuery("acm"), ""),
            (BoxQuery("zeta", "3"), ""),
        ):
            for limit in (1, 2, 100):
                self.assertEqual(await self.listed(store, query, limit=limit), expected.split(), query)
        self.assertEqual(await self.listed(store, BoxQuery("acme", "1"), BoxKey("acme", "10")), ["acme/11"])
        self.assertEqual(await self.listed(store, BoxQuery("acme", "2"), BoxKey("acme", "10")), ["acme/2", "acme/20"])
        self.assertEqual(await self.listed(store, BoxQuery("acme"), BoxKey("zeta", "1")), [])
        self.assertEqual(len(await self.listed(store, BoxQuery("acme"), BoxKey("aaa", "1"))), 5)

    async def test_bounded(self) -> None:
        """
        A call looks at no more boxes than its limit, also where none of them is asked for.
        """
        store = await self.startStore()
        for number in range(10):
            claim = await self.claim(store, BoxKey("acme", str(number)))
            await store.release(BoxKey("acme", str(number)), claim.linkEpoch, NOW)
        page = await store.listBoxes(BoxQuery(isConnected=True), None, 4)
        self.assertEqual((page.boxes, page.after), ((), BoxKey("acme", "3")))

    async def test_summary(self) -> None:
        """
        Who holds it, by which protocol, from where, since when, and whether it listens.
        """
        store = await self.startStore()
        await store.leaseWorker("a@1")
        claim = await self.claim(store)
        await store.saveMqtt(BOX, claim.linkEpoch, None, True)
        summary = BoxSummary(BOX, Owner("a@1", EPOCH, True, NOW), "md30", "192.0.2.1", NOW, True)
        self.assertEqual((await store.listBoxes(BoxQuery(), None, 9)).boxes, (summary,))
        await store.release(BOX, claim.linkEpoch, NOW + 7)
        gone = summary._replace(owner=Owner("a@1", EPOCH, False, NOW + 7), isListening=False)
        self.assertEqual((await store.listBoxes(BoxQuery(), None, 9)).boxes, (gone,))

    async def test_onlyWhatCame(self) -> None:
        """
        What is kept of a box that never came lists it as little as its erasure does; one that is restored is listed.
        """
        store = await self.startStore()
        await store.commitMarks([MarkUpdate(OTHER, 7, 10, 100)])
        await store.noteRefusals([RefusalNote(BoxKey("acme", "refused"), REFUSED, True)])
        claim = await self.claim(store)
        self.assertEqual(await self.listed(store, BoxQuery()), ["acme/box-1"])
        await store.release(BOX, claim.linkEpoch, NOW)
        await store.erase(BOX)
        self.assertEqual(await self.listed(store, BoxQuery()), [])
        await store.restore("a@1", [LinkState(BOX, EPOCH + 1, "md30", "192.0.2.1", NOW, (), None, False)])
        self.assertEqual(await self.listed(store, BoxQuery()), ["acme/box-1"])
        await store.release(BOX, EPOCH + 1, NOW)
        self.assertEqual(await store.purge(NOW + 1, 10), 1)
        self.assertEqual(await self.listed(store, BoxQuery()), [])

    async def test_awkwardNames(self) -> None:
        """
        Whatever a name has in it, the list comes to its end, with all of them.
        """
        store = await self.startStore()
        boxes = [BoxKey(text, other) for text in AWKWARD for other in ("1", text)]
        for box in boxes:
            await self.claim(store, box)
        found: list[BoxKey] = []
        after = None
        for _ in boxes:
            page = await store.listBoxes(BoxQuery(), after, 4)
            found += [one.box for one in page.boxes]
            after = page.after
            if after is None:
                break
        self.assertEqual(sorted(found), sorted(boxes))

    async def test_links(self) -> None:
        """
        Those that are connected count, by their account.
        """
        store = await self.startStore()
        claim = await self.claim(store)
        await self.claim(store, OTHER)
        await self.claim(store, BoxKey("zeta", "1"))
        self.assertEqual([await store.links(one) for one in ("acme", "zeta", "nobody")], [2, 1, 0])
        await store.release(BOX, claim.linkEpoch, NOW)
        self.assertEqual(await store.links("acme"), 1)


class RecordContractMixin(ContractBase):
    """
    Of one box.
    """

    async def record(self, store: ISessionStore, box: BoxKey = BOX) -> BoxRecord:
        """
        One that there is.
        """
        record = await store.boxRecord(box)
        assert record is not None
        return record

    async def test_nothing(self) -> None:
        """
        Of a box that nobody knows, or that was erased, there is none.
        """
        store = await self.startStore()
        self.assertIsNone(await store.boxRecord(BOX))
        claim = await self.claim(store)
        await store.release(BOX, claim.linkEpoch, NOW, GONE)
        await store.erase(BOX)
        self.assertIsNone(await store.boxRecord(BOX))

    async def test_whole(self) -> None:
        """
        Everything of a box that is connected.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        session = MqttSession((("d", 1),), (7,))
        await store.saveMqtt(BOX, epoch, session, True)
        await store.commitMarks([MarkUpdate(BOX, 2**64 - 1, 2**64 - 1, 100)])
        await store.commitFingerprints([FingerprintUpdate(BOX, packed([1, 2, 3]))], 1024)
        messages = [messageFor(f"m{n}", payload=b"x" * n, queuedAt=NOW + n, wantAck=True) for n in range(1, 5)]
        await self.put(store, *messages)
        await store.progressMessages([Progress(BOX, "m1", NOW)])
        record = await self.record(store)
        self.assertEqual(
            record,
            BoxRecord(
                BoxSummary(BOX, Owner("a@1", epoch, True, NOW), "md30", "192.0.2.1", NOW, True),
                True,
                (StreamMark(2**64 - 1, 2**64 - 1, 100),),
                session,
                3,
                MailboxSummary(4, 10, NOW + 2),
                (),
            ),
        )
        await store.leaseWorker("a@2")
        self.assertFalse((await self.record(store)).isOwnerAlive)

    async def test_neverCame(self) -> None:
        """
        What is kept of a box that has no owner: marks, messages, or refusals alone.
        """
        store = await self.startStore()
        await store.commitMarks([MarkUpdate(BOX, 7, 1, 2)])
        await self.put(store, messageFor(box=OTHER))
        nothing = BoxRecord(None, False, (), None, 0, MailboxSummary(), ())
        self.assertEqual(await self.record(store), nothing._replace(marks=(StreamMark(7, 1, 2),)))
        self.assertEqual(await self.record(store, OTHER), nothing._replace(mailbox=MailboxSummary(1, 13, NOW)))
        third = BoxKey("acme", "third")
        await store.noteRefusals([RefusalNote(third, REFUSED, False)])
        self.assertEqual(await self.record(store, third), nothing._replace(events=(REFUSED,)))

    async def test_finalsDoNotWait(self) -> None:
        """
        A message with a final status is none that waits.
        """
        store = await self.startStore()
        await self.put(store, messageFor(expiresAt=NOW))
        self.assertEqual((await self.record(store)).mailbox, MailboxSummary())


class EventContractMixin(RecordContractMixin):
    """
    Of what is remembered of a box.
    """

    async def events(self, store: ISessionStore, box: BoxKey = BOX) -> tuple[BoxEvent, ...]:
        """
        Those of a box; none, if nothing is kept of it.
        """
        record = await store.boxRecord(box)
        return () if record is None else record.events

    async def test_release(self) -> None:
        """
        The end of its latest link is remembered, that of an earlier one is not.
        """
        store = await self.startStore()
        claim = await self.claim(store)
        self.assertFalse(await store.release(BOX, claim.linkEpoch - 1, NOW, REFUSED))
        self.assertTrue(await store.release(BOX, claim.linkEpoch, NOW + 5, GONE))
        self.assertEqual(await self.events(store), (GONE,))

    async def test_takenOver(self) -> None:
        """
        A claim of a box that is connected is remembered, once for an attempt; that of one that is not is none.
        """
        store = await self.startStore()
        first = await self.claim(store)
        await store.release(BOX, first.linkEpoch, NOW)
        await self.claim(store)
        self.assertEqual(await self.events(store), ())
        for _ in range(2):
            third = await self.claim(store, incarnation="b@1", nowMs=NOW + 9, attempt="third")
        event = BoxEvent(
            EventKind.takenOver, NOW + 9, "TAKEOVER", "", "md30", "192.0.2.1", "b@1", third.linkEpoch, 1, NOW + 9
        )
        self.assertEqual(await self.events(store), (event,))
        fourth = await self.claim(store, nowMs=NOW + 20)
        again = event._replace(at=NOW + 20, times=2, instance="a@1", linkEpoch=fourth.linkEpoch)
        self.assertEqual(await self.events(store), (again,))

    async def test_alike(self) -> None:
        """
        Those that are alike in a row are one, with how many, the first time, and all else of the last one. Others are
        their own.
        """
        store = await self.startStore()
        later = REFUSED._replace(at=NOW + 50, peer="192.0.2.77", instance="b c")
        other = REFUSED._replace(at=NOW + 60, detail="the box is revoked", since=NOW + 60)
        for event in (REFUSED, REFUSED, later, other, REFUSED):
            await store.noteRefusals([RefusalNote(BOX, event, True)])
        self.assertEqual(await self.events(store), (later._replace(times=3, since=NOW), other, REFUSED))

    async def test_kept(self) -> None:
        """
        The last ones stay.
        """
        store = await self.startStore()
        events = [REFUSED._replace(at=NOW + n, since=NOW + n, reason=f"R{n}") for n in range(KEPT_EVENTS + 3)]
        await store.noteRefusals([RefusalNote(BOX, event, True) for event in events])
        self.assertEqual(await self.events(store), tuple(events[3:]))
        self.assertEqual(remembered(events[2:-1], events[-1]), events[3:])

    async def test_awkward(self) -> None:
        """
        Whatever stands in an event and in a box's name.
        """
        store = await self.startStore()
        for text in ("", "-", *AWKWARD):
            box = BoxKey("acme", text or "none")
            event = BoxEvent(EventKind.refused, NOW, text, text, text, text, text, 0, 1, NOW)
            await store.noteRefusals([RefusalNote(box, event, False)])
            self.assertEqual(await self.events(store, box), (event,))
            self.assertEqual(await store.refusedAs(box.asset), ("acme",))

    async def test_refusedAs(self) -> None:
        """
        Under every account, whether the directory has the box there or not; not once it is erased.
        """
        store = await self.startStore()
        for account, isBox in (("zeta", True), ("acme", False), ("acne", False)):
            await store.noteRefusals([RefusalNote(BoxKey(account, "box-1"), REFUSED, isBox)])
        self.assertEqual(await store.refusedAs("box-1"), ("acme", "acne", "zeta"))
        self.assertEqual(await store.refusedAs("box"), ())
        for account in ("zeta", "acme"):
            self.assertEqual(await store.erase(BoxKey(account, "box-1")), Erased(True, False, 0, 0, 0))
            self.assertEqual(await self.events(store, BoxKey(account, "box-1")), ())
        self.assertEqual(await store.refusedAs("box-1"), ("acne",))
        self.assertEqual(await store.accounts("box-1"), ())

    async def test_strangersAreBounded(self) -> None:
        """
        Made-up names drive out each other, those refused longest ago first, and no box.
        """
        store = await self.startStore()
        claim = await self.claim(store)
        await store.release(BOX, claim.linkEpoch, NOW + 5, GONE)
        unknown = [BoxKey("acme", f"made-up-{number}") for number in range(MOST_STRANGERS)]
        first = [RefusalNote(box, REFUSED, False) for box in (BOX, unknown[0])]
        await store.noteRefusals([*first, RefusalNote(OTHER, REFUSED, True)])
        await store.noteRefusals(
            [RefusalNote(box, REFUSED._replace(at=NOW + n, since=NOW + n), False) for n, box in enumerate(unknown, 1)]
        )
        self.assertEqual((await self.events(store, unknown[0]))[0].times, 2)
        last = BoxKey("acme", "one more")
        await store.noteRefusals([RefusalNote(last, REFUSED._replace(at=NOW + 5000), False)])
        self.assertEqual(await self.events(store, unknown[0]), ())
        self.assertEqual(await store.refusedAs(unknown[0].asset), ())
        for box in (unknown[1], last, OTHER):
            self.assertEqual(len(await self.events(store, box)), 1, box)
        self.assertEqual(await self.events(store), (GONE, REFUSED))

    async def test_strangerComes(self) -> None:
        """
        What was remembered of a name stays with the box that comes under it, and is not driven out any more.
        """
        store = await self.startStore()
        await store.noteRefusals([RefusalNote(BOX, REFUSED, False), RefusalNote(OTHER, REFUSED, False)])
        await self.claim(store)
        await store.noteRefusals([RefusalNote(OTHER, REFUSED._replace(at=NOW + 1), True)])
        await store.noteRefusals(
            [RefusalNote(BoxKey("x", str(n)), REFUSED._replace(at=NOW + 9), False) for n in range(MOST_STRANGERS)]
        )
        self.assertEqual(await self.events(store), (REFUSED,))
        self.assertEqual(await self.events(store, OTHER), (REFUSED._replace(at=NOW + 1, times=2),))

    async def test_retention(self) -> None:
        """
        Names that are no box go with what else is too old, as does a box that was only ever refused.
        """
        store = await self.startStore()
        third = BoxKey("acme", "third")
        old = RefusalNote(BOX, REFUSED, False)
        new = RefusalNote(OTHER, REFUSED._replace(at=NOW + 9, since=NOW + 9), False)
        await store.noteRefusals([old, new, RefusalNote(third, REFUSED, True)])
        self.assertEqual(await store.purge(NOW + 9, 10), 0)
        self.assertEqual((await self.events(store), len(await self.events(store, OTHER))), ((), 1))
        self.assertEqual(await store.purge(NOW + 36_500 * 86_400_000, 10), 1)
        self.assertEqual((await self.events(store, OTHER), await self.events(store, third)), ((), ()))
        self.assertEqual(await store.refusedAs("third"), ())
