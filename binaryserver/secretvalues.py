"""
Secrets in the values of options: read from files, told from what may be shown.
"""

from __future__ import annotations

import re
from typing import Final

from binaryserver.errors import ConfigError

_MAX_SECRET: Final = 4096
"""bytes"""

# Of librdkafka's: sasl.password, ssl.key.password, ssl.key.pem, sasl.oauthbearer.client.secret, ...
_SECRET_NAMES: Final = r"password|passphrase|secret|key\.pem|oauthbearer\.config"
_NO_SECRETS: Final = r"[.-](?:file|location)"
_SECRET_ARGUMENT: Final = re.compile(
    # With what follows an ampersand that should have been percent-encoded.
    rf"((?:^|[?&])(?![^=&]*{_NO_SECRETS}=)[^=&]*(?:{_SECRET_NAMES})[^=&]*=)[^&]*(?:&[^=&]*(?=&|$))*",
    re.IGNORECASE,
)


def readSecret(path: str, option: str, name: str) -> str:
    """
    The secret that a file holds: its one line.

    @param option: the option that named the file, for errors, which never quote the secret
    @param name: how it was named there
    @raise ConfigError: there is none
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_SECRET + 1)
        secret = data.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ConfigError(option, f"{name}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(option, f"{name}: {path} is not UTF-8") from None
    if not secret or len(data) > _MAX_SECRET or len(secret.splitlines()) > 1:
        raise ConfigError(option, f"{name}: {path} is to hold one line of at most {_MAX_SECRET} bytes")
    return secret


def withoutSecrets(spec: str) -> str:
    """
    An option's value as it may be shown: C{***} for user and password (a user alone is shown), and for arguments
    that are secrets.
    """
    scheme, separator, rest = spec.partition("://")
    if not separator:
        return spec
    address, question, query = rest.partition("?")
    if ":" in address.rpartition("@")[0]:
        address = f"***@{address.rpartition('@')[2]}"
    shown = _SECRET_ARGUMENT.sub(r"\1***", query)
    return f"{scheme}://{address}{question}{shown}"


def holdsSecret(spec: str) -> bool:
    """
    Whether a password, or a secret of another kind, stands in an option's value itself.
    """
    address, _, query = spec.partition("://")[2].partition("?")
    return ":" in address.rpartition("@")[0] or _SECRET_ARGUMENT.search(query) is not None
