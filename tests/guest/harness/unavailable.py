"""One word for every reason why there is no guest."""


class Unavailable(Exception):
    """A guest of this kind cannot be had on this machine; the text says why."""
