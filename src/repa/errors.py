"""The one exception that a command shows to its user as a single line."""


class RepaError(Exception):
    """Something the user can fix: what was given, what was expected, what to do. One line."""
