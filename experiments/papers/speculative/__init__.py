"""The replica of the speculative baselines: what is measured, and how it is judged."""
