"""
The value of the option that names a directory service.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from OpenSSL import crypto
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.web.client import BrowserLikePolicyForHTTPS

from binaryserver.errors import ConfigError
from binaryserver.specoptions import specOptions

OPTIONS = ("ca", "concurrency", "retries", "timeout", "token-file")
"""Every one there is."""

_FORM = "http[s]://HOST[:PORT][/BASE][?option=value[&option=value...]]"
_TIMEOUT, _RETRIES, _CONCURRENCY = 3.0, 2, 8
_BASE = re.compile(r"(/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)*/?")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|::1")


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """
    What the option's value says.

    @ivar base: the URL that every request's begins with, without a slash at its end
    @ivar timeout: s that one answer may take
    @ivar retries: how often a request is made again that failed for now
    @ivar concurrency: requests under way at the same time
    @ivar tokenFile: the path of a file with the bearer token; empty: none is sent
    @ivar policy: whose certificates are trusted
    @ivar isExposed: whoever is on the way can read what is asked, and answer
    """

    base: str
    timeout: float = _TIMEOUT
    retries: int = _RETRIES
    concurrency: int = _CONCURRENCY
    tokenFile: str = ""
    policy: BrowserLikePolicyForHTTPS = field(default_factory=BrowserLikePolicyForHTTPS)
    isExposed: bool = False


def parseSpec(spec: str, option: str) -> HttpSettings:
    """
    Understand C{http://HOST[:PORT][/BASE][?name=value[&name=value...]]}, C{https} for TLS.

    C{timeout} is how many s an answer may take (0.1 to 60; 3 if not given), C{retries} how often a request is made
    again (0 to 10; 2), C{concurrency} how many are made at the same time (1 to 100; 8), C{token-file} a file with a
    bearer token, C{ca} a PEM file with the authorities that sign the service's certificate (the system's if not given).

    @param option: the option's name, for errors, which quote no secret
    @raise ConfigError: it cannot be understood, or the file C{ca} cannot be read
    """
    try:
        parts = urlsplit(spec)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(option, f"the form is {_FORM}: {error}") from None
    if "@" in parts.netloc:
        raise ConfigError(
            option, "secrets do not belong into a URL: name a file with a bearer token by token-file=PATH"
        )
    if parts.scheme not in ("http", "https") or not host or port == 0 or "#" in spec:
        raise ConfigError(option, f"the form is {_FORM}")
    if _HOST.fullmatch(host) is None or _BASE.fullmatch(parts.path) is None:
        raise ConfigError(option, f"there are characters in it that no URL has: the form is {_FORM}")
    if any(each in (".", "..") for each in parts.path.split("/")):
        raise ConfigError(option, f"its path has . or .. in it: the form is {_FORM}")
    given = specOptions(parts.query, OPTIONS, option, "a directory service")
    isTls = parts.scheme == "https"
    if "ca" in given and not isTls:
        raise ConfigError(option, "ca needs TLS: https://")
    return HttpSettings(
        f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{parts.path.rstrip('/')}",
        _number("timeout", given, _TIMEOUT, 0.1, 60, option),
        int(_number("retries", given, _RETRIES, 0, 10, option, isWhole=True)),
        int(_number("concurrency", given, _CONCURRENCY, 1, 100, option, isWhole=True)),
        given.get("token-file", ""),
        _policy(given["ca"], option) if "ca" in given else BrowserLikePolicyForHTTPS(),
        not isTls and _LOOPBACK.fullmatch(host) is None,
    )


def _number(
    name: str, given: dict[str, str], default: float, least: float, most: float, option: str, isWhole: bool = False
) -> float:
    if name not in given:
        return default
    text = given[name]
    try:
        number: float = int(text) if isWhole else float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        what = "a whole number" if isWhole else "a number of s"
        raise ConfigError(option, f"{name} is {text!r:.80}; it must be {what}, {least:g} to {most:g}")
    return number


def _policy(path: str, option: str) -> BrowserLikePolicyForHTTPS:
    end = b"-----END CERTIFICATE-----"
    try:
        with open(path, "rb") as file:
            pieces = file.read().split(end)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name cannot be that of a file"
        raise ConfigError(option, f"ca: cannot read {path!r}: {reason}") from error
    try:
        found = [Certificate.loadPEM(each + end) for each in pieces[:-1]]
    except crypto.Error as error:
        raise ConfigError(option, f"ca: {path} has a certificate in it that cannot be read") from error
    if not found:
        raise ConfigError(option, f"ca: {path} has no certificate in it")
    return BrowserLikePolicyForHTTPS(trustRootFromCertificates(found))
