"""Our logits beside those of transformers: the real model against a golden file, tiny random ones against the package."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdec
from jaxdec.checkpoints.hf_directory import save_hf_directory
from jaxdec.language_model import LanguageModel
from tests.real_model import real_model
from tests.tiny_text import byte_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "smollm2_logits.json"
TOLERANCE = 2e-3
TIE = 1e-2
SIZES = (
    96,
    272,
)  # texts are padded to these, to compile twice; the smaller takes the product for few rows, the other not


@functools.cache
def golden():
    return json.loads(GOLDEN.read_text())


@functools.partial(jax.jit, static_argnums=0)
def forward(module, params, tokens):
    model = LanguageModel(module, params)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return model(tokens, positions, model.init_cache(*tokens.shape)).logits[0]


@functools.cache
def real_logits(number):
    """Our logits ``[len(text), V]`` of prompt and continuation, fed at once."""
    entry = golden()["entries"][number]
    text = entry["prompt"] + entry["continuation"]
    size = next(size for size in SIZES if size >= len(text))
    model = real_model().model
    tokens = jnp.asarray([text + [0] * (size - len(text))], jnp.int32)
    return np.asarray(forward(model.module, model.params, tokens))[: len(text)]


NUM_PROMPTS = 20


def test_the_golden_file_is_what_it_should_be():
    """Its own statements, so that a file written carelessly is noticed: lengths, versions, the difference it measured."""
    head, entries = golden(), golden()["entries"]
    assert len(entries) == NUM_PROMPTS
    lengths = [len(entry["prompt"]) for entry in entries]
    assert min(lengths) == 1
    assert max(lengths) > 150
    assert head["weights_equal"] is True
    assert {"torch", "transformers", "jax"} <= set(head["versions"])
    assert len(head["max_abs_difference"]["of_each_prompt"]) == NUM_PROMPTS
    assert head["max_abs_difference"]["max"] < 5e-4
    assert sum(path.stat().st_size for path in GOLDEN.parent.iterdir()) < 300_000


@pytest.mark.model
@pytest.mark.parametrize("number", range(NUM_PROMPTS))
def test_logits_of_the_real_model(number):
    entry, ours = golden()["entries"][number], real_logits(number)
    ids, values = entry["top"]
    last = len(entry["prompt"]) - 1
    np.testing.assert_allclose(ours[last, ids], values, atol=TOLERANCE)
    others = np.delete(ours[last], ids)
    assert others.max() <= min(values) + TOLERANCE  # these are the top ones with us, too
    for position, values in entry["at_fixed_ids"]:
        np.testing.assert_allclose(ours[position, golden()["fixed_ids"]], values, atol=TOLERANCE)


@pytest.mark.model
def test_greedy_continuations_of_the_real_model():
    """Token by token given the golden text before it; where the two best are nearly equal, either may come out."""
    tokens = ties = 0
    for number, entry in enumerate(golden()["entries"]):
        first = len(entry["prompt"]) - 1
        best = real_logits(number)[first:-1].argmax(axis=-1)
        for step, (ours, theirs, gap) in enumerate(zip(best, entry["continuation"], entry["gaps"])):
            if gap < TIE:
                ties += 1
            else:
                assert ours == theirs, f"prompt {number}, step {step}, gap {gap}"
            tokens += 1
    assert tokens > 800
    assert ties <= 8, f"{ties} of {tokens} steps are nearly ties"


@pytest.mark.model
def test_generating_with_the_real_model():
    """The same through prefill, cache and decoding loop, prompts of different lengths in one batch."""
    chosen = [0, 3]
    entries = [golden()["entries"][number] for number in chosen]
    assert all(min(entry["gaps"]) > TIE for entry in entries)
    results = jaxdec.generate(real_model(), [entry["messages"] for entry in entries], max_new_tokens=64)
    for result, entry in zip(results, entries):
        assert result.token_ids == entry["continuation"]
        assert result.finish_reason == "eos"


VOCABULARY = 258
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "initializer_range": 0.15,
    "bos_token_id": 256, "eos_token_id": 257,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
PEERS = {
    "llama": ("Llama", {}),
    "llama_tied": ("Llama", {"tie_word_embeddings": True}),
    "llama_all_heads": ("Llama", {"num_key_value_heads": 6}),
    "llama_biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama_wide_heads": ("Llama", {"head_dim": 20}),
    "llama_linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "head_dim": 32}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2_tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3_tied_biases": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True, "attention_bias": True}),
}


def random_peer(family, changes):
    """A model of transformers whose every parameter is random, norm scales and biases too."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(SHAPE | changes))
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
    return torch, transformers, model


@pytest.mark.peers
@pytest.mark.parametrize("name", PEERS)
def test_tiny_models_of_transformers(name, tmp_path):
    """Theirs loaded by us, ours loaded by them: the same logits each time."""
    torch, transformers, model = random_peer(*PEERS[name])
    theirs = tmp_path / "theirs"
    model.save_pretrained(theirs)
    byte_tokenizer().save(theirs)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (2, 120))
    with torch.inference_mode():
        expected = model(torch.tensor(tokens)).logits.numpy()
    assert expected.std() > 0.5  # not all the same
    lm = jaxdec.load(theirs)
    for row in range(2):
        ours = np.asarray(forward(lm.model.module, lm.model.params, jnp.asarray(tokens[row : row + 1], jnp.int32)))
        np.testing.assert_allclose(ours, expected[row], atol=1e-4)
    save_hf_directory(tmp_path / "ours", lm.model.module.config, lm.model.params, lm.tokenizer)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    assert type(again) is type(model)
    with torch.inference_mode():
        np.testing.assert_array_equal(again(torch.tensor(tokens)).logits.numpy(), expected)


@pytest.mark.peers
def test_our_tokenizer_files_are_read_by_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    _, _, model = random_peer("Llama", {})
    model.save_pretrained(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ["héllo <|im_end|>", "a  b\n"]:
        assert theirs.encode(text) == tokenizer.encode(text)
    chat = [{"role": "user", "content": "Hi"}]
    assert (
        theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        == "<|im_start|>Hi<|im_end|><|im_start|>"
    )


@pytest.mark.peers
def test_bfloat16_weights_of_transformers(tmp_path):
    """Saved in bfloat16 and several files; read in float32, where both compute alike."""
    torch, transformers, model = random_peer("Llama", {})
    model.to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    byte_tokenizer().save(tmp_path)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (1, 64))
    wide = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = wide(torch.tensor(tokens)).logits[0].numpy()
    lm = jaxdec.load(tmp_path)
    np.testing.assert_allclose(
        forward(lm.model.module, lm.model.params, jnp.asarray(tokens, jnp.int32)), expected, atol=1e-4
    )
