"""
What a link has of its box's mailbox: sent over it, and not acked by the box.
"""

from __future__ import annotations

from collections.abc import Sequence

from binaryserver.model import MailboxEntry

_IDS = 65535


class Window:
    """
    The window of one link, sans-IO: the sender's side of QoS 1 [MQTT-4.3.2-1].

    Packet ids come from the sequences in the mailbox [MQTT-2.3.1-4], so that what is sent again over the box's next
    link has its original one [MQTT-4.4.0-1] without any of them being kept.

    @ivar after: the last sequence that was given to this link
    @ivar mayHaveMore: there may be mail behind C{after}
    """

    __slots__ = ("_inFlight", "_limit", "after", "mayHaveMore")

    def __init__(self, limit: int) -> None:
        """
        @param limit: how many messages may be sent and not acked; less than 65,535
        """
        self._limit = limit
        self._inFlight: dict[int, MailboxEntry] = {}
        self.after = 0
        self.mayHaveMore = True

    @property
    def room(self) -> int:
        """
        How many messages may be sent now.
        """
        return max(0, min(self._limit - len(self._inFlight), self._end - 1 - self.after))

    @property
    def _end(self) -> int:
        """
        The first sequence that may not be sent: ids come again after 65,535 messages, and one that is never acked must
        not be met by its namesake.
        """
        if not self._inFlight:
            return self.after + 1 + _IDS
        return min(entry.sequence for entry in self._inFlight.values()) + _IDS

    def take(self, entries: Sequence[MailboxEntry]) -> Sequence[MailboxEntry]:
        """
        Note what was given to this link.

        @return: those that may be sent now; the others are to be given again
        """
        first = entries[0].sequence
        end = min(self._end, first + _IDS) if self._inFlight else first + _IDS
        fitting = [entry for entry in entries if entry.sequence < end]
        if fitting:
            self.after = fitting[-1].sequence
        return fitting

    def startAgain(self) -> None:
        """
        The mailbox is another one, whose sequences begin anew.
        """
        self.after = 0
        self.mayHaveMore = True
        self._inFlight = {}

    def sent(self, entry: MailboxEntry) -> int:
        """
        Note a message as sent with QoS 1.

        @return: its packet id
        """
        packetId = (entry.sequence - 1) % _IDS + 1
        self._inFlight[packetId] = entry
        return packetId

    def acked(self, packetId: int) -> MailboxEntry | None:
        """
        The box has acked a packet.

        @return: the message; L{None}: there was none of that id
        """
        return self._inFlight.pop(packetId, None)
