"""What is measured with a loaded model: its shape, whole texts, needles, trees."""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.papers.progress import Progress
from experiments.papers.shared_prefixes import decoding, texts
from jaxdec.decoding import Autoregressive, Prompt, Sampling
from jaxdec.loading import LoadedModel
from jaxdec.shared_prompts import share


def shape_of(lm: LoadedModel) -> dict[str, Any]:
    """Number of layers; query heads, key/value heads and width of a head."""
    config: Any = getattr(lm.model.module, "config")  # noqa: B009
    return {"layers": config.num_layers, "sizes": [config.num_heads, config.num_kv_heads, config.head_dim]}


def attention_shapes(own: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """Rows, shared tokens, own tokens: the grid, then the sweep over suffixes at its end."""
    grid = [(batch, prefix, own["suffix"]) for batch in own["batches"] for prefix in own["prefixes"]]
    sweep = [(own["batches"][-1], own["prefixes"][-1], suffix) for suffix in own["suffixes"]]
    return [*grid, *(case for case in sweep if case not in grid)]


def rate_part(
    lm: Callable[[], LoadedModel], own: Mapping[str, Any], batch: int, prefix: int, progress: Progress
) -> dict[str, Any]:
    """Texts of one batch, in three arms."""
    model, encode = lm().model, lm().tokenizer.encode
    prompts = texts.continuations(encode, prefix, batch)
    arms = decoding.rate_arms(prompts, own["new_tokens"], prefix)
    times = decoding.time_arms(arms, Autoregressive(), model, own["rounds"], progress)
    plain = times["arms"]["alone"]["texts"]
    same = {arm: decoding.same_texts(model, prompts, plain, times["arms"][arm]["texts"]) for arm in decoding.ARMS[1:]}
    return {**times, "same": same}


def needle_part(lm: LoadedModel, own: Mapping[str, Any], progress: Progress) -> list[dict[str, Any]]:
    """Answers with and without sharing, and without the facts."""
    found = []
    with progress.task("needles", len(own["seeds"])) as advance:
        for seed in own["seeds"]:
            prompts, answers = texts.needles(lm.tokenizer.encode, own["tokens"], seed)
            blind, _ = texts.needles(lm.tokenizer.encode, own["tokens"], seed, facts=False)

            def said(questions, sharing):
                arm = decoding.Arm(*share(Prompt.create(questions, own["new_tokens"]), questions, sharing))
                return decoding.run_arm(arm, Autoregressive(), lm.model, lambda: 0.0)["texts"]

            plain, shared, guessed = said(prompts, False), said(prompts, True), said(blind, True)
            right = {
                name: texts.answered([lm.tokenizer.decode(ids) for ids in told], answers)
                for name, told in (("plain", plain), ("shared", shared), ("without facts", guessed))
            }
            same = decoding.same_texts(lm.model, prompts, plain, shared)
            found.append({"questions": len(prompts), "tokens": len(prompts[0]), "right": right, "same": same})
            advance("")
    return found


def tree_part(lm: LoadedModel, own: Mapping[str, Any], seed: int, progress: Progress) -> dict[str, Any]:
    """Samples of several problems, by no, one and two levels."""
    prompts, trees = texts.example_tree(
        lm.tokenizer.encode, own["shots"], own["problem"], own["problems"], own["samples"]
    )
    arms = decoding.tree_arms(prompts, trees, own["new_tokens"], seed)
    return decoding.time_arms(arms, Autoregressive(Sampling(1.0)), lm.model, own["rounds"], progress)
