"""Parts of the replica of Hydragen: caches, times, texts, and what is said about them."""
