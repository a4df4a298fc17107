"""The one exception that a user's mistake ends in."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend: `solo` prints it without a traceback and exits with status 2."""


def unknown(what: str, value: object, valid: Iterable[object]) -> UserError:
    """An error that names the value and every valid one: `unknown suite 'foo'; valid: smoke, zoo`."""
    return UserError(f"unknown {what} {value!r}; valid: {', '.join(str(v) for v in valid)}")
