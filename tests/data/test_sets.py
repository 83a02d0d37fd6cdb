"""The data sets: digits, idx files, texts, and what is said where a package is missing."""

import gzip
import importlib.util

import numpy as np
import pytest

from jaxdec.data import TokenWindows, byte_tokens, digits, fashion_mnist, stratified_split, tfds_source
from jaxdec.data.text import joined_tokens
from jaxdec.data.tfds import as_arrays


def test_digits():
    images, labels = digits()
    assert (images.shape, images.dtype, labels.dtype) == ((1797, 8, 8, 1), np.float32, np.int32)
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_a_split_has_every_label_in_both_parts():
    labels = np.repeat(np.arange(3, dtype=np.int32), [10, 20, 40])
    train, test = stratified_split(labels, 0.2, seed=1)
    assert np.bincount(labels[test]).tolist() == [2, 4, 8]
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(70))
    again = stratified_split(labels, 0.2, seed=1)
    np.testing.assert_array_equal(test, again[1])
    assert not np.array_equal(test, stratified_split(labels, 0.2, seed=2)[1])
    with pytest.raises(ValueError, match=r"test_fraction must be in \(0, 1\), got 1.0"):
        stratified_split(labels, 1.0)
    with pytest.raises(ValueError, match=r"test_fraction 0\.01 of 70 examples leaves one of the parts empty"):
        stratified_split(labels, 0.01)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_fashion_mnist_files_are_read(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(5, dtype=np.uint8))
    found, labels = fashion_mnist(tmp_path)
    np.testing.assert_allclose(found[..., 0] * 255, images, atol=1e-4)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte.gz: no such file; install Debian's package"):
        fashion_mnist(tmp_path, "test")
    with pytest.raises(ValueError, match="split must be one of train, test, got 'validation'"):
        fashion_mnist(tmp_path, "validation")
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(4, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"images have shape \(5, 28, 28\), labels \(4,\)"):
        fashion_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[:-1]))
    with pytest.raises(ValueError, match=r"should hold \(5, 28, 28\) bytes behind its header, and holds 3919"):
        fashion_mnist(tmp_path)
    path.write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(ValueError, match="is cut short or corrupt"):
        fashion_mnist(tmp_path)
    path.write_bytes(gzip.compress(bytes([0, 0, 13, 1]) + whole[4:]))
    with pytest.raises(ValueError, match="is no idx file of unsigned bytes: it begins with 00000d01"):
        fashion_mnist(tmp_path)


def test_every_token_but_the_first_is_predicted_once():
    windows = TokenWindows(np.arange(14, dtype=np.int32), 4)
    assert len(windows) == 3
    predicted = [token for index in range(3) for token in windows[index]["tokens"][1:].tolist()]
    assert predicted == list(range(1, 13))
    indices = np.array([2, 0])
    np.testing.assert_array_equal(windows.rows(indices)["tokens"], [windows[2]["tokens"], windows[0]["tokens"]])
    assert len(TokenWindows(np.arange(5, dtype=np.int32), 4)) == 1
    with pytest.raises(ValueError, match="length 4 needs more than 4 tokens"):
        TokenWindows(np.arange(4, dtype=np.int32), 4)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        TokenWindows(np.arange(4, dtype=np.int32), 0)


def test_texts_are_read_as_far_as_is_needed():
    def texts():
        yield from ("ab", "é")
        raise AssertionError("read too far")

    assert byte_tokens("é") == [195, 169]
    assert joined_tokens(texts(), byte_tokens, end=0, limit=5).tolist() == [97, 98, 0, 195, 169]
    assert joined_tokens(["ab", "c"], byte_tokens).tolist() == [97, 98, 99]
    assert joined_tokens([], byte_tokens).tolist() == []
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        joined_tokens([], byte_tokens, limit=0)


def test_numbers_of_an_example_are_taken_as_they_are_used():
    found = as_arrays({"image": np.full((2, 2, 1), 255, np.uint8), "label": np.int64(3), "id": b"x", "size": 0.5})
    assert set(found) == {"image", "label", "size"}
    assert (found["image"].dtype, found["image"].max(), found["label"].dtype) == (np.float32, 1, np.int32)


@pytest.mark.skipif(importlib.util.find_spec("tensorflow_datasets") is not None, reason="tensorflow-datasets is there")
def test_a_missing_package_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"data set 'mnist' is read by tensorflow-datasets: pip install"):
        tfds_source("mnist", "train")
