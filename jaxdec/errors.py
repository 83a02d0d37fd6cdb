"""The error of a checkpoint that cannot be trusted."""


class CheckpointError(ValueError):
    """A file that is truncated, corrupt, of an unsupported kind, or does not match its config."""
