"""Numbers and lists of names in messages."""

from collections.abc import Sequence

__all__ = ["counted", "listed"]


def counted(number: int, one: str, several: str = "") -> str:
    """A number of things in words: "1 object", "2 objects", or with `several` for other plurals."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """The first `most` names, separated by commas, and the number of the others: "a, b and 3 more"."""
    others = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + others
