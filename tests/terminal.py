"""A standard error to see in tests what a terminal would show."""

import io


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self):
        return True
