"""
What a simulated box subscribes to, and when it need not any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from binaryserver.errors import ProtocolViolation
from binaryserver.mqtt.packets import SUBSCRIPTION_REFUSED

INDEX_TOPIC: Final = "i"
DOWNLINK_TOPIC: Final = "d"


class Subscriptions:
    """
    Of one box.

    @ivar wantsIndex: it reads its index after each connect
    """

    def __init__(self, wantsIndex: bool, wantsMessages: bool) -> None:
        self.wantsIndex = wantsIndex
        self._wantsMessages = wantsMessages
        self._isListening = False
        self._asked: list[tuple[str, int]] = []

    def wanted(self, sessionPresent: bool) -> list[tuple[str, int]]:
        """
        @return: pairs of topic filter and QoS that the link is to be opened with. The index is told on subscribing;
            messages come as long as the session has the subscription.
        """
        self._asked = [(INDEX_TOPIC, 0)] if self.wantsIndex else []
        if self._wantsMessages and not (sessionPresent and self._isListening):
            self._asked.append((DOWNLINK_TOPIC, 1))
        return self._asked

    def answered(self, codes: Sequence[int]) -> str:
        """
        @param codes: of the SUBACK
        @return: a topic that was refused; empty: none was
        @raise ProtocolViolation: they do not fit what was asked for
        """
        if len(codes) != len(self._asked):
            raise ProtocolViolation("a SUBACK without a code for each filter", "MQTT-3.8.4-5")
        for (topic, _), code in zip(self._asked, codes, strict=True):
            if code == SUBSCRIPTION_REFUSED:
                return topic
        self._isListening = self._wantsMessages
        return ""
