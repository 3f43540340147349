"""Errors that a user can mend: the command line prints their message alone and exits with 2."""


class UserError(ValueError):
    """What was wrong, where (file, key, sample), and what to do."""
