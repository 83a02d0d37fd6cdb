"""The target, its texts and the tables, which all parts of the replica share."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.papers.adaptive_drafting.arms import Arm
from experiments.papers.adaptive_drafting.corpora import FOREIGN, OWN, foreign_table, own_table
from experiments.papers.adaptive_drafting.greedy_texts import Item, decode_texts, items_of, loaded_model
from experiments.papers.adaptive_drafting.replay import Room
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from jaxdec.decoding.speculative import Aded
from jaxdec.decoding.speculative.aded import ADAPTIVE, TABLE
from jaxdec.decoding.speculative.trigram_table import TrigramTable
from jaxdec.loading import LoadedModel
from jaxdec.typing import PyTree


class Bench:
    """The target, its texts, and the tables, each made when it is first asked for."""

    def __init__(self, config: Mapping[str, Any], parts: Parts, progress: Progress):
        """Decode the greedy texts, or read them."""
        self.config = config
        self.lm: LoadedModel = loaded_model(config["model"], parts.folder)
        self.vocab_size = self.lm.model.vocab_size
        texts = parts.get("greedy_texts", lambda: decode_texts(config, self.lm, progress))
        self.items: list[Item] = items_of(texts, config["new_tokens"])
        self.room = Room.of(self.items)
        self._own: dict[tuple[str, str], TrigramTable] = {}

    @functools.cached_property
    def foreign(self) -> tuple[TrigramTable, dict[str, int]]:
        """Table and size of the foreign corpus."""
        return foreign_table(self.lm.tokenizer, self.vocab_size, self.config["foreign_characters"])

    def own(self, item: Item) -> TrigramTable:
        """Table of all texts but this item's."""
        key = item.set, item.id
        if key not in self._own:
            self._own[key] = own_table(self.items, item, self.vocab_size)
        return self._own[key]

    def companions(self, arm: Arm, item: Item) -> dict[str, PyTree]:
        """The tables that an arm finds beside the model."""
        found: dict[str, PyTree] = {}
        if arm.corpus == FOREIGN:
            found[TABLE] = self.foreign[0]
        if arm.corpus == OWN:
            found[TABLE] = self.own(item)
        if arm.knows_prompt:
            assert isinstance(arm.drafter, Aded)
            found[ADAPTIVE] = prompt_table(arm.drafter, item, self.vocab_size, self.room.prompt)
        return found

    def some(self, field: str) -> list[Item]:
        """As many items of each group as this field of the config says, by set."""
        return [item for which, count in self.config[field].items() for item in self.choose(which, per_group=count)]

    def choose(self, which: str, group: str | None = None, per_group: int | None = None) -> list[Item]:
        """Items of a set, of one group, the first few of each."""
        chosen: list[Item] = []
        for item in self.items:
            same = sum(other.group == item.group for other in chosen)
            if item.set == which and group in (None, item.group) and (per_group is None or same < per_group):
                chosen.append(item)
        return chosen


def prompt_table(drafter: Aded, item: Item, vocab_size: int, room: int) -> TrigramTable:
    """An adaptive table that has learnt the prompt (``room`` tokens at most), each tri-gram once per occurrence."""
    learner = Aded(window=room, step=drafter.step, cap=drafter.cap, capacity=drafter.capacity)
    tokens = jnp.asarray([*item.prompt, *[0] * (room - len(item.prompt))], jnp.int32)
    table = TrigramTable.empty(drafter.capacity, vocab_size)
    return _update(learner, table, tokens, jnp.int32(len(item.prompt)), jnp.bool_(True))


_update = jax.jit(Aded.update, static_argnums=0)
