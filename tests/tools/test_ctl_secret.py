"""
Tests for L{binaryserver.tools.ctl_secret}: C{binaryserver-ctl hash-secret}, as a process of its own.
"""

from __future__ import annotations

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from tests.tools.test_ctl import CtlCase, Program


class HashSecretTests(CtlCase):
    """
    C{hash-secret}.
    """

    async def hashed(self, given: bytes, *arguments: str) -> Program:
        """
        What becomes of a secret on standard input.
        """
        program = Program("hash-secret", *arguments)
        program.transport.write(given)
        program.transport.closeStdin()
        await program.ended
        return program

    async def test_hash(self) -> None:
        """
        One line in PHC form, another one each time, that the secret fits, without the newline behind it, and no other.
        """
        lines = []
        for given, secret in ((b"geheim\n", b"geheim"), (b"geheim", b"geheim"), (b"\xff \n\r\n", b"\xff \n")):
            program = await self.hashed(given)
            self.assertEqual((program.ended.result, program.errors), (0, b""))
            [line] = program.lines()
            self.assertTrue(line.startswith("$argon2id$v=19$m=19456,t=2,p=1$"), line)
            self.assertTrue(PasswordHasher().verify(line, secret))
            self.assertRaises(VerifyMismatchError, PasswordHasher().verify, line, secret + b"x")
            lines.append(line)
        self.assertEqual(len(set(lines)), 3)

    async def test_parameters(self) -> None:
        """
        What a check costs can be chosen.
        """
        [line] = (await self.hashed(b"geheim", "--memory", "1024", "--time", "3")).lines()
        self.assertTrue(line.startswith("$argon2id$v=19$m=1024,t=3,p=1$"), line)

    async def test_refused(self) -> None:
        """
        No secret, one that is too large, and parameters that cannot be are one line and status 1.
        """
        for given, arguments, words in (
            (b"", (), b"no secret was given"),
            (b"\n", (), b"no secret was given"),
            (b"x" * 4097, (), b"the secret has more than 4096 bytes"),
            (b"geheim", ("--memory", "1"), b"--memory, --time: "),
            (b"geheim", ("--memory", "99999999999"), b"--memory, --time: "),
        ):
            program = await self.hashed(given, *arguments)
            self.assertEqual((program.ended.result, program.output), (1, b""))
            self.assertTrue(program.errors.startswith(b"binaryserver-ctl: " + words), program.errors)
            self.assertEqual(program.errors.count(b"\n"), 1, program.errors)
            self.assertNotIn(b"geheim", program.errors)

    async def test_notOnTheCommandLine(self) -> None:
        """
        A secret on the command line is none that is taken.
        """
        program = await self.hashed(b"", "geheim")
        self.assertEqual((program.ended.result, program.output), (2, b""))

    async def typed(self, *answers: bytes) -> Program:
        """
        What becomes of a secret that is typed at a terminal.
        """
        left = list(answers)
        program = Program("hash-secret", hasTerminal=True)
        received = program.outReceived
        asked = 0

        def typing(data: bytes) -> None:
            nonlocal asked
            received(data)
            while left and program.output.count(b": ") > asked:
                asked += 1
                program.transport.write(left.pop(0))

        program.outReceived = typing  # type: ignore[method-assign]
        await program.ended
        return program

    async def test_typed(self) -> None:
        """
        At a terminal it is asked for twice, and not shown.
        """
        program = await self.typed(b"geheim\n", b"geheim\n")
        self.assertEqual(program.ended.result, 0, program.output)
        self.assertNotIn(b"geheim", program.output)
        self.assertTrue(PasswordHasher().verify(program.lines()[-1].strip(), b"geheim"))

    async def test_mistyped(self) -> None:
        """
        Two that are not the same, and none at all.
        """
        program = await self.typed(b"geheim\n", b"geheom\n")
        self.assertEqual((program.ended.result, b"not the same" in program.output), (1, True), program.output)
        program = await self.typed(b"\x04")
        self.assertEqual((program.ended.result, b"no secret was given" in program.output), (1, True), program.output)
