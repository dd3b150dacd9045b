"""
Topic names and topic filters [MQTT-4.7].

Both are UTF-8 strings of levels parted by C{/}. Names stand in PUBLISH and in the will, filters in SUBSCRIBE and
UNSUBSCRIBE. Their length is told in two bytes, so that none has more than 65,535 [MQTT-4.7.3-3]. Nothing is normalized
anywhere: levels are equal when their characters are [MQTT-4.7.3-4].
"""

from __future__ import annotations

from typing import Final

from binaryserver.errors import MalformedPacket, ProtocolViolation


def decodeString(raw: bytes) -> str:
    """
    Decode the bytes of a UTF-8 string as MQTT has them; U+FEFF stays where it is [MQTT-1.5.3-3].

    @raise MalformedPacket: not UTF-8, or an encoded surrogate [MQTT-1.5.3-1], or U+0000 [MQTT-1.5.3-2]
    """
    # Raised outside the except clause: a UnicodeDecodeError carries the peer's bytes, which no log may show.
    text: str | None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise MalformedPacket("a string is not well-formed UTF-8", "MQTT-1.5.3-1")
    if "\0" in text:
        raise MalformedPacket("a string contains U+0000", "MQTT-1.5.3-2")
    return text


def checkName(name: str) -> str:
    """
    Check a decoded topic name, and give it back.

    @raise MalformedPacket: it is empty [MQTT-4.7.3-1]
    @raise ProtocolViolation: it has a wildcard in it [MQTT-3.3.2-2], [MQTT-4.7.1-1]
    """
    if not name:
        raise MalformedPacket("a topic name is empty", "MQTT-4.7.3-1")
    if "+" in name or "#" in name:
        raise ProtocolViolation("a topic name contains a wildcard", "MQTT-3.3.2-2")
    return name


def checkFilter(topicFilter: str) -> str:
    """
    Check a decoded topic filter, and give it back.

    @raise MalformedPacket: it is empty [MQTT-4.7.3-1]
    @raise ProtocolViolation: C{#} is not its whole last level [MQTT-4.7.1-2], or a C{+} is not a whole level
        [MQTT-4.7.1-3]
    """
    if not topicFilter:
        raise MalformedPacket("a topic filter is empty", "MQTT-4.7.3-1")
    if "#" in topicFilter and (
        topicFilter.index("#") != len(topicFilter) - 1 or (len(topicFilter) > 1 and topicFilter[-2] != "/")
    ):
        raise ProtocolViolation("'#' is not the whole last level of a topic filter", "MQTT-4.7.1-2")
    if "+" in topicFilter and any("+" in level and level != "+" for level in topicFilter.split("/")):
        raise ProtocolViolation("'+' is not a whole level of a topic filter", "MQTT-4.7.1-3")
    return topicFilter


def matches(topicFilter: str, topic: str) -> bool:
    """
    Does a subscription to C{topicFilter} take in C{topic}? In time linear in their lengths.

    A filter that starts with a wildcard takes in no topic that starts with C{$} [MQTT-4.7.2-1].

    @param topicFilter: one that L{checkFilter} passes
    @param topic: one that L{checkName} passes
    """
    if topic[0] == "$" and topicFilter[0] in "+#":
        return False
    wanted = topicFilter.split("/")
    levels = topic.split("/")
    if wanted[-1] == "#":
        # The parent level is taken in too: a/# matches a.
        del wanted[-1]
        if len(levels) < len(wanted):
            return False
    elif len(levels) != len(wanted):
        return False
    return all(want in ("+", level) for want, level in zip(wanted, levels, strict=False))


class TopicNames(dict[bytes, str]):
    """
    Topic names by their bytes, checked when first asked for and remembered, since boxes repeat the same few:
    C{names[raw]} gives the checked name or raises what L{decodeString} and L{checkName} raise.

    Bounded: what is too long to be a box's topic is not remembered, and everything is forgotten when there are too
    many, so that no peer can take the memory or, for longer than it goes on trying, the use.
    """

    LONGEST: Final = 128
    """bytes; the longest topic of a box has 82."""
    MOST: Final = 8192

    __slots__ = ()

    def __missing__(self, raw: bytes) -> str:
        name = checkName(decodeString(raw))
        if len(raw) <= self.LONGEST:
            if len(self) >= self.MOST:
                self.clear()
            self[raw] = name
        return name
