"""``fastnet`` and ``python -m fastnet``: the command line, which Ctrl-C ends quietly from the first import on."""

import atexit
import gc
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line and return the exit status.

    What is imported first takes 0.4 s, and an exception would end it anywhere: Ctrl-C waits for its end, unless it
    comes twice.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if heeds := signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    try:
        try:
            from .cli.main import parse, run
        except ValueError as error:  # an environment variable, such as FASTNET_CACHES, says what cannot be
            print(f"fastnet: {error}", file=sys.stderr)
            return 2

        atexit.register(gc.freeze)  # a process that ends would collect garbage twice: 0.4 s after a compilation
        options = parse(sys.argv[1:])
        if heeds:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if not came:
            return run(options)
    except KeyboardInterrupt:
        pass
    print("fastnet: interrupted", file=sys.stderr)
    return 130


if __name__ == "__main__":
    sys.exit(main())
