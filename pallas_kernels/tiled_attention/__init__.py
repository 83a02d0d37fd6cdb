"""What the attention operations have in common: many tiles of query rows, each reading the keys and values of one group.

A tile is ``N`` query rows of one key/value head: tokens, and the ``Hq / Hkv`` query heads that share the head, folded into
one axis. Nothing is causal here. :mod:`rows` cuts rows into tiles, :mod:`softmax_state` is the running softmax, and
:mod:`xla`, :mod:`tpu`, :mod:`hopper` and :mod:`triton` are the programs.
"""
