"""
What every L{ISessionStore} must do, written once and run over each of them: all its parts.

A store's tests inherit one of the two classes here and bring C{makeStore}.
"""

from __future__ import annotations

from zope.interface.verify import verifyObject

from binaryserver.interfaces import ISessionStore
from binaryserver.model import (
    FingerprintUpdate,
    MailboxEntry,
    MarkUpdate,
    MqttSession,
    Owner,
    Progress,
    Put,
    Renewal,
    StreamMark,
)
from tests.session.contract_base import BOX, LIMITS, NOW, OTHER, messageFor, reactor
from tests.session.contract_erasing import EraseContractMixin, PurgeContractMixin
from tests.session.contract_finals import (
    CrashContractMixin,
    DueContractMixin,
    ProgressContractMixin,
    RemoveContractMixin,
)
from tests.session.contract_fingerprints import FingerprintsContractMixin, packed
from tests.session.contract_leases import LeaseContractMixin
from tests.session.contract_limits import DrawContractMixin, MostContractMixin
from tests.session.contract_mailbox import PutContractMixin, TakeContractMixin
from tests.session.contract_owners import AdoptContractMixin, RestoreContractMixin
from tests.session.contract_ownership import OwnershipContractMixin
from tests.session.contract_records import EventContractMixin, ListContractMixin
from tests.session.contract_sequences import SequencesContractMixin

__all__ = ["BOX", "NOW", "OTHER", "DurableSessionStoreContractMixin", "SessionStoreContractMixin", "reactor"]


class SessionStoreContractMixin(
    OwnershipContractMixin,
    LeaseContractMixin,
    RestoreContractMixin,
    AdoptContractMixin,
    FingerprintsContractMixin,
    PutContractMixin,
    TakeContractMixin,
    ProgressContractMixin,
    RemoveContractMixin,
    DueContractMixin,
    CrashContractMixin,
    MostContractMixin,
    DrawContractMixin,
    EraseContractMixin,
    PurgeContractMixin,
    ListContractMixin,
    EventContractMixin,
    SequencesContractMixin,
):
    """
    The contract of L{ISessionStore}.
    """

    async def test_provides(self) -> None:
        """
        It provides what it says.
        """
        verifyObject(ISessionStore, await self.startStore())


class DurableSessionStoreContractMixin(SessionStoreContractMixin):
    """
    More, of stores whose data outlives the object.
    """

    async def test_survivesAStop(self) -> None:
        """
        What was handed over before the stop is there for the next one.
        """
        store = await self.makeStore()
        await store.start()
        number = await store.leaseWorker("a@1", 99)
        claim = await self.claim(store)
        store.commitMarks([MarkUpdate(BOX, 7, 10, 100)])
        store.commitFingerprints([FingerprintUpdate(BOX, packed([1, 2]))], 1024)
        store.saveMqtt(BOX, claim.linkEpoch, MqttSession((("i", 1),)), True)
        store.putMessages([messageFor("m1"), messageFor("m2")], LIMITS, NOW)
        store.progressMessages([Progress(BOX, "m1", NOW)])
        store.removeMessages([(BOX, "m1")])
        await store.stop()
        other = await self.startStore()
        puts = await self.put(other, messageFor("m1"), messageFor("m3"))
        self.assertEqual(puts, [Put(None, False, "a@1"), Put(MailboxEntry(messageFor("m3"), 3), True, "a@1")])
        self.assertEqual([entry.sequence for entry in await other.mailbox(BOX)], [2, 3])
        self.assertEqual(await other.fingerprints(BOX), packed([1, 2]))
        self.assertIs(await other.renew("a@1"), Renewal.renewed)
        self.assertEqual(await other.leaseWorker("a@2"), number)
        again = await self.claim(other, incarnation="a@2")
        self.assertEqual(again.marks, (StreamMark(7, 10, 100),))
        self.assertEqual(again.mqtt, MqttSession((("i", 1),)))
        self.assertEqual(again.previous, Owner("a@1", claim.linkEpoch, True, NOW))

    async def test_twoAtOnce(self) -> None:
        """
        Two processes on one store see each other's claims, marks, leases and mail.
        """
        one, other = await self.startStore(), await self.startStore()
        first = await self.claim(one, incarnation="a@1")
        second = await self.claim(other, incarnation="b@1")
        self.assertEqual(second.previous, Owner("a@1", first.linkEpoch, True, NOW))
        await one.commitMarks([MarkUpdate(BOX, 7, 10, 100)])
        await other.commitMarks([MarkUpdate(BOX, 7, 9, 200)])
        self.assertEqual(await one.marks(BOX), (StreamMark(7, 10, 200),))
        await one.commitFingerprints([FingerprintUpdate(BOX, packed([1]))], 1024)
        await other.commitFingerprints([FingerprintUpdate(BOX, packed([2]))], 1024)
        self.assertEqual(await one.fingerprints(BOX), packed([1, 2]))
        self.assertNotEqual(await one.leaseWorker("a@1"), await other.leaseWorker("b@1"))
        self.assertEqual((await one.isDead("b@1"), await other.isDead("a@1")), (False, False))
        await one.saveMqtt(BOX, second.linkEpoch, None, True)
        (put,) = await self.put(other, messageFor("m1"))
        self.assertEqual(put.listener, "b@1")
        self.assertEqual(await one.mailbox(BOX), [put.entry])
