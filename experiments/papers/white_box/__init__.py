"""Parts of the replica of CRATE."""
