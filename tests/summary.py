"""
The whole suite, or the modules that are named, with the closing line C{N passed, N failed, N skipped}.

    python -m tests.summary [MODULE ...]

Trial's reporter says in one line what is skipped and why; this counts, and names the tests that took longest. The line
is the last one printed.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from twisted.trial.reporter import TreeReporter
from twisted.trial.runner import TestLoader, TrialRunner

_DEFAULT = ("tests",)
_SLOWEST = 25


class TimingReporter(TreeReporter):
    """
    Trial's, which also keeps how long each test took, in seconds.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.seconds: dict[str, float] = {}
        self._begun = 0.0

    def startTest(self, method: Any) -> None:
        """
        Called before a test.
        """
        self._begun = time.monotonic()
        super().startTest(method)

    def stopTest(self, method: Any) -> None:
        """
        Called after it.
        """
        super().stopTest(method)
        self.seconds[method.id()] = time.monotonic() - self._begun


def main(modules: Sequence[str]) -> int:
    """
    Run, print, count.

    @return: the exit status
    """
    os.makedirs("var", exist_ok=True)
    suite = TestLoader().loadByNames(list(modules or _DEFAULT), True)
    runner = TrialRunner(TimingReporter, workingDirectory=os.path.join("var", "trial"))
    result: Any = runner.run(suite)
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    passed = result.successes + len(result.expectedFailures)
    slowest = sorted(result.seconds.items(), key=lambda each: -each[1])[:_SLOWEST]
    print(f"the {len(slowest)} slowest tests took {sum(seconds for _, seconds in slowest):.0f} s:")
    for name, seconds in slowest:
        print(f"{seconds:7.1f} s  {name}")
    for reason, count in sorted(Counter(str(reason) for _, reason in result.skips).items()):
        print(f"skipped {count}: {reason}")
    print(f"{passed} passed, {failed} failed, {len(result.skips)} skipped", flush=True)
    return int(failed > 0 or not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
