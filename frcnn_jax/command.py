"""How every script ends: a fault of the input is one line, not a traceback, and an interruption says how to go on."""

import sys
from collections.abc import Callable
from pathlib import Path


def run(main: Callable[[], None]) -> None:
    """Runs a script's `main`; exits with 1 and a line for bad input, with 130 for an interruption."""
    name = Path(sys.argv[0]).name
    try:
        main()
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        print(
            f"\n{name}: interrupted; what was finished is kept, and the same command goes on from there",
            file=sys.stderr,
        )
        sys.exit(130)
