"""
Texts as they stand in Redis: ASCII without line feeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, TypeVar

from binaryserver.errors import StoreError
from binaryserver.model import BoxKey, MqttSession, Owner, StreamMark

T = TypeVar("T")


def escape(text: str) -> str:
    """
    As JSON escapes it, without the quotes: most texts stay as they are.
    """
    return encode_basestring_ascii(text)[1:-1]


def unescape(text: str) -> str:
    """
    The opposite of L{escape}.
    """
    if "\\" not in text:
        return text
    plain: str = json.loads(f'"{text}"')
    return plain


def keyName(*parts: str) -> str:
    """
    What stands in the names of keys, its parts separated by slashes.
    """
    return "/".join(escape(part).replace("/", "\\u002f") for part in parts)


def boxName(box: BoxKey) -> str:
    """
    A box in the names of keys.
    """
    return keyName(*box)


def boxOfName(name: str) -> BoxKey:
    """
    The opposite of L{boxName}.
    """
    account, asset = map(unescape, name.split("/"))
    return BoxKey(account, asset)


def fields(values: Iterable[object]) -> str:
    """
    A batch for a script.
    """
    return "\n".join(map(str, values)) + "\n"


def lines(reply: bytes) -> list[str]:
    """
    The fields of a script's reply.
    """
    return reply.decode("ascii").split("\n")


def reading(parse: Callable[[Any], T]) -> Callable[[Any], T]:
    """
    What understands a reply, if it can be understood.
    """

    def read(reply: Any) -> T:
        try:
            return parse(reply)
        except (ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
            raise StoreError(f"what stands in Redis cannot be understood: {error!r}") from error

    return read


def marksOf(text: str) -> tuple[StreamMark, ...]:
    """
    Marks, from what the scripts make of them.
    """
    return tuple(StreamMark(*map(int, each.split(" "))) for each in text.split(",")) if text else ()


def ownerOf(texts: Sequence[str]) -> Owner | None:
    """
    Who held a box before, from what the scripts say of it: empty if nobody did.
    """
    if not texts[0]:
        return None
    incarnation, epoch, connected, seen = texts
    return Owner(unescape(incarnation), int(epoch), connected == "1", int(seen))


def packMqtt(session: MqttSession | None) -> str:
    """
    An MQTT session; nothing for none.
    """
    return "" if session is None else json.dumps([session.subscriptions, session.received])


def unpackMqtt(text: str) -> MqttSession | None:
    """
    The opposite of L{packMqtt}.

    @raise ValueError: it was not made by it, or a C{TypeError}
    """
    if not text:
        return None
    subscriptions, received = json.loads(text)
    return MqttSession(tuple((name, qos) for name, qos in subscriptions), tuple(received))
