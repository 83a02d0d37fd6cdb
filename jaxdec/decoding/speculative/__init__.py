"""Speculative decoding: one engine, several drafters and verification rules."""

from jaxdec.decoding.speculative.aded import Aded
from jaxdec.decoding.speculative.draft_model import DraftModel
from jaxdec.decoding.speculative.engine import Drafter, Speculative
from jaxdec.decoding.speculative.lookahead import Lookahead
from jaxdec.decoding.speculative.prompt_lookup import PromptLookup
from jaxdec.decoding.speculative.speed_model import TreeSizes
from jaxdec.decoding.speculative.suffix_retrieval import SuffixRetrieval
from jaxdec.decoding.speculative.tree import DraftTree
from jaxdec.decoding.speculative.verification import ExactMatch, SpeculativeSampling, TypicalAcceptance

__all__ = [
    "Aded",
    "DraftModel",
    "DraftTree",
    "Drafter",
    "ExactMatch",
    "Lookahead",
    "PromptLookup",
    "Speculative",
    "SpeculativeSampling",
    "SuffixRetrieval",
    "TreeSizes",
    "TypicalAcceptance",
]
