"""
Erlang's C{asn1ct} as a codec, in one process that lives as long as a test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from threading import Timer
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.md21.abstract import MODULE, Abstract
from tests.services import REQUIRE, requireProgram

SECONDS = 120
"""How long it may live."""


class Erlang:
    """
    Starts Erlang and compiles the module.

    @raise SkipTest: Erlang is not installed, or its ASN.1 compiler
    """

    def __init__(self, folder: Path) -> None:
        escript = requireProgram("escript", "erlang-base")
        source = shutil.copy(MODULE, folder / "MD21.asn1")
        command = [escript, str(Path(__file__).with_name("bridge.escript")), str(source), str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="latin-1")
        self._timer = Timer(SECONDS, self._process.kill)
        self._timer.start()
        if self._line() != "ready":
            self.close()
            sentence = "Erlang's ASN.1 compiler does not work (Debian: erlang-asn1)"
            raise AssertionError(sentence) if os.environ.get(REQUIRE) == "1" else SkipTest(sentence)

    def encode(self, value: Abstract) -> bytes:
        """
        What Erlang makes of a value.
        """
        return bytes.fromhex(self._ask(f"{{encode, {term(value)}}}."))

    def decode(self, value: Abstract, pdu: bytes) -> str:
        """
        C{"same"} if Erlang reads a PDU as a value, else what it reads.
        """
        return self._ask(f"{{decode, {term(value)}, {_binary(pdu)}}}.")

    def close(self) -> None:
        """
        End the process.
        """
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()

    def _ask(self, request: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        line = self._line()
        if not line:
            raise AssertionError("Erlang has ended")
        return line

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")


def term(value: Any, component: str = "") -> str:
    """
    A value as Erlang writes it, where the component's name is C{component}.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case bytes():
            return _binary(value)
        case str() if component in _ENUMERATED:
            return f"'{value}'"
        case str() if component in _UTF8:
            return _binary(value.encode())
        case str():
            return f"[{','.join(map(str, value.encode('ascii')))}]"
        case tuple((name, content)):
            return f"{{'{name}', {term(content, name)}}}"
        case list():
            return f"[{','.join(term(each, component) for each in value)}]"
        case dict():
            return f"#{{{','.join(f'{name} => {term(each, name)}' for name, each in value.items())}}}"
    raise AssertionError(value)


_ENUMERATED = ("marks", "reason", "status", "wantAck")
_UTF8 = ("fileName", "secret", "strings")
"""Components that Erlang knows as atoms and as bytes; the other texts are lists of characters to it."""


def _binary(octets: bytes) -> str:
    return f"<<{','.join(map(str, octets))}>>"
