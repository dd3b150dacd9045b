"""
C{binaryserver-ctl hash-secret}.
"""

from __future__ import annotations

import argparse
import sys
from getpass import getpass
from typing import Final

from argon2 import PasswordHasher, Type
from argon2.exceptions import HashingError

from binaryserver.tools.ctl_http import fail, tell

DEFAULT_MEMORY: Final = 19_456
"""KiB"""
DEFAULT_TIME: Final = 2
"""
Passes. OWASP's least for what people think of; the secrets of boxes are drawn at random, and need no more.
"""

_MAX_SECRET: Final = 4096
"""bytes"""


def run(options: argparse.Namespace) -> int:
    """
    Print the hash of a secret, in PHC form.

    @return: the exit status
    """
    try:
        secret = _read()
        hasher = PasswordHasher(options.time, options.memory, parallelism=1, type=Type.ID)
        tell(hasher.hash(secret))
    except ValueError as error:
        return fail(error)
    except (HashingError, MemoryError, OverflowError) as error:
        return fail(f"--memory, --time: {error or 'not enough memory'}")
    except (EOFError, KeyboardInterrupt):
        return fail("no secret was given")
    return 0


def _read() -> bytes:
    """
    @raise ValueError: there is none that can be hashed
    """
    if sys.stdin.isatty():
        typed = getpass("Secret: ")
        if typed != getpass("Again: "):
            raise ValueError("the two are not the same")
        secret = typed.encode("utf-8", "surrogateescape")
    else:
        secret = sys.stdin.buffer.read(_MAX_SECRET + 3)
        # A file ends with a newline that is none of the secret.
        secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise ValueError("no secret was given")
    if len(secret) > _MAX_SECRET:
        raise ValueError(f"the secret has more than {_MAX_SECRET} bytes")
    return secret
