"""
The whole suite, or the modules that are named, with the closing line C{N passed, N failed, N skipped}.

    python -m tests.summary [MODULE ...]

Trial's reporter says in one line what is skipped and why; this counts. The line is the last one printed.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from twisted.trial.reporter import TreeReporter
from twisted.trial.runner import TestLoader, TrialRunner

_DEFAULT = ("tests",)


def main(modules: Sequence[str]) -> int:
    """
    Run, print, count.

    @return: the exit status
    """
    os.makedirs("var", exist_ok=True)
    suite = TestLoader().loadByNames(list(modules or _DEFAULT), True)
    runner = TrialRunner(TreeReporter, workingDirectory=os.path.join("var", "trial"))
    result: Any = runner.run(suite)
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    passed = result.successes + len(result.expectedFailures)
    for reason, count in sorted(Counter(str(reason) for _, reason in result.skips).items()):
        print(f"skipped {count}: {reason}")
    print(f"{passed} passed, {failed} failed, {len(result.skips)} skipped", flush=True)
    return int(failed > 0 or not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
