"""
Whatever is done with a L{ISessionStore} in whatever order, it answers as plain dicts do.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from hypothesis import Phase, given, settings
from twisted.internet.threads import blockingCallFromThread, deferToThread

from tests.session.contract_base import ContractBase, reactor
from tests.session.model import ModelStore
from tests.session.operations import Accounts, Operation, operations, run


class SequencesContractMixin(ContractBase):
    """
    A store against the model.
    """

    examples = 25

    async def test_sequences(self) -> None:
        """
        One store takes all examples, each with accounts of its own; they wait for it in a thread.
        """
        store = await self.startStore()
        numbers = count()

        # Not made smaller when one fails: that would go on in the thread long after the test's timeout.
        @settings(max_examples=self.examples, deadline=None, database=None, phases=[Phase.generate])
        @given(operations)
        def compare(doing: list[Operation]) -> None:
            accounts = Accounts(f"-{next(numbers)}")

            def answer(name: str, *arguments: Any) -> Any:
                method = getattr(store, name)
                return accounts.heard(blockingCallFromThread(reactor, method, *accounts.told(arguments)))

            wanted = ModelStore()
            self.assertEqual(run(doing, answer), run(doing, lambda name, *given: getattr(wanted, name)(*given)))

        await deferToThread(compare)
