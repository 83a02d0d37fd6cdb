"""Not there yet."""


def sparse_decode_attention(*arguments):
    """Refuse."""
    raise NotImplementedError("has no kernel")
