"""Decoding: the loop, samplers, and every method."""

from jaxdec.decoding.autoregressive import Autoregressive
from jaxdec.decoding.beam_search import BeamSearch
from jaxdec.decoding.diverse_beam_search import DiverseBeamSearch
from jaxdec.decoding.loop import Method, decode, stream
from jaxdec.decoding.sampling import GREEDY, Sampling
from jaxdec.decoding.state import Decoded, DecodeState, Guarantee, Prompt, Stats

__all__ = [
    "GREEDY",
    "Autoregressive",
    "BeamSearch",
    "DecodeState",
    "Decoded",
    "DiverseBeamSearch",
    "Guarantee",
    "Method",
    "Prompt",
    "Sampling",
    "Stats",
    "decode",
    "stream",
]
