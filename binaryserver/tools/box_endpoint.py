"""
Where simulated boxes connect to: Twisted's client endpoint strings, and client certificates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from OpenSSL.SSL import Error as SSLError
from twisted.internet.endpoints import HostnameEndpoint, clientFromString, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.ssl import (
    Certificate,
    KeyPair,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)

from binaryserver.errors import ConfigError


class Access(NamedTuple):
    """
    How a box connects.

    @ivar tls: what a gateway is checked with if the box begins TLS on the link; L{None}: it does not
    """

    endpoint: IStreamClientEndpoint
    tls: IOpenSSLClientConnectionCreator | None = None


AccessFor: TypeAlias = Callable[[str], Access]
"""Tells how the box of an asset connects."""
ASSET_PLACE = "{asset}"
"""Stands for the asset in the path of a certificate or key."""

_PLACE = re.compile(r"(tcp|tls):((?:[^:\\=]|\\:)+):([0-9]+)")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def accessFor(
    reactor: Any, connect: str, cert: str | None, key: str | None, ca: str | None, onRequest: bool = False
) -> AccessFor:
    """
    @param reactor: what the endpoints connect with
    @param connect: a client endpoint string; just C{tls:HOST:PORT} along with one of the others, and C{tcp:HOST:PORT}
        with C{onRequest}
    @param cert: path of the boxes' certificate, PEM; its intermediates and key may stand in it as well
    @param key: path of its key, PEM
    @param ca: path of the certificates to trust, PEM: a file, or a directory of C{.pem} files
    @param onRequest: TLS begins when the box asks for it on the open link
    @raise ConfigError: one of them cannot be used
    """
    if cert is None and key is None and ca is None and not onRequest:
        common = Access(_endpoint(reactor, connect))
        return lambda asset: common
    if key is not None and cert is None:
        raise ConfigError("--key", "needs --cert")
    scheme = "tcp" if onRequest else "tls"
    match = _PLACE.fullmatch(connect)
    if match is None or match[1] != scheme:
        options = "--tls needs" if onRequest else "--cert, --key and --ca need"
        raise ConfigError("--connect", f"{connect!r} is not {scheme}:HOST:PORT, as {options} it")
    host, port = match[2].replace("\\:", ":"), int(match[3])
    trustRoot = None
    if ca is not None:
        trustRoot = trustRootFromCertificates(_authorities(Path(ca)))
    place = HostnameEndpoint(reactor, host, port)

    @lru_cache(maxsize=None if cert is not None and ASSET_PLACE in cert else 1)
    def made(certPath: str | None, keyPath: str | None) -> Access:
        certificate, chain = (None, []) if certPath is None else _certificate(certPath, keyPath or certPath)
        options = optionsForClientTLS(
            host,
            trustRoot=trustRoot,
            clientCertificate=certificate,
            extraCertificateOptions={"extraCertChain": [each.original for each in chain]} if chain else None,
        )
        return Access(place, options) if onRequest else Access(wrapClientTLS(options, place))

    def access(asset: str) -> Access:
        return made(cert and cert.replace(ASSET_PLACE, asset), key and key.replace(ASSET_PLACE, asset))

    return access


def _endpoint(reactor: Any, connect: str) -> IStreamClientEndpoint:
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, connect)
    except (ValueError, TypeError, KeyError, OSError, SSLError) as error:
        raise ConfigError("--connect", f"{connect!r} is not a client endpoint: {error}") from error
    return endpoint


def inTurn(each: Sequence[AccessFor]) -> AccessFor:
    """
    @param each: for one gateway each
    @return: gives the access to another gateway for each of a box's connects; the boxes begin spread over them
    """
    turns: dict[str, int] = {}

    def access(asset: str) -> Access:
        turn = turns.get(asset, len(turns))
        turns[asset] = turn + 1
        return each[turn % len(each)](asset)

    return access if len(each) > 1 else each[0]


def _authorities(path: Path) -> list[Certificate]:
    try:
        files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
        found = [Certificate.loadPEM(block) for file in files for block in _PEM.findall(file.read_bytes())]
    except OSError as error:
        raise ConfigError("--ca", f"{error.filename}: {error.strerror}") from error
    except SSLError as error:
        raise ConfigError("--ca", f"{path} holds a certificate that cannot be read") from error
    if not found:
        raise ConfigError("--ca", f"{path} holds no certificate")
    return found


def _certificate(certPath: str, keyPath: str) -> tuple[PrivateCertificate, list[Certificate]]:
    """
    @return: the certificate with its key, and its intermediates
    """
    option, path = "--cert", certPath
    try:
        found = [Certificate.loadPEM(block) for block in _PEM.findall(Path(certPath).read_bytes())]
        if not found:
            raise ConfigError("--cert", f"{certPath} holds no certificate")
        if keyPath != certPath:
            option, path = "--key", keyPath
        pair = KeyPair.load(Path(keyPath).read_bytes(), 1)
        made: PrivateCertificate = PrivateCertificate.fromCertificateAndKeyPair(found[0], pair)
    except OSError as error:
        raise ConfigError(option, f"{error.filename}: {error.strerror}") from error
    except SSLError as error:
        raise ConfigError(option, f"{path} cannot be read as PEM") from error
    return made, found[1:]
