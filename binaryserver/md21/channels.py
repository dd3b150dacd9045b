"""
The numbers of channels on one link: MD21's dynamic table, both sides of it.

Sans-IO. Each side announces numbers for names, and may use the other's. So that nobody needs to know what the other is
announcing at the same moment, a number in a message means what the message's sender announced it for; and only if it
did not, what the receiver did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from binaryserver.md21.values import Channel

MAX_CHANNELS: Final = 255
"""Numbers are 1 to this; 0 says that the name stands in the message."""


class Channels:
    """
    The table of one link, seen from the server.
    """

    __slots__ = ("_assigned", "_ours", "_theirs")

    def __init__(self) -> None:
        self._theirs: dict[int, str] = {}
        self._ours: dict[int, str] = {}
        # What the box is sent messages with: by name.
        self._assigned: dict[str, int] = {}

    def replace(self, channels: Sequence[Channel]) -> None:
        """
        The box announces its whole table.
        """
        self._theirs = {channel.number: channel.name for channel in channels}
        self._assigned = {name: number for number, name in self._ours.items()}

    def change(self, channels: Sequence[Channel]) -> None:
        """
        The box announces some numbers, anew or otherwise than before.
        """
        for channel in channels:
            before = self._theirs.get(channel.number)
            if before is not None and channel.number not in self._ours:
                self._assigned.pop(before, None)
            self._theirs[channel.number] = channel.name

    def name(self, number: int) -> str | None:
        """
        What a number means in a message of the box; L{None}: nobody announced it.
        """
        return self._theirs.get(number) or self._ours.get(number)

    def number(self, name: str) -> int:
        """
        The number of a channel in messages to the box, as far as one was announced; 0: none was.
        """
        number = self._assigned.get(name)
        if number is None:
            number = next((one for one, its in self._theirs.items() if its == name and one not in self._ours), 0)
            if number:
                self._assigned[name] = number
        return number

    def assign(self, name: str) -> Channel | None:
        """
        A number for a channel that has none, to be announced to the box; L{None}: all are taken.
        """
        for number in range(1, MAX_CHANNELS + 1):
            if number not in self._theirs and number not in self._ours:
                self._ours[number] = name
                self._assigned[name] = number
                return Channel(number, name)
        return None
