"""
The topics of a box: short ones, and the long ones under C{boxes/ASSET/} (DESIGN 7).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from binaryserver.errors import ConfigError
from binaryserver.interfaces import IEventCodec
from binaryserver.mqtt.topics import matches

MESSAGES = ("m", "messages")
WILL = ("w", "will")
INDEX = ("i", "index")
DOWNLINK = ("d", "downlink")


class TopicSpace:
    """
    The topics that there are, for all boxes.

    @ivar codecs: by short topic and by what follows C{boxes/ASSET/}: the form of the tracks published there
    """

    def __init__(self, codecs: Iterable[IEventCodec]) -> None:
        """
        @raise ConfigError: two of them have a topic in common, or one has one of the gateway's own
        """
        self.codecs: dict[str, IEventCodec] = {}
        names = [MESSAGES, WILL, DOWNLINK, INDEX]
        for codec in codecs:
            own = codec.shortTopic, codec.longTopic
            if self.codecs.get(own[0]) is codec:
                # Found in two places of Python's path.
                continue
            if any(own[0] == short or own[1] == long for short, long in names):
                raise ConfigError("--md30", f"two plugins take the topic {own[0]} or {own[1]}: {type(codec).__name__}")
            names.append(own)
            self.codecs[codec.shortTopic] = codec
        self._shortByLong = {long: short for short, long in names}
        self._short = frozenset(short for short, _ in names)

    def shortName(self, topic: str, asset: str) -> str | None:
        """
        The short form of a topic of this box, L{None} if it is none of its own.
        """
        if topic in self._short:
            return topic
        if topic.startswith("boxes/"):
            owner, _, rest = topic[6:].partition("/")
            if owner == asset:
                return self._shortByLong.get(rest)
        return None

    def isOwn(self, topicFilter: str, asset: str) -> bool:
        """
        Whether a valid filter matches anything that is the box's own.
        """
        return any(matches(topicFilter, topic) for topic in self._short) or any(
            matches(topicFilter, longName(rest, asset)) for rest in self._shortByLong
        )


def longName(rest: str, asset: str) -> str:
    """
    The long form of a topic, e.g. C{boxes/350000000000001/index}.
    """
    return f"boxes/{asset}/{rest}"


def deliveryTopic(names: tuple[str, str], asset: str, filters: Iterable[str]) -> str | None:
    """
    Under which of its two names a downlink topic is subscribed to: the short one where both are; L{None} if neither is.
    """
    short, long = names[0], longName(names[1], asset)
    found = None
    for topicFilter in filters:
        if matches(topicFilter, short):
            return short
        if matches(topicFilter, long):
            found = long
    return found


def deliveryQos(topic: str, subscriptions: Mapping[str, int]) -> int:
    """
    The QoS that was granted for a topic: the highest of the filters that match it [MQTT-3.3.5-1].

    @param subscriptions: granted QoS by filter
    """
    return max((qos for topicFilter, qos in subscriptions.items() if matches(topicFilter, topic)), default=0)
