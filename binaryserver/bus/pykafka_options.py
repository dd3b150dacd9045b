"""
The value of the option that names a C{pykafka:} bus.

The names after the question mark are librdkafka's, so that a value made for C{kafka:} means the same here.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl

from binaryserver.errors import ConfigError
from binaryserver.secretvalues import withoutSecrets

OPTIONS = (
    "request.timeout.ms",
    "security.protocol",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
)
"""Every one there is."""


class Address(NamedTuple):
    """
    Where a broker listens.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """
    What the option's value says.

    @ivar seeds: brokers to ask first
    @ivar requestTimeout: s that a produce request may take before it is sent anew
    @ivar tls: how to speak TLS; L{None}: plain TCP
    """

    seeds: tuple[Address, ...]
    requestTimeout: float = 10.0
    tls: ssl.SSLContext | None = None


def parseSpec(spec: str, option: str) -> Settings:
    """
    Understand C{pykafka://HOST:PORT[,HOST:PORT...][?name=value[&name=value...]]}.

    C{request.timeout.ms} is how long a produce request may take before it is sent anew (1000 to 300000, 10000 if not
    given). C{security.protocol} is C{plaintext} (if not given) or C{ssl}: TLS with the broker's name checked, against
    C{ssl.ca.location} (a PEM file; the system's authorities if not given); with C{ssl.certificate.location} and
    C{ssl.key.location} (PEM) as our own certificate.

    @param option: the option's name, for errors
    @raise ConfigError: it cannot be understood, or a file of it cannot be read
    """
    scheme, separator, rest = spec.partition("://")
    if scheme.lower() != "pykafka" or not separator:
        form = "pykafka://HOST:PORT[,HOST:PORT...][?option=value]"
        raise ConfigError(option, f"{withoutSecrets(spec)!r} is not of the form {form}")
    hosts, _, query = rest.partition("?")
    seeds = tuple(_address(host, option) for host in hosts.rstrip("/").split(","))
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ConfigError(option, "what follows the ? is not of the form option=value[&option=value...]") from error
    given = dict(pairs)
    for name, _value in pairs:
        if name not in OPTIONS:
            raise ConfigError(option, f"pykafka: has no option {name!r}; known: {', '.join(OPTIONS)}")
    if len(given) != len(pairs):
        raise ConfigError(option, "an option is given twice")
    timeout = given.get("request.timeout.ms", "10000")
    if not timeout.isascii() or not timeout.isdigit() or not 1000 <= int(timeout) <= 300_000:
        raise ConfigError(option, f"request.timeout.ms is {timeout!r}; it must be a number of ms, 1000 to 300000")
    return Settings(seeds, int(timeout) / 1000, _tls(given, option))


def _address(text: str, option: str) -> Address:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if "@" in text:
        raise ConfigError(option, "pykafka: knows no user and no password")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(option, f"{text!r} is not of the form HOST:PORT")
    return Address(host, int(port))


def _tls(given: Mapping[str, str], option: str) -> ssl.SSLContext | None:
    protocol = given.get("security.protocol", "plaintext").lower()
    files = [name for name in OPTIONS if name.startswith("ssl.") and name in given]
    if protocol == "plaintext":
        if files:
            raise ConfigError(option, f"{files[0]} needs security.protocol=ssl")
        return None
    if protocol != "ssl":
        raise ConfigError(option, f"security.protocol is {protocol!r}; pykafka: knows plaintext and ssl")
    certificate, key = given.get("ssl.certificate.location"), given.get("ssl.key.location")
    if key is not None and certificate is None:
        raise ConfigError(option, "ssl.key.location needs ssl.certificate.location")
    try:
        context = ssl.create_default_context(cafile=given.get("ssl.ca.location"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Python 3.13 began to refuse authorities without a key identifier; many private ones have none, and other
        # clients of the same cluster take them.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as error:
        raise ConfigError(option, f"cannot use {' and '.join(files)}: {error}") from error
    return context
