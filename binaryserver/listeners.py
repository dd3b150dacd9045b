"""
Where boxes come in: listeners of endpoint strings, and what MD21 has beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from twisted.plugin import getPlugins

from binaryserver.endpoints.credentials import CredentialFiles, ReloadingCredentials
from binaryserver.endpoints.door import Door
from binaryserver.endpoints.errors import EndpointError
from binaryserver.endpoints.listening import ServerEndpoint, serverFromString
from binaryserver.endpoints.upgrade import TlsUpgrade
from binaryserver.errors import ConfigError
from binaryserver.interfaces import IBoxProtocol
from binaryserver.md21.settings import Md21Settings
from binaryserver.md21.udpservice import UdpService
from binaryserver.options import OFF
from binaryserver.service import AdoptedListeningService, ListeningService


class Listeners:
    """
    Of one process. Each is made when it is asked for.

    @ivar credentials: of every endpoint that has TLS from its beginning; whoever uses MD21's adds them
    """

    def __init__(self, reactor: Any, settings: Mapping[str, Any], door: Door, mustBeLoopback: str) -> None:
        """
        @param settings: by the names of the options
        @param door: what connections of boxes must pass
        @param mustBeLoopback: why boxes may only come by loopback; empty: they may from anywhere
        """
        self._reactor = reactor
        self._settings = settings
        self._door = door
        self._mustBeLoopback = mustBeLoopback
        self.credentials: list[ReloadingCredentials] = []

    def all(self) -> list[tuple[str, ListeningService]]:
        """
        Where boxes may connect, each with the name of its protocol.

        @raise ConfigError: an endpoint string is wrong
        """
        return [
            (name, ListeningService(optionOf(name), one, self._boxEndpoint(optionOf(name), one), self._mustBeLoopback))
            for name, one in self.descriptions()
        ]

    def adopted(self, name: str, description: str, descriptor: int, family: int) -> AdoptedListeningService:
        """
        One of them that the parent has bound.
        """
        return AdoptedListeningService(
            self._reactor, descriptor, family, self._boxEndpoint(optionOf(name), description)
        )

    def descriptions(self) -> list[tuple[str, str]]:
        """
        Names of protocols, and endpoint strings.

        @raise ConfigError: a plugin's protocol is not there
        """
        given = {"md30": self._settings["md30"], "md21": self._settings["md21"]}
        found = [(name, one) for name, descriptions in given.items() for one in descriptions if one != OFF]
        for text in self._settings["listen"]:
            name, separator, description = text.partition("=")
            known = sorted(set(boxProtocols()) - set(given))
            if not separator or name not in known:
                names = ", ".join(known) or "no plugin brings one"
                raise ConfigError("--listen", f"{text}: the form is PROTOCOL=ENDPOINT; known protocols: {names}")
            found.append((name, description))
        return found

    def _boxEndpoint(self, option: str, description: str) -> ServerEndpoint:
        return self.endpoint(option, description, self._door)

    def endpoint(self, option: str, description: str, door: Door | None = None) -> ServerEndpoint:
        """
        What an endpoint string says.

        @param option: the option that it is the value of
        @param door: what connections must pass; L{None}: nothing
        @raise ConfigError: it cannot be used
        """
        settings = self._settings
        handshakeTimeout, closeTimeout = settings["tls-handshake-timeout"], settings["output-timeout"]
        try:
            endpoint = serverFromString(self._reactor, description, handshakeTimeout, closeTimeout, door)
        except EndpointError as error:
            raise ConfigError(option, str(error)) from error
        if endpoint.credentials is not None:
            self.credentials.append(endpoint.credentials)
        return endpoint

    def md21(self) -> Md21Settings:
        """
        What MD21's links share.

        @raise ConfigError: its certificate cannot be used, or options do not go together
        """
        settings = self._settings
        certificate, key = settings["md21-cert"], settings["md21-key"]
        upgrade = None
        if certificate and key:
            try:
                trusted = settings["md21-clientca"] or None, settings["md21-crl"] or None
                files = CredentialFiles(certificate, key, *trusted)
                credentials = ReloadingCredentials(files, self._reactor)
            except EndpointError as error:
                raise ConfigError("--md21-cert", str(error)) from error
            timeout = settings["tls-handshake-timeout"]
            upgrade = TlsUpgrade(credentials, self._reactor, timeout, settings["output-timeout"])
        elif certificate or key:
            given, missing = ("--md21-cert", "--md21-key") if certificate else ("--md21-key", "--md21-cert")
            raise ConfigError(missing, f"is needed with {given}")
        else:
            for option, path in (("--md21-clientca", settings["md21-clientca"]), ("--md21-crl", settings["md21-crl"])):
                if path:
                    raise ConfigError(option, "is of no use without --md21-cert")
        if settings["md21-require-tls"] and upgrade is None:
            for name, description in self.descriptions():
                if name == "md21" and description.partition(":")[0].lower() not in ("tls", "ssl"):
                    raise ConfigError(
                        "--md21-require-tls", f"no box could have TLS on {description} without --md21-cert"
                    )
        return Md21Settings(
            upgrade,
            settings["md21-require-tls"],
            activityTimeout=settings["md21-activity-timeout"],
            ackTimeout=settings["md21-ack-timeout"],
        )

    def udp(self, worker: int) -> UdpService | None:
        """
        The UDP side of MD21; L{None}: it has none.

        @param worker: the number of this worker
        @raise ConfigError: options do not go together
        """
        spec, advertise = self._settings["md21-udp"], self._settings["md21-udp-advertise"]
        if spec == OFF:
            if advertise:
                raise ConfigError("--md21-udp-advertise", "is of no use without --md21-udp")
            return None
        if not any(name == "md21" for name, _ in self.descriptions()):
            raise ConfigError("--md21-udp", "is of no use without --md21, where boxes are told of it")
        return UdpService(self._reactor, spec, advertise, worker, self._mustBeLoopback)


def boxProtocols() -> dict[str, IBoxProtocol]:
    """
    Those that there are, by their names.
    """
    plugins: Iterable[IBoxProtocol] = getPlugins(IBoxProtocol)
    return {plugin.name: plugin for plugin in plugins}


def optionOf(protocol: str) -> str:
    """
    Which option makes a protocol listen.
    """
    return f"--{protocol}" if protocol in ("md30", "md21") else "--listen"
