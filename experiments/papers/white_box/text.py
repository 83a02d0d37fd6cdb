"""CRATE-GPT on bytes of text beside a transformer of about as many parameters, and decoded by several methods."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.papers.progress import Progress
from experiments.papers.white_box.images import optimizer_of
from experiments.text_sources import installed_texts
from jaxdec.data import InOrder, TokenWindows, batches, byte_tokens
from jaxdec.data.text import joined_tokens
from jaxdec.decoding import Autoregressive, BeamSearch, Prompt, decode
from jaxdec.decoding.speculative import PromptLookup, Speculative
from jaxdec.language_model import LanguageModel
from jaxdec.models import DecoderConfig, Transformer
from jaxdec.models.crate import CrateConfig
from jaxdec.models.crate_lm import CrateLM, CrateLMConfig
from jaxdec.training.recipes.language_model import NextToken
from jaxdec.training.trainer import train

ARMS = ("crate", "transformer")
BYTES = 256
POSITIONS = 512
METHODS: dict[str, Any] = {
    "greedy": Autoregressive(),
    "prompt lookup": Speculative(PromptLookup(num_nodes=7)),
    "beam search": BeamSearch(3),
}


@functools.cache
def text_of(limit: int) -> np.ndarray:
    """Bytes of what every machine with Python has; the language reference comes first."""
    texts = (text.text for source in installed_texts() for text in source.texts)
    return joined_tokens(texts, byte_tokens, limit=limit)


def split(config: Mapping[str, Any]) -> tuple[TokenWindows, TokenWindows]:
    """Windows to train on, and windows of the last part of the text."""
    tokens = text_of(config["bytes"])
    cut = int(len(tokens) * (1 - config["test_fraction"]))
    return TokenWindows(tokens[:cut], config["length"]), TokenWindows(tokens[cut:], config["length"])


def module_of(config: Mapping[str, Any], arm: str) -> Any:
    """The language model of an arm. A CRATE layer has a third of a transformer layer's parameters, so it has more layers."""
    width, heads = config["hidden_size"], config["num_heads"]
    if arm == "crate":
        return CrateLM(CrateLMConfig(CrateConfig(width, config["num_layers"], heads), BYTES, POSITIONS))
    layers = max(1, config["num_layers"] * 3 // 10)
    return Transformer(
        DecoderConfig(
            architecture="llama", vocab_size=BYTES, hidden_size=width, intermediate_size=2 * width, num_layers=layers,
            num_heads=heads, num_kv_heads=heads, head_dim=width // heads, max_position_embeddings=POSITIONS,
        )
    )  # fmt: skip


def language_part(config: Mapping[str, Any], arm: str, progress: Progress) -> dict[str, Any]:
    """Nats per byte on text that was not trained on, parameters; of CRATE also what decoding methods make of it."""
    learnt, tested = split(config)
    recipe = NextToken(module_of(config, arm))
    with progress.task(f"language model, {arm}", config["steps"]) as advance:
        state = train(
            recipe, optimizer_of(config), batches(learnt, config["batch_size"], 0), config["steps"],
            key=jax.random.key(0), on_step=lambda step, metrics: advance(""),
        )  # fmt: skip
    held_out = InOrder(tested, config["batch_size"])
    number = min(len(held_out), config["test_batches"])
    nats = [float(recipe.evaluate(state.params, {}, held_out[index])["nats"]) for index in range(number)]
    found: dict[str, Any] = {
        "nats": float(np.mean(nats)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    }
    if arm == "crate":
        found["decoded"] = decoded(LanguageModel(recipe.module, state.params), tested, config["decode"])
    return found


def decoded(model: LanguageModel, tested: TokenWindows, config: Mapping[str, Any]) -> dict[str, Any]:
    """By method: tokens per call, texts that equal those of greedy decoding, mean log-probability; and one text."""
    prompts = [tested[index]["tokens"][: config["prompt"]].tolist() for index in range(config["prompts"])]
    prompt = Prompt.create(prompts, config["new_tokens"], eos_tokens=[-1], vocab_size=model.vocab_size)
    found: dict[str, Any] = {}
    greedy = None
    for name, method in METHODS.items():
        result = decode(method, model, prompt)
        tokens = np.asarray(result.tokens)[:, 0, : config["new_tokens"]]
        greedy = tokens if greedy is None else greedy
        calls = np.asarray(result.target_calls)[:, 0]
        found[name] = {
            "tokens_per_call": float(config["new_tokens"] * len(prompts) / calls.sum()),
            "equal": int((tokens == greedy).all(1).sum()),
            "texts": len(prompts),
            "log_prob": float(np.asarray(result.log_prob)[:, 0].mean()),
        }
    assert greedy is not None
    found["text"] = bytes([*prompts[0], *greedy[0].tolist()]).decode("utf-8", errors="replace")
    return found
