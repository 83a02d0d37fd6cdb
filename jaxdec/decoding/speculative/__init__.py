"""Speculative decoding: one engine, several drafters and verification rules."""

from jaxdec.decoding.speculative.engine import Drafter, Speculative
from jaxdec.decoding.speculative.prompt_lookup import PromptLookup
from jaxdec.decoding.speculative.tree import DraftTree
from jaxdec.decoding.speculative.verification import ExactMatch, SpeculativeSampling, TypicalAcceptance

__all__ = [
    "Drafter",
    "DraftTree",
    "ExactMatch",
    "PromptLookup",
    "Speculative",
    "SpeculativeSampling",
    "TypicalAcceptance",
]
