"""`python -m chaos.clock SECONDS -m MODULE ARGUMENTS`: runs a module in a process whose clock is wrong by SECONDS.

`time.time` alone: what a process measures by (`time.monotonic`) is right on machines with wrong clocks, too.
"""

from __future__ import annotations

import runpy
import sys
import time


def main() -> None:
    seconds, _dash_m, module, *arguments = sys.argv[1:]
    right, off = time.time, float(seconds)
    time.time = lambda: right() + off
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
