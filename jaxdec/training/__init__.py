"""Training: objectives, one loop that checkpoints and resumes, and what a model needs in place of a key/value cache."""

from jaxdec.training.distillation import all_but, distillation_loss
from jaxdec.training.loop import TrainState, begin, fit, update
from jaxdec.training.next_token import next_token_loss
from jaxdec.training.sequence_cache import SequenceCache

__all__ = ["SequenceCache", "TrainState", "all_but", "begin", "distillation_loss", "fit", "next_token_loss", "update"]
