"""The one exception a user may meet: a single line that says what, where and what to do.

The command line turns it into exit code 3. Anything else that escapes is a bug of ours.
"""


class DbnetError(Exception):
    """Could not do what was asked. The message is one line: what, where, what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))
