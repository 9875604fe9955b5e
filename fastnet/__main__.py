"""``fastnet`` and ``python -m fastnet``: the command line; Ctrl-C ends it quietly, even during the first imports."""

import atexit
import gc
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line and return the exit status.

    The imports take 0.4 s, and a KeyboardInterrupt could break them off anywhere; so the first Ctrl-C takes effect
    after them, a second one at once.
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
        except ValueError as error:  # an environment variable such as FASTNET_CACHES is invalid
            print(f"fastnet: {error}", file=sys.stderr)
            return 2

        atexit.register(gc.freeze)  # spares the two collections at exit, which take 0.4 s after a compilation
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
