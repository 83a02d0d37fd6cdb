"""GGUF files written by the ``gguf`` package, read by us: every block format, every variant, and every way to be broken."""

import dataclasses

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.checkpoints import CheckpointError, load_checkpoint
from jaxdec.checkpoints.gguf import _llama3_scaling, read_gguf
from jaxdec.checkpoints.gguf_file import GGUFFile
from jaxdec.models.config import RopeScaling
from tests.checkpoints.models_on_disk import (
    SMALL,
    VARIANTS,
    assert_params,
    expected_params,
    gguf_tensor_name,
    gguf_tensors,
    hf_tensors,
    llama3_divisors,
    llama_cpp_row_order,
    write_gguf,
)

BOTH_WAYS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"]
BOTH_WAYS += ["MXFP4"] if hasattr(Type, "MXFP4") else []  # newer than gguf 0.17
ONE_WAY = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S",
           "IQ4_NL", "IQ4_XS"]  # fmt: skip
WIDE = dataclasses.replace(SMALL, hidden_size=256, intermediate_size=256, head_dim=64, num_layers=1)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return write_gguf(path, SMALL, gguf_tensors(SMALL, hf_tensors(SMALL)))


@pytest.mark.parametrize("name", VARIANTS)
def test_config_and_weights_of_every_variant(name, tmp_path):
    config, tensors = VARIANTS[name], hf_tensors(VARIANTS[name])
    found, params, tokenizer = read_gguf(write_gguf(tmp_path / "m.gguf", config, gguf_tensors(config, tensors)))
    assert found == config
    assert_params(params, expected_params(config, tensors))
    assert tokenizer.decode(tokenizer.encode("é 1 <|im_end|>"), skip_special_tokens=False) == "é 1 <|im_end|>"
    assert tokenizer.eos_token_ids == (257,)


