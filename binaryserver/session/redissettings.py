"""
The value of the option that names a session store in Redis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from OpenSSL import crypto
from twisted.internet.error import VerifyError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS, trustRootFromCertificates

from binaryserver.errors import ConfigError
from binaryserver.secretvalues import readSecret
from binaryserver.specoptions import specOptions

OPTIONS = ("ca", "cert", "key", "password-file", "prefix", "timeout")
"""Every one there is."""

_FORM = "redis://[[USER]:PASSWORD@]HOST:PORT/DB[?option=value[&option=value...]]"
_DEFAULT_PORT = 6379
_DEFAULT_PREFIX = "binaryserver:"
_DEFAULT_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """
    What the option's value says.

    @ivar db: the number of the database
    @ivar user: of an access control list; empty: the default one
    @ivar prefix: what all keys and channels begin with
    @ivar timeout: s that an answer may take
    @ivar tls: how to speak TLS; L{None}: plain TCP
    """

    host: str
    port: int
    db: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    prefix: str = _DEFAULT_PREFIX
    timeout: float = _DEFAULT_TIMEOUT
    tls: IOpenSSLClientConnectionCreator | None = None

    @property
    def where(self) -> str:
        """
        The address, for operators.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'redis' if self.tls is None else 'rediss'}://{host}:{self.port}/{self.db}"


def parseSpec(spec: str, option: str) -> RedisSettings:
    """
    Understand C{redis://[[USER]:PASSWORD@]HOST[:PORT][/DB][?name=value[&name=value...]]}, C{rediss} for TLS.

    C{password-file} is a file whose one line is the password, C{prefix} what all keys begin with (C{binaryserver:} if
    not given), C{timeout} how many s an answer may take (0.1 to 60; 5 if not given). With TLS, the server's certificate
    is checked for its host name and against the authorities in the PEM file C{ca} (the system's if not given); C{cert}
    and C{key} (PEM files) are our own.

    @param option: the option's name, for errors, which never quote the password
    @raise ConfigError: it cannot be understood, or a file of it cannot be read
    """
    try:
        parts = urlsplit(spec)
        host, port = parts.hostname, parts.port
    except ValueError:
        # What it says may quote a part of a password.
        raise ConfigError(option, f"the form is {_FORM} (percent-encoded)") from None
    if parts.scheme not in ("redis", "rediss") or not host or parts.fragment or isPasswordTorn(parts):
        raise ConfigError(option, f"the form is {_FORM} (percent-encoded)")
    if port == 0:
        raise ConfigError(option, "the port cannot be 0")
    given = specOptions(parts.query, OPTIONS, option, "redis:")
    password = unquote(parts.password or "")
    if "password-file" in given:
        if password:
            raise ConfigError(option, "a password and password-file do not go together")
        password = readSecret(given["password-file"], option, "password-file")
    if parts.username and not password:
        raise ConfigError(option, f"a user needs a password: the form is {_FORM}")
    isTls = parts.scheme == "rediss"
    for name in ("ca", "cert", "key"):
        if name in given and not isTls:
            raise ConfigError(option, f"{name} needs TLS: rediss://")
    return RedisSettings(
        host,
        port or _DEFAULT_PORT,
        _db(parts.path.strip("/"), option),
        unquote(parts.username or ""),
        password,
        given.get("prefix", _DEFAULT_PREFIX),
        _timeout(given.get("timeout"), option),
        _tls(host, given, option) if isTls else None,
    )


def isPasswordTorn(parts: SplitResult) -> bool:
    """
    Whether a password with a slash or a question mark in it, not percent-encoded, was taken for the end of an address:
    what is read as an option is then none to be quoted.
    """
    return "@" in parts.path + parts.query and "@" not in parts.netloc


def _db(text: str, option: str) -> int:
    if text and not (text.isascii() and text.isdigit()):
        # Not the text itself: it may be a part of a password with a slash in it.
        raise ConfigError(option, f"what follows HOST:PORT/ is not the number of a database: {_FORM} (percent-encoded)")
    return int(text or 0)


def _timeout(text: str | None, option: str) -> float:
    if text is None:
        return _DEFAULT_TIMEOUT
    try:
        timeout = float(text)
    except ValueError:
        timeout = 0.0
    if not 0.1 <= timeout <= 60:
        raise ConfigError(option, f"timeout is {text!r}; it must be a number of s, 0.1 to 60")
    return timeout


def _tls(host: str, given: dict[str, str], option: str) -> IOpenSSLClientConnectionCreator:
    arguments: dict[str, Any] = {}
    if "ca" in given:
        authorities = [Certificate.loadPEM(each) for each in _certificates(given["ca"], option)]
        arguments["trustRoot"] = trustRootFromCertificates(authorities)
    if ("cert" in given) != ("key" in given):
        raise ConfigError(option, "cert and key need each other")
    if "cert" in given:
        own = _read(given["cert"], option) + b"\n" + _read(given["key"], option)
        try:
            arguments["clientCertificate"] = PrivateCertificate.loadPEM(own)
        except (crypto.Error, VerifyError) as error:
            text = str(error) if isinstance(error, VerifyError) else "they are not PEM"
            raise ConfigError(option, f"cannot use {given['cert']} with {given['key']}: {text}") from error
    creator: IOpenSSLClientConnectionCreator = optionsForClientTLS(host, **arguments)
    return creator


def _certificates(path: str, option: str) -> list[bytes]:
    end = b"-----END CERTIFICATE-----"
    found = [each + end for each in _read(path, option).split(end)[:-1]]
    try:
        for each in found:
            Certificate.loadPEM(each)
    except crypto.Error as error:
        raise ConfigError(option, f"{path} has a certificate in it that cannot be read") from error
    if not found:
        raise ConfigError(option, f"{path} has no certificate in it")
    return found


def _read(path: str, option: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(option, f"cannot read {path}: {error.strerror}") from error
