"""Decoding: the loop, samplers, and every method."""

from jaxdec.decoding.autoregressive import Autoregressive
from jaxdec.decoding.loop import Method, decode, stream
from jaxdec.decoding.sampling import GREEDY, Sampling
from jaxdec.decoding.state import Decoded, DecodeState, Guarantee, Prompt, Stats

__all__ = [
    "GREEDY",
    "Autoregressive",
    "DecodeState",
    "Decoded",
    "Guarantee",
    "Method",
    "Prompt",
    "Sampling",
    "Stats",
    "decode",
    "stream",
]
