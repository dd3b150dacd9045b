"""
What a Redis must be for sessions to be kept in it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from binaryserver.errors import ConfigError, StoreError, StoreUnavailable
from binaryserver.session.redislink import RedisLink
from binaryserver.session.redissettings import RedisSettings

log = Logger()

OLDEST = (6, 0)
"""The first version that will do."""


async def startChecked(
    link: RedisLink,
    where: str,
    option: str,
    reactor: Any,
    timeout: float,
    check: Callable[[], Coroutine[Deferred[Any], Any, tuple[str, ...]]],
) -> tuple[str, ...]:
    """
    Connect, and look at what is there. The link is stopped if that fails.

    @param where: what Redis is called in messages
    @param timeout: s, for all of it
    @param check: gives warnings, which are logged, too
    @raise ConfigError: it cannot be used
    @raise StoreError: it cannot be reached, or does not answer
    """
    deadline = reactor.seconds() + timeout

    def late(result: object, _: float) -> NoReturn:
        raise StoreUnavailable(f"{option}: {where}: it does not answer")

    try:
        await link.start(timeout)
        checked = Deferred.fromCoroutine(check())
        checked.addTimeout(max(0.1, deadline - reactor.seconds()), reactor, late)
        warnings = await checked
    except BaseException:
        await link.stop(0)
        raise
    for warning in warnings:
        log.warn("{where}: {reason}", where=where, reason=warning)
    return warnings


async def checkServer(call: Callable[..., Deferred[Any]], settings: RedisSettings, option: str) -> tuple[str, ...]:
    """
    Look at version, mode and durability.

    @return: warnings, a sentence each
    @raise ConfigError: it cannot be used
    @raise StoreUnavailable: it went away meanwhile
    """
    warnings = []
    try:
        info = _info(await call("INFO", "server"))
    except StoreUnavailable:
        raise
    except StoreError as error:
        warnings.append(f"its version could not be checked: {error.__cause__}")
    else:
        version = info.get("redis_version", "0")
        numbers = tuple(int(each) for each in version.split(".")[:2] if each.isdigit())
        if numbers < OLDEST:
            wanted = ".".join(map(str, OLDEST))
            raise ConfigError(option, f"{settings.where}: Redis {version} is too old; {wanted} or later is wanted")
        if info.get("redis_mode") == "cluster":
            raise ConfigError(option, f"{settings.where}: it is part of a cluster: a single server is wanted")
    try:
        found = await _config(call, "appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
    except StoreUnavailable:
        raise
    except StoreError as error:
        warnings.append(f"whether it keeps what it acks (appendfsync) could not be checked: {error.__cause__}")
    else:
        warnings += _durability(found)
    return tuple(warnings)


def _durability(found: dict[str, str]) -> list[str]:
    warnings = []
    only, sync = found.get("appendonly"), found.get("appendfsync")
    if (only, sync) != ("yes", "always"):
        warnings.append(
            f"appendonly is {only} and appendfsync is {sync}, not yes and always: acks (G1) and messages to boxes (G5) "
            "hold only for what it has kept when it ends"
        )
    policy = found.get("maxmemory-policy", "noeviction")
    if found.get("maxmemory", "0") != "0" and policy != "noeviction":
        warnings.append(f"maxmemory-policy is {policy}: sessions and messages are lost when memory runs out")
    return warnings


def _info(reply: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}


async def _config(call: Callable[..., Deferred[Any]], *names: str) -> dict[str, str]:
    found = {}
    for name in names:
        for key, value in _pairs(await call("CONFIG", "GET", name)):
            found[key] = value
    return found


def _pairs(reply: list[bytes]) -> list[tuple[str, str]]:
    texts = [each.decode("utf-8", "replace") for each in reply]
    return list(zip(texts[0::2], texts[1::2], strict=False))
