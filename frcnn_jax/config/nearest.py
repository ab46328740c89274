"""The known name that a misspelt one stands for."""

import difflib
from collections.abc import Iterable

_LEAST = 0.6  # likeness of the last parts of two names, as of `difflib.get_close_matches`


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name most like `name`, by its last part first: `--train.lr` stands for `--optimizer.learning-rate`.

    The sections before the last part, which many names share, only decide between equally like ones.

    Args:
        known: names whose parts are joined by dots, their words by "-" or "_"; may begin with "--".

    Returns:
        None if none is like it.
    """
    likeness, best = max(((_likeness(name, other), other) for other in known), default=((0.0, 0.0), None))
    return best if likeness[0] >= _LEAST else None


def _likeness(name: str, known: str) -> tuple[float, float]:
    """The likeness of the last parts, then of the whole names, both in 0 ... 1."""
    name, known = (text.replace("_", "-").removeprefix("--") for text in (name, known))
    given, last = (text.rpartition(".")[2] for text in (name, known))
    initials = "".join(word[:1] for word in last.split("-"))
    shortened = (len(given) > 1 and given == initials) or (len(given) > 2 and last.startswith(given))
    return 1.0 if shortened else _ratio(given, last), _ratio(name, known)


def _ratio(name: str, known: str) -> float:
    return difflib.SequenceMatcher(None, name, known).ratio()
