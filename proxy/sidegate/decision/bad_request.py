"""The exception for a request that applications may read in more than one way."""


class BadRequest(Exception):
    """The request is ambiguous in a part that a limit depends on; it is answered 400. The text gives the reason."""
