"""
Tests for L{binaryserver.downlink.window}: packet ids [MQTT-2.3.1-4], and how much is sent and not acked [MQTT-4.3.2-1].
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.downlink.window import Window
from binaryserver.model import BoxKey, DownlinkMessage, MailboxEntry

MESSAGE = DownlinkMessage(BoxKey("dev", "box"), "m", "c", b"", "", 1, False, False, 0)


def entries(*sequences: int) -> list[MailboxEntry]:
    """
    Of a mailbox.
    """
    return [MailboxEntry(MESSAGE, sequence) for sequence in sequences]


class WindowTests(SynchronousTestCase):
    """
    One link's.
    """

    def test_ids(self) -> None:
        """
        1 to 65,535, never 0, and the same for the same message over any link.
        """
        window = Window(4)
        self.assertEqual([window.sent(one) for one in entries(1, 2, 65_535)], [1, 2, 65_535])
        self.assertEqual([Window(4).sent(one) for one in entries(65_536, 131_070, 131_071)], [1, 65_535, 1])

    def test_acked(self) -> None:
        """
        An ack frees its own place, once.
        """
        window = Window(2)
        first, second = entries(7, 8)
        window.take([first, second])
        ids = [window.sent(first), window.sent(second)]
        self.assertEqual(window.room, 0)
        self.assertEqual(window.acked(ids[1]), second)
        self.assertEqual(window.room, 1)
        self.assertIsNone(window.acked(ids[1]))
        self.assertIsNone(window.acked(999))
        self.assertEqual(window.room, 1)

    def test_idInUse(self) -> None:
        """
        A message whose id is another's that is not acked yet waits, and so does all behind it.
        """
        window = Window(16)
        (old,) = entries(5)
        window.take([old])
        window.sent(old)
        offered = entries(65_539, 65_540, 65_541)
        self.assertEqual([one.sequence for one in window.take(offered)], [65_539])
        self.assertEqual(window.after, 65_539)
        self.assertEqual(window.room, 0)
        window.acked(5)
        self.assertEqual([one.sequence for one in window.take(offered[1:])], [65_540, 65_541])

    @given(st.lists(st.tuples(st.integers(1, 40_000), st.booleans()), max_size=60))
    def test_noTwoAlike(self, steps: list[tuple[int, bool]]) -> None:
        """
        Whatever gaps a mailbox has and whatever is acked, no two messages in flight have one id, and none is lost.
        """
        window = Window(5)
        inFlight: dict[int, int] = {}
        waiting: list[MailboxEntry] = []
        last = 0
        for gap, isAcked in steps:
            last += gap
            waiting += entries(last)
            offered = [one for one in waiting if one.sequence > window.after][: window.room]
            for one in window.take(offered) if offered else ():
                waiting.remove(one)
                packetId = window.sent(one)
                self.assertNotIn(packetId, inFlight)
                inFlight[packetId] = one.sequence
            self.assertLessEqual(len(inFlight), 5)
            if isAcked and inFlight:
                packetId = min(inFlight)
                acked = window.acked(packetId)
                assert acked is not None
                self.assertEqual(acked.sequence, inFlight.pop(packetId))
