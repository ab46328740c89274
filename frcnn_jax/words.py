"""Numbers and lists of names in messages."""

from collections.abc import Iterable, Sequence

__all__ = ["counted", "joined", "listed"]


def counted(number: int, one: str, several: str = "") -> str:
    """A number of things in words: "1 object", "2 objects", or with `several` for other plurals."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """The first `most` names, separated by commas, and the number of the others: "a, b and 3 more"."""
    others = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + others


def joined(names: Iterable[str]) -> str:
    """All names in words: "a", "a and b", "a, b and c"; empty for none."""
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
