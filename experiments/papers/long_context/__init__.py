"""Parts of the replica of The Sparse Frontier: small models and their tasks, rules in a sweep, and what is said about them."""
