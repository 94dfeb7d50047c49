"""Runs a command until it ends, or until whoever started this closes stdin or goes away.

A test run that is killed cannot stop its servers; the system closes its pipes.
"""

from __future__ import annotations

import subprocess
import sys
import threading

STOP_TIMEOUT_S = 20


def main(command: list[str]) -> int:
    """Run the command and return its exit status."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def stop_at_the_end_of_stdin() -> None:
        sys.stdin.buffer.read()
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()

    threading.Thread(target=stop_at_the_end_of_stdin, daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
