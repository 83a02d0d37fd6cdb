"""What the sparse operations have in common: tiles of query rows, each with a list of the blocks of keys that it reads.

A tile is ``R`` query rows of one head; ``count`` blocks of its list ``index`` are read, in the order of the list. What lies in
the list behind them is not read. Of a block's keys a row reads those that are in use and, in causal tiles, lie no later than
itself. What a list has twice counts twice. :mod:`xla`, :mod:`tpu`, :mod:`hopper` and :mod:`triton` are the programs.
"""
