"""Run a program that is told to stop when the process that started it dies: `lifeline.py PARENT PROGRAM ARGUMENT...`.

The kernel's parent-death signal has to be set in the child, between fork and exec. A separate program does that
because Python's `preexec_fn` may deadlock in a process that has threads, and gRPC's clients have some.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, program: list[str]) -> None:
    """Become `program`, which gets SIGTERM when `parent` dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # The parent may have died before the line above.
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
