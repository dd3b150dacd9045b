"""
Every failure of the gateway has a type of its own.

The two branches that callers tell apart: L{PeerError}, the other end of a link broke a rule and loses that link; and
L{LocalError}, something on our side failed and nobody's data may be lost for it. L{ConfigError} ends a start.
"""

from __future__ import annotations


class BinaryServerError(Exception):
    """
    Base of all of them. C{str(error)} is one sentence for an operator.
    """


class PeerError(BinaryServerError):
    """
    The peer broke the protocol.

    @ivar clause: the rule it broke, e.g. C{"MQTT-3.1.0-2"}; empty where no document numbers it.
    """

    def __init__(self, message: str, clause: str = "") -> None:
        super().__init__(f"{message} [{clause}]" if clause else message)
        self.clause = clause


class MalformedPacket(PeerError):
    """
    Bytes that no correct peer sends: they cannot be read as a packet.
    """


class PacketTooLarge(PeerError):
    """
    A packet that announces more bytes than C{--max-packet}.
    """


class ProtocolViolation(PeerError):
    """
    A well-formed packet where the protocol does not allow it.
    """


class PeerTimeout(PeerError):
    """
    The peer did not do in time what the protocol expects of it.
    """


class BadProxyHeader(PeerError):
    """
    What came before the link's own bytes is not a PROXY protocol header.
    """


class RejectedData(PeerError):
    """
    Data that cannot be taken: it goes to the topic C{rejects} and is acked, so that the box is not blocked by it.

    @ivar code: one of docs/md30.md, e.g. C{DECODE}
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LocalError(BinaryServerError):
    """
    Something on our side failed.
    """


class MissingTransition(LocalError):
    """
    The owner of a sans-IO connection asked for what its state does not allow: a mistake of ours, not the peer's.
    """


class BusError(LocalError):
    """
    The bus did not take a flush: whether any record of it is in the bus is unknown.
    """


class BusUnavailable(BusError):
    """
    The bus cannot be reached.
    """


class FlushTimeout(BusError):
    """
    The bus did not say in time what became of a flush.
    """


class RecordTooLarge(BusError):
    """
    The bus will never take this record. Nothing of its flush is in the bus.
    """


class StoreError(LocalError):
    """
    The session store failed.
    """


class StoreUnavailable(StoreError):
    """
    The session store cannot be reached. Whether what was asked of it is done is not known.
    """


class StoreNotAsked(StoreUnavailable):
    """
    The session store cannot be reached, and was not asked: nothing is done.
    """


class AccountFull(StoreError):
    """
    As many boxes of an account are connected as may be.
    """


class DirectoryUnavailable(LocalError):
    """
    The directory cannot be reached, or says what cannot be understood.
    """


class ConfigError(BinaryServerError):
    """
    A setting cannot be used; the start ends with status 1.

    @ivar option: the option as the command line spells it, e.g. C{"--bus"}.
    """

    def __init__(self, option: str, message: str) -> None:
        super().__init__(f"{option}: {message}")
        self.option = option
