"""Timings: interleaved against peers in one run, medians with their spread, load of other processes recorded beside them."""