def test_row_order_is_llama_cpps():
    """Two heads of width 4: halves ``[0, 1 | 2, 3]`` are interleaved as 0, 2, 1, 3."""
    assert llama_cpp_row_order(8, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def quantised(tensors, kind, make_bytes):
    """Store matrices in ``kind``; return what to write, and what these bytes mean according to the package."""
    stored, meaning = {}, {}
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            stored[name] = meaning[name] = tensor
            continue
        data = make_bytes(tensor)
        meaning[name] = gguf.dequantize(data, kind)
        stored[name] = (data.view(np.uint8) if data.dtype == np.uint8 else data, kind)
    return stored, meaning


def random_finite_blocks(rng, shape, kind):
    """Random bytes, block by block, of which none decodes to infinity or NaN."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    wanted = int(np.prod(shape)) // block
    data = rng.integers(0, 256, (2 * wanted + 64, size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        finite = np.isfinite(gguf.dequantize(data, kind)).all(axis=1)
    assert finite.sum() >= wanted
    return data[finite][:wanted].reshape(*shape[:-1], -1)


@pytest.mark.parametrize("name", BOTH_WAYS + ONE_WAY)
def test_block_formats_mean_what_the_gguf_package_says(name, tmp_path):
    kind = Type[name]
    rng = np.random.default_rng(3)
    tensors = gguf_tensors(WIDE, hf_tensors(WIDE))
    if name in BOTH_WAYS:
        stored, meaning = quantised(tensors, kind, lambda tensor: gguf.quantize(tensor, kind))
    else:
        stored, meaning = quantised(tensors, kind, lambda tensor: random_finite_blocks(rng, tensor.shape, kind))
    path = write_gguf(tmp_path / "m.gguf", WIDE, stored)
    assert GGUFFile(path).tensors["token_embd.weight"].kind == kind
    expected = {}
    for hf_name, tensor in hf_tensors(WIDE).items():
        value = meaning[gguf_tensor_name(hf_name)]
        heads = {"q_proj": WIDE.num_heads, "k_proj": WIDE.num_kv_heads}.get(hf_name.split(".")[-2])
        if heads:
            value = value[np.argsort(llama_cpp_row_order(len(value), heads))]
        assert value.shape == tensor.shape
        expected[hf_name] = value
    _, params, _ = read_gguf(path)
    assert_params(params, expected_params(WIDE, expected))


def test_the_package_knows_no_block_format_that_is_not_tested():
    def understood(kind):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        try:
            with np.errstate(all="ignore"):
                gguf.dequantize(np.zeros((1, 256 // block * size), np.uint8), kind)
        except NotImplementedError:
            return False
        return True

    newer = {"NVFP4"}  # known to some versions of the package
    assert {kind.name for kind in Type if understood(kind)} - newer == set(BOTH_WAYS + ONE_WAY)


def test_large_tensors_are_dequantised_in_pieces_that_fit_together(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdec.checkpoints.gguf_file.ROWS_AT_ONCE", 7)
    stored, meaning = quantised(gguf_tensors(WIDE, hf_tensors(WIDE)), Type.Q5_1, lambda t: gguf.quantize(t, Type.Q5_1))
    file = GGUFFile(write_gguf(tmp_path / "m.gguf", WIDE, stored))
    for name in stored:
        np.testing.assert_array_equal(file.dequantize(name), meaning[name])


def test_a_file_that_shrinks_while_it_is_read(small_file, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(small_file.read_bytes())
    file = GGUFFile(path)
    path.write_bytes(small_file.read_bytes()[: file.tensors["output_norm.weight"].end - 1])
    with pytest.raises(CheckpointError, match=r"m\.gguf was cut short while it was read"):
        file.dequantize("output_norm.weight")


def test_weights_are_rounded_to_the_type_asked_for(small_file):
    _, params, _ = read_gguf(small_file, jnp.bfloat16)
    assert_params(params, expected_params(SMALL, hf_tensors(SMALL)), jnp.bfloat16)


def test_float64_is_kept_in_a_float64_model(tmp_path):
    tensors = {name: t.astype(np.float64) + 1e-12 for name, t in gguf_tensors(SMALL, hf_tensors(SMALL)).items()}
    path = write_gguf(tmp_path / "m.gguf", SMALL, tensors)
    with jax.enable_x64(True):
        _, params, _ = read_gguf(path, jnp.float64)
        scale = np.asarray(params["final_norm"]["scale"])
    np.testing.assert_array_equal(scale, tensors["output_norm.weight"])


@settings(max_examples=60, deadline=None)
@given(
    factor=st.floats(1.5, 64),
    original=st.integers(512, 131072),
    theta=st.floats(1e4, 1e7),
    head_dim=st.sampled_from([16, 64, 128]),
)
def test_llama3_scaling_is_found_from_its_divisors(factor, original, theta, head_dim):
    """Not the numbers themselves, which short heads leave open, but a scaling with the same frequencies."""
    scaling = RopeScaling("llama3", round(factor, 2), 1.0, 4.0, original)
    config = dataclasses.replace(SMALL, head_dim=head_dim, rope_theta=theta, rope_scaling=scaling)
    divisors = llama3_divisors(config)
    if not np.isclose(divisors.max(), scaling.factor):
        return  # no frequency is slow enough to be divided in full: the factor cannot be known
    found = _llama3_scaling(divisors.astype(np.float64), theta, head_dim)
    np.testing.assert_allclose(llama3_divisors(dataclasses.replace(config, rope_scaling=found)), divisors, rtol=1e-4)


@pytest.mark.parametrize("published", [(8.0, 8192), (32.0, 8192)])
def test_published_llama3_scalings_are_found_exactly(published):
    scaling = RopeScaling("llama3", published[0], 1.0, 4.0, published[1])
    config = dataclasses.replace(SMALL, head_dim=64, rope_theta=500000.0, rope_scaling=scaling)
    assert _llama3_scaling(llama3_divisors(config).astype(np.float64), 500000.0, 64) == scaling


def broken(tmp_path, **changes):
    """A small file with something wrong: ``tensors`` to set or (None) to drop, and what :func:`write_gguf` takes."""
    tensors = gguf_tensors(SMALL, hf_tensors(SMALL)) | changes.pop("tensors", {})
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return write_gguf(tmp_path / "broken.gguf", SMALL, tensors, **changes)


EMBEDDING = np.zeros((258, 64), np.float32)
BROKEN = {
    "architecture": (
        {"metadata": {"general.architecture": "mamba"}},
        "architecture 'mamba' is not supported; supported: llama, qwen2, qwen3",
    ),
    "missing tensor": ({"tensors": {"blk.1.ffn_up.weight": None}}, "tensor blk.1.ffn_up.weight is missing"),
    "missing embedding": ({"tensors": {"token_embd.weight": None}}, "tensor token_embd.weight is missing"),
    "wrong shape": (
        {"tensors": {"blk.0.attn_k.weight": np.zeros((32, 32), np.float32)}},
        "tensor blk.0.attn_k.weight has shape (32, 32), the config asks for (32, 64)",
    ),
    "tensor without a place": (
        {"tensors": {"blk.1.attn_q.bias": np.zeros(64, np.float32)}},
        "tensor blk.1.attn_q.bias has no place",
    ),
    "norm without a place": (
        {"tensors": {"blk.0.attn_q_norm.weight": np.zeros(16, np.float32)}},
        "tensor blk.0.attn_q_norm.weight has no place",
    ),
    "integers": (
        {"tensors": {"token_embd.weight": EMBEDDING.astype(np.int8)}},
        "tensor token_embd.weight is stored as I8, which is not supported",
    ),
    "block format without a decoder": (
        {"tensors": {"token_embd.weight": (np.zeros((258, 80), np.uint8), Type.Q8_1)}},
        "tensor token_embd.weight is stored as Q8_1, which is not supported",
    ),
    "infinite scale": (
        {"tensors": {"token_embd.weight": (np.full((258, 36), 0x7C, np.uint8), Type.Q4_0)}},
        "tensor token_embd.weight holds values that are not finite",
    ),
    "missing key": ({"leave_out": ("llama.block_count",)}, "metadata key llama.block_count is missing"),
    "array for a number": (
        {"metadata": {"llama.attention.head_count_kv": [2, 2]}},
        "metadata key llama.attention.head_count_kv must be of type int, and is an array of 2",
    ),
    "text for a number": ({"metadata": {"llama.block_count": "two"}}, "must be of type int, and is 'two'"),
    "heads that do not divide": (
        {"metadata": {"llama.attention.head_count_kv": 3}},
        "must be a multiple of num_kv_heads",
    ),
    "zero heads": ({"metadata": {"llama.attention.head_count": 0}}, "num_heads must be at least 1"),
    "yarn": ({"metadata": {"llama.rope.scaling.type": "yarn"}}, "rope scaling 'yarn' is not supported"),
    "unknown divisors": (
        {"tensors": {"rope_freqs.weight": np.array([1, 1, 5, 1, 1, 1, 2, 1], np.float32)}},
        "rope_freqs.weight holds rotary factors of no known scaling",
    ),
    "divisors of the wrong length": (
        {"tensors": {"rope_freqs.weight": np.array([1, 8], np.float32)}},
        "rope_freqs.weight has shape (2,), the config asks for (8,)",
    ),
    "partial rotation": ({"metadata": {"llama.rope.dimension_count": 8}}, "llama.rope.dimension_count is 8; only 16"),
    "other value width": ({"metadata": {"llama.attention.value_length": 8}}, "llama.attention.value_length is 8"),
    "sliding window": ({"metadata": {"llama.attention.sliding_window": 64}}, "sliding windows are not supported"),
    "odd alignment": ({"metadata": {"general.alignment": 48}}, "general.alignment must be a power of two, and is 48"),
    "no tokenizer": ({"leave_out": ("tokenizer.ggml.tokens",)}, "tokenizer.ggml.tokens is missing"),
    "unknown tokenizer": (
        {"metadata": {"tokenizer.ggml.model": "bert"}},
        "tokenizer.ggml.model 'bert' is not supported",
    ),
    "unknown pre-tokenizer": (
        {"metadata": {"tokenizer.ggml.pre": "tekken"}},
        "tokenizer.ggml.pre 'tekken' is not supported",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named(name, tmp_path):
    changes, message = BROKEN[name]
    path = broken(tmp_path, **changes)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_scaling_and_divisors_of_one_are_no_scaling(tmp_path):
    ones = {"rope_freqs.weight": np.ones(8, np.float32)}
    for changes in (
        {"tensors": ones},
        {"metadata": {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}},
    ):
        assert read_gguf(broken(tmp_path, **changes))[0].rope_scaling is None


def test_old_files_spell_linear_scaling_otherwise(tmp_path):
    path = broken(tmp_path, metadata={"llama.rope.scale_linear": 4.0})
    assert read_gguf(path)[0].rope_scaling == RopeScaling("linear", 4.0)


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip", b"\x80\x02 a pickle"])
def test_files_that_are_not_gguf(content, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.gguf is not a GGUF file"):
        load_checkpoint(path)


def test_versions(small_file, tmp_path):
    content = small_file.read_bytes()
    path = tmp_path / "m.gguf"
    for version, message in [(1, "version 1 is not supported"), (4, "version 4"), (3 << 24, "big-endian")]:
        path.write_bytes(content[:4] + version.to_bytes(4, "little") + content[8:])
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)
    path.write_bytes(content[:4] + (2).to_bytes(4, "little") + content[8:])
    assert load_checkpoint(path).config == SMALL


def test_cut_files_are_refused_wherever_they_are_cut(small_file, tmp_path):
    """All of the first bytes, some of the rest of the header, the borders of all tensors."""
    content = small_file.read_bytes()
    tensors = GGUFFile(small_file).tensors.values()
    first, end = min(info.begin for info in tensors), max(info.end for info in tensors)
    cuts = {*range(64), *range(64, first, 97), first - 1, first, end - 1}
    cuts |= {place for info in tensors for place in (info.begin, info.end - 1, info.end) if place < end}
    path = tmp_path / "cut.gguf"
    for cut in sorted(cuts):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value), cut
        assert "cut short" in str(error.value) or "is not a GGUF file" in str(error.value), cut
    path.write_bytes(content[: end - 1])
    with pytest.raises(CheckpointError, match=rf"ends at byte {end}, the file at {end - 1}"):
        GGUFFile(path)  # before any tensor is read
    path.write_bytes(content[:end])  # what may follow the last tensor is padding
    assert load_checkpoint(path).config == SMALL


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_headers_end_in_an_error_or_a_model(small_file, data):
    """No crash, no hang and no other exception, whatever the bytes say: lengths, counts, types, names."""
    content = bytearray(small_file.read_bytes())
    first = min(info.begin for info in GGUFFile(small_file).tensors.values())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(4, first - 1))] = data.draw(st.sampled_from([0, 1, 3, 9, 0x7F, 0xFF]))
    path = small_file.with_name("damaged.gguf")
    path.write_bytes(content)
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017


def raw_header(pairs=b"", num_pairs=0, num_tensors=0, tail=b""):
    return (
        b"GGUF"
        + b"".join(n.to_bytes(size, "little") for n, size in ((3, 4), (num_tensors, 8), (num_pairs, 8)))
        + pairs
        + tail
    )


def text(value):
    return len(value).to_bytes(8, "little") + value


HUGE = (1 << 60).to_bytes(8, "little")
HOSTILE = {
    "a string of 2^60 bytes": (raw_header(HUGE, 1), "cut short or corrupt"),
    "a value that ends behind the file": (
        raw_header(text(b"k") + b"\x08\0\0\0" + b"\4" + b"\0" * 7 + b"abc", 1),
        "cut short or corrupt",
    ),
    "an array of 2^60 strings": (raw_header(text(b"k") + b"\x09\0\0\0\x08\0\0\0" + HUGE, 1), "cut short or corrupt"),
    "an array of 2^60 numbers": (raw_header(text(b"k") + b"\x09\0\0\0\x04\0\0\0" + HUGE, 1), "cut short or corrupt"),
    "an array of arrays": (raw_header(text(b"k") + b"\x09\0\0\0\x09\0\0\0" + HUGE, 1), "an array of type 9"),
    "an unknown type": (raw_header(text(b"k") + b"\x63\0\0\0", 1), "metadata key k has type 99"),
    "a key twice": (raw_header((text(b"k") + b"\0\0\0\0\x01") * 2, 2), "metadata key k occurs twice"),
    "a key that is not UTF-8": (raw_header(text(b"\xff\xfe") + b"\0\0\0\0\x01", 1), "not UTF-8"),
    "2^60 tensors": (raw_header(num_tensors=1 << 60), "cut short or corrupt"),
    "five dimensions": (raw_header(num_tensors=1, tail=text(b"t") + b"\5\0\0\0"), "tensor t has 5 dimensions"),
    "an unknown block format": (
        raw_header(num_tensors=1, tail=text(b"t") + b"\1\0\0\0" + b"\4" + b"\0" * 7 + b"\x63\0\0\0" + b"\0" * 8),
        "tensor t is stored as type 99",
    ),
    "rows that are no whole blocks": (
        raw_header(num_tensors=1, tail=text(b"t") + b"\1\0\0\0" + b"\4" + b"\0" * 7 + b"\2\0\0\0" + b"\0" * 8),
        "rows are not whole blocks of 32",
    ),
    "a tensor twice": (
        raw_header(
            num_tensors=2,
            tail=(text(b"t") + b"\1\0\0\0" + b"\1" + b"\0" * 7 + b"\0\0\0\0" + b"\0" * 8) * 2 + b"\0" * 64,
        ),
        "tensor t occurs twice",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(name, tmp_path):
    content, message = HOSTILE[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        GGUFFile(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
