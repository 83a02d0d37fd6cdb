"""Write the golden files that the tests compare with, from implementations that are not ours.

    python -m experiments.golden --out=tests/golden

``smollm2_tokens.json``: token ids of varied texts by llama.cpp, which implements the model's own pre-tokenizer, and the
others; the texts that transformers' reading of the GGUF file tokenizes otherwise are listed (it does not set digits apart, so
spaces before a number merge otherwise). ``sentencepiece_tokens.json``: the same for a small SentencePiece vocabulary.
``smollm2_logits.json``: logits and greedy continuations of varied prompts by transformers in float32, on the weights that it
dequantises itself. Needs the ``peers`` packages. Also measures how far jaxdec is from transformers over the whole vocabulary
and all positions, and records that number.
"""

import importlib
import importlib.metadata
import json
import platform
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging

from experiments.golden_texts import CHATS, RAW, sentencepiece_texts, texts
from experiments.golden_tokens import llama_cpp, sentencepiece_vocabulary

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "smollm2-135m-instruct", "Registered name or path of a GGUF file.")
flags.DEFINE_string("out", "tests/golden", "Folder for the golden files.")

MAX_NEW_TOKENS = 64
TOP = 20
NUM_FIXED = 32
PRE_TOKENIZERS = ("default", "gpt-2", "llama-bpe", "qwen2")
PACKAGES = ("torch", "transformers", "tokenizers", "gguf", "xllamacpp", "jax", "jaxlib", "jaxdec")


def main(_: list[str]) -> None:
    """Make the files."""
    logging.set_verbosity(logging.WARNING)
    from jaxdec.checkpoints.registry import resolve

    path, out = resolve(FLAGS.model), Path(FLAGS.out)
    importlib.import_module("transformers").logging.set_verbosity_error()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    head = {"model": path.name, "versions": versions}
    write_tokens(path, out / "smollm2_tokens.json", head)
    write_sentencepiece(out / "sentencepiece_tokens.json", {"versions": versions})
    write_logits(path, out / "smollm2_logits.json", head)


def write_tokens(path: Path, out: Path, head: dict[str, Any]) -> None:
    """Token ids of the model, and of its vocabulary under the other pre-tokenizers, where they differ."""
    from jaxdec.checkpoints.gguf_file import GGUFFile

    transformers, inputs = importlib.import_module("transformers"), texts()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    with llama_cpp(path) as tokenize:
        ids = [tokenize(text) for text in inputs]
    theirs = [tokenizer.encode(text, add_special_tokens=False) for text in inputs]
    metadata = GGUFFile(path).metadata
    keys = ("model", "tokens", "token_type", "merges", "eos_token_id", "bos_token_id")
    vocabulary = {key: metadata[f"tokenizer.ggml.{key}"] for key in keys}
    others = {}
    for pre in PRE_TOKENIZERS:
        # Qwen's own tokenizer normalises to NFC, which llama.cpp leaves to its caller.
        fed = [unicodedata.normalize("NFC", text) if pre == "qwen2" else text for text in inputs]
        with llama_cpp(vocabulary | {"pre": pre}) as tokenize:
            others[pre] = {index: row for index, text in enumerate(fed) if (row := tokenize(text)) != ids[index]}
        say(f"{pre}: {len(others[pre])} of {len(inputs)} texts differ from the model's own")
    differ = [index for index, row in enumerate(theirs) if row != ids[index]]
    say(f"{len(inputs)} texts, of which transformers tokenizes {len(differ)} otherwise than llama.cpp")
    lines = [[text, row] for text, row in zip(inputs, ids)]
    write_lines(out, head | {"transformers_differs": differ}, lines, {"pre_tokenizers": others})


def write_sentencepiece(out: Path, head: dict[str, Any]) -> None:
    """Token ids under a small SentencePiece vocabulary, with and without a space before the text."""
    lines = []
    for prefix in (True, False):
        tokenizer = {"model": "llama", "add_space_prefix": prefix, **sentencepiece_vocabulary()}
        with llama_cpp(tokenizer) as tokenize:
            lines += [[prefix, text, tokenize(text)] for text in sentencepiece_texts()]
    write_lines(out, head, lines)


