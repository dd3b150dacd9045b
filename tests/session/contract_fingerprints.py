"""
What every L{ISessionStore} must do with the fingerprints of tracks.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import gatherResults

from binaryserver.model import BoxKey, FingerprintUpdate
from tests.session.contract_base import BOX, OTHER, ContractBase


def packed(numbers: Iterable[int]) -> bytes:
    """
    Fingerprints as they are stored; with every byte in them that a store may take for something else.
    """
    return b"".join((number * 0x0D0A00FF2F7C80C3 & (1 << 64) - 1).to_bytes(8, "big") for number in numbers)


class FingerprintsContractMixin(ContractBase):
    """
    Of C{fingerprints} and C{commitFingerprints}.
    """

    async def test_fingerprintsOfAnUnknownBox(self) -> None:
        """
        There are none.
        """
        store = await self.startStore()
        self.assertEqual(await store.fingerprints(BOX), b"")

    async def test_fingerprintsAreKeptInTheirOrder(self) -> None:
        """
        What is appended stands behind what is there, each box for itself, claimed or not; whatever bytes they have.
        """
        store = await self.startStore()
        await store.commitFingerprints([FingerprintUpdate(BOX, packed(range(300)))], 1024)
        await store.commitFingerprints(
            [FingerprintUpdate(BOX, packed([300, 301])), FingerprintUpdate(OTHER, packed([7]))], 1024
        )
        await self.claim(store)
        self.assertEqual(await store.fingerprints(BOX), packed(range(302)))
        self.assertEqual(await store.fingerprints(OTHER), packed([7]))

    async def test_fingerprintsNeverMoreThanTheWindow(self) -> None:
        """
        The oldest go; of more than a window at once the last are kept; a smaller window takes effect when it is next
        written.
        """
        store = await self.startStore()
        await store.commitFingerprints([FingerprintUpdate(BOX, packed(range(5)))], 4)
        self.assertEqual(await store.fingerprints(BOX), packed([1, 2, 3, 4]))
        await store.commitFingerprints([FingerprintUpdate(BOX, packed([5, 6]))], 4)
        self.assertEqual(await store.fingerprints(BOX), packed([3, 4, 5, 6]))
        await store.commitFingerprints([FingerprintUpdate(BOX, packed([7]))], 2)
        self.assertEqual(await store.fingerprints(BOX), packed([6, 7]))
        await store.commitFingerprints([FingerprintUpdate(BOX, packed(range(10, 2510)))], 2000)
        self.assertEqual(await store.fingerprints(BOX), packed(range(510, 2510)))

    async def test_fingerprintsWrittenAgain(self) -> None:
        """
        A call whose answer was lost is made again, alone or with what came since: nothing stands there twice.
        """
        store = await self.startStore()
        await store.commitFingerprints([FingerprintUpdate(BOX, packed(range(6)))], 8)
        await store.commitFingerprints([FingerprintUpdate(BOX, packed([4, 5]))], 8)
        self.assertEqual(await store.fingerprints(BOX), packed(range(6)))
        await store.commitFingerprints([FingerprintUpdate(BOX, packed([3, 4, 5, 6, 7]))], 8)
        self.assertEqual(await store.fingerprints(BOX), packed(range(8)))
        await store.commitFingerprints([FingerprintUpdate(BOX, packed(range(8)))], 8)
        self.assertEqual(await store.fingerprints(BOX), packed(range(8)))

    async def test_fingerprintsOfManyBoxes(self) -> None:
        """
        One call takes as many boxes as there are, and calls made at once keep their order.
        """
        store = await self.startStore()
        boxes = [BoxKey("acme", f"many/{number}") for number in range(450)]
        await gatherResults(
            [
                store.commitFingerprints([FingerprintUpdate(box, packed([number, turn])) for box in boxes], 1024)
                for turn, number in ((1, 10), (2, 20), (3, 30))
            ]
        )
        self.assertEqual(await store.fingerprints(boxes[0]), packed([10, 1, 20, 2, 30, 3]))
        self.assertEqual(await store.fingerprints(boxes[449]), packed([10, 1, 20, 2, 30, 3]))
        await store.commitFingerprints([], 1024)
