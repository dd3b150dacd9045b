"""
What C{kafka://...} says, as librdkafka's configuration.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from binaryserver.errors import ConfigError
from binaryserver.plugins import BackEndContext
from binaryserver.secretvalues import readSecret, withoutSecrets

_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")

_OURS = {
    "bootstrap.servers": "the servers stand before the question mark",
    "metadata.broker.list": "the servers stand before the question mark",
    "acks": "an ack means durable: it is always all",
    "request.required.acks": "an ack means durable: acks is always all",
    "enable.idempotence": "it is always on",
    "enable.gapless.guarantee": "a failed flush is the gateway's to deal with",
    "transactional.id": "transactions are not used",
    "message.timeout.ms": "--batch-deadline drops the link, not the data",
    "delivery.timeout.ms": "--batch-deadline drops the link, not the data",
    "linger.ms": "it is --flush-interval",
    "queue.buffering.max.ms": "it is --flush-interval",
    "partitioner": "records carry their partition",
    "statistics.interval.ms": "they are not read",
    "group.id": "the gateway names its groups",
    "partition.assignment.strategy": "it is always cooperative-sticky",
    "heartbeat.interval.ms": "a member that leaves counts on that of the others",
    "auto.offset.reset": "a group begins with the first record",
    "enable.auto.commit": "what is done with is committed every second",
    "enable.auto.offset.store": "only what is done with is committed",
    "auto.commit.interval.ms": "what is done with is committed every second",
}

_DEFAULTS: dict[str, Any] = {
    "client.id": "binaryserver",
    "log_level": 5,
    "message.max.bytes": 1_000_000,
    # The gateway's own windows bound what is in the queue, in bytes; these are only never to come first.
    "queue.buffering.max.messages": 10_000_000,
    "queue.buffering.max.kbytes": 2_097_151,
    "reconnect.backoff.max.ms": 1000,
    "socket.keepalive.enable": True,
}

_PRODUCER_ONLY = frozenset(
    {
        "message.max.bytes",
        "queue.buffering.max.messages",
        "queue.buffering.max.kbytes",
        "compression.type",
        "compression.codec",
        "compression.level",
        "batch.size",
        "batch.num.messages",
        "retries",
        "message.send.max.retries",
        "retry.backoff.ms",
        "retry.backoff.max.ms",
        "request.timeout.ms",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "sticky.partitioning.linger.ms",
    }
)


_PASSWORD = "sasl.password"
_PASSWORD_FILE = "password-file"
"""Ours: a file whose one line is the password."""


class KafkaSettings:
    """
    @ivar shown: as it was given, but for its secrets
    @ivar isDebugged: librdkafka is asked for its own log
    @ivar servers: C{HOST:PORT[,HOST:PORT...]}
    @ivar maxMessage: bytes, the largest record
    """

    def __init__(self, spec: str, context: BackEndContext) -> None:
        """
        @raise ConfigError: C{spec} cannot be understood
        """
        self.shown = shown = withoutSecrets(spec)
        rest = spec.partition("://")[2]
        self.servers, _, query = rest.partition("?")
        for server in self.servers.rstrip("/").split(","):
            match = _SERVER.fullmatch(server)
            if match is None or not 0 < int(match[2]) < 65536:
                raise ConfigError(context.option, f"{shown!r}: the servers are not HOST:PORT[,HOST:PORT...]")
        self.servers = self.servers.rstrip("/")
        self._options: dict[str, Any] = dict(_DEFAULTS)
        try:
            given = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
        except ValueError:
            raise ConfigError(
                context.option, f"{shown!r}: what follows the question mark is not option=value[&option=value...]"
            ) from None
        for name, value in given:
            if name in _OURS:
                raise ConfigError(context.option, f"{shown!r}: {name} cannot be set: {_OURS[name]}")
            if name == _PASSWORD_FILE:
                if any(other == _PASSWORD for other, _ in given):
                    raise ConfigError(context.option, f"{shown!r}: {_PASSWORD} and {name} do not go together")
                name, value = _PASSWORD, readSecret(value, context.option, name)
            self._options[name] = value
        self.isDebugged = "debug" in self._options
        try:
            self.maxMessage = int(self._options["message.max.bytes"])
        except ValueError:
            raise ConfigError(context.option, f"{shown!r}: message.max.bytes is no number") from None

    def producer(self, flushInterval: float) -> dict[str, Any]:
        """
        For the producer.

        @param flushInterval: s
        """
        return {
            **self._options,
            "bootstrap.servers": self.servers,
            "enable.idempotence": True,
            "acks": "all",
            "message.timeout.ms": 0,
            "linger.ms": flushInterval * 1000,
        }

    def client(self) -> dict[str, Any]:
        """
        For clients that do not produce.
        """
        options = {name: value for name, value in self._options.items() if name not in _PRODUCER_ONLY}
        return {**options, "bootstrap.servers": self.servers}