def write_logits(path: Path, out: Path, head: dict[str, Any]) -> None:
    """Logits and continuations by transformers, and how far jaxdec is from them."""
    from jaxdec.loading import load

    transformers = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    prompts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in CHATS] + RAW
    with llama_cpp(path) as tokenize:
        ids = [tokenize(prompt) for prompt in prompts]
    oracle, lm = TransformersOracle(path), load(path)
    weights_equal = oracle.weights_equal(lm)
    say(f"weights dequantised by transformers equal ours: {weights_equal}")
    fixed = np.sort(np.random.default_rng(0).choice(lm.model.vocab_size, NUM_FIXED, replace=False)).tolist()
    entries, differences = [], []
    for number, prompt in enumerate(prompts):
        entry, logits = oracle.entry(ids[number], fixed, stop=lm.tokenizer.eos_token_ids)
        entries.append({"text": prompt, "messages": CHATS[number] if number < len(CHATS) else None} | entry)
        differences.append(float(np.abs(logits - our_logits(lm, entry["prompt"] + entry["continuation"])).max()))
        say(
            f"prompt {number + 1} of {len(prompts)}: {len(entry['prompt'])} + {len(entry['continuation'])} tokens, "
            f"full-vocabulary max abs difference {differences[-1]:.2e}"
        )
    head = head | {
        "weights_equal": weights_equal,
        "max_abs_difference": {
            "over": "all logits at all positions",
            "of_each_prompt": differences,
            "max": max(differences),
        },
        "fixed_ids": fixed,
    }
    write_lines(out, head, entries)
    say(f"max abs difference of jaxdec from transformers over {len(prompts)} prompts: {max(differences):.2e}")


class TransformersOracle:
    """The model in transformers, float32, from the same GGUF file."""

    def __init__(self, path: Path):
        self._torch = importlib.import_module("torch")
        classes = importlib.import_module("transformers")
        model = classes.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=self._torch.float32
        )
        self._model = model.eval()

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits ``[len(ids), V]`` of one forward pass over a text."""
        with self._torch.inference_mode():
            return self._model(self._torch.tensor([ids])).logits[0].float().numpy()

    def entry(self, prompt: list[int], fixed: list[int], stop: tuple[int, ...]) -> tuple[dict[str, Any], np.ndarray]:
        """Continue ``prompt`` greedily, and describe the logits of the whole text; return these too."""
        with self._torch.inference_mode():
            tokens = self._model.generate(
                self._torch.tensor([prompt]), do_sample=False, max_new_tokens=MAX_NEW_TOKENS, eos_token_id=list(stop),
                attention_mask=self._torch.ones(1, len(prompt), dtype=self._torch.long), pad_token_id=stop[0],
                repetition_penalty=1.0,
            )[0].tolist()  # fmt: skip
        logits = self.logits(tokens)
        predicting = logits[len(prompt) - 1 : -1]
        best_two = np.sort(np.partition(predicting, -2)[:, -2:])
        last = logits[len(prompt) - 1]
        top = np.argsort(-last, kind="stable")[:TOP]
        positions = sorted({0, len(prompt) // 2, len(prompt) - 1, len(tokens) - 1})
        return {
            "prompt": prompt,
            "continuation": tokens[len(prompt) :],
            "gaps": rounded(best_two[:, 1] - best_two[:, 0]),
            "top": [top.tolist(), rounded(last[top])],
            "at_fixed_ids": [[position, rounded(logits[position, fixed])] for position in positions],
        }, logits

    def weights_equal(self, lm: Any) -> bool:
        """Whether the weights that transformers dequantised are ours, bit by bit."""
        from jaxdec.checkpoints.param_layout import params_to_hf_tensors

        theirs, ours = self._model.state_dict(), params_to_hf_tensors(lm.model.module.config, lm.model.params)
        return all(np.array_equal(theirs[name].numpy(), tensor) for name, tensor in ours.items())


def our_logits(lm: Any, ids: list[int]) -> np.ndarray:
    """Logits ``[len(ids), V]`` of jaxdec."""
    import jax.numpy as jnp

    cache = lm.model.init_cache(1, len(ids))
    return np.asarray(lm.model(jnp.asarray([ids]), jnp.arange(len(ids))[None], cache).logits[0])


def rounded(values: np.ndarray) -> list[float]:
    """Four decimals: the tests allow ten times as much."""
    return [round(float(value), 4) for value in values]


def write_lines(path: Path, head: dict[str, Any], entries: list[Any], more: dict[str, Any] | None = None) -> None:
    """Write ``head`` with ``entries`` added, an entry a line, and ``more``, compact; whole or not at all."""
    from experiments.record import write_text

    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    rest = "".join(f',\n "{key}": {json.dumps(value, separators=(",", ":"))}' for key, value in (more or {}).items())
    write_text(path, json.dumps(head, indent=1)[:-2] + f',\n "entries": [\n{lines}\n]{rest}\n}}\n')
    say(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def say(message: str) -> None:
    """Print to stderr."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app.run(main)
