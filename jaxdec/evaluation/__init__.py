"""Metrics of decoded text: pure functions of texts, in plain Python."""

from jaxdec.evaluation.bleu import self_bleu, sentence_bleu
from jaxdec.evaluation.bootstrap import Interval, mean_interval
from jaxdec.evaluation.coverage import coverage, validity
from jaxdec.evaluation.distinct import distinct_n
from jaxdec.evaluation.oracle import oracle_at_k

__all__ = [
    "Interval",
    "coverage",
    "distinct_n",
    "mean_interval",
    "oracle_at_k",
    "self_bleu",
    "sentence_bleu",
    "validity",
]
