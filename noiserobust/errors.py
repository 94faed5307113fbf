"""The one exception that means "your input", never "our bug"."""


class UserError(Exception):
    """Bad input, in one line: what was expected, what came, what to do.

    The command line prints it without a traceback and exits with code 2.
    """
