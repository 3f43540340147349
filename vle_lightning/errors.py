"""What a user can fix, and what a scheduler asks for."""


class UserError(ValueError):
    """Wrong input; the message names the file or option, the reason and the remedy. Printed without a traceback."""


class Interrupted(Exception):
    """A run was told to stop, and has; the message says where it goes on. Printed without a traceback."""
