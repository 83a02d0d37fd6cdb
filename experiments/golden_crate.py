"""Golden outputs of CRATE: what the authors' PyTorch code gives, in float64, for weights that anyone can draw again, and how
far it is from that in float32.

    git clone https://github.com/Ma-Lab-Berkeley/CRATE
    python -m experiments.golden_crate --reference=CRATE --out=tests/golden/crate_outputs.json

Needs torch and einops. Weights are functions of their name and shape (:func:`drawn`), inputs of a seed, so that the file holds
outputs alone. Images are small: width and depth are those that were published, and a network of no fixed length does not care.
``timm``, of which the auto-encoder takes the patch embedding, is replaced by the convolution that it is.
"""

import importlib
import json
import sys
import types
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.record import write_text

SIZES = ("tiny", "small", "base", "large")
PATCH, CHANNELS, CLASSES = 16, 3, 10
IMAGE = 48
KEPT = 16
"""Numbers of an output that are kept, evenly spread, beside its mean and its norm."""


def drawn(name: str, shape: Sequence[int]) -> np.ndarray:
    """A float32 weight that depends on its published name and shape alone.

    Matrices keep the size of what they multiply; scales of norms lie around one, biases and tokens around zero.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(tuple(shape))
    is_norm = any(
        part in name for part in ("norm", "Norm", "to_patch_embedding.1", "to_patch_embedding.3", "mlp_head.0")
    )
    if is_norm and "fn" not in name:
        return ((1 if name.endswith(("weight", "scale")) else 0) + 0.1 * values).astype(np.float32)
    if name.endswith("bias"):
        return (0.1 * values).astype(np.float32)
    if len(shape) == 2:
        return (values / np.sqrt(shape[1])).astype(np.float32)
    if len(shape) == 4:
        return (values / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return (0.5 * values).astype(np.float32)


def images() -> np.ndarray:
    """Two images ``[2, Y, X, C]`` in [0, 1]."""
    return np.random.default_rng(0).uniform(size=(2, IMAGE, IMAGE, CHANNELS)).astype(np.float32)


def masked() -> np.ndarray:
    """Which patches the auto-encoder does not see."""
    return np.random.default_rng(1).permuted(np.tile(np.arange(9) < 6, (2, 1)), axis=1)


def kept(output: np.ndarray) -> dict[str, Any]:
    """What the file holds of an output."""
    flat = np.asarray(output, np.float64).ravel()
    places = np.linspace(0, flat.size - 1, min(KEPT, flat.size)).round().astype(int)
    return {
        "shape": list(np.shape(output)),
        "mean": float(flat.mean()),
        "norm": float(np.linalg.norm(flat)),
        "values": [round(float(value), 12) for value in flat[places]],
    }


def with_rounding(single: np.ndarray, double: np.ndarray) -> dict[str, Any]:
    """:func:`kept` of the output in the wider precision, and ``rounding``: how far the other is from it.

    The largest difference of an entry, in root mean squares of the output.
    """
    rounding = np.abs(single - double).max() / np.sqrt((double**2).mean())
    return {**kept(double), "rounding": float(rounding)}


def main(arguments: Sequence[str]) -> int:
    """Run the authors' code and write the file."""
    values = flags.FlagValues()
    flags.DEFINE_string("reference", None, "checkout of Ma-Lab-Berkeley/CRATE", flag_values=values)
    flags.DEFINE_string("out", "tests/golden/crate_outputs.json", "the file", flag_values=values)
    values(list(arguments))
    if values.reference is None:
        raise SystemExit("error: --reference must name a checkout of Ma-Lab-Berkeley/CRATE")
    import torch  # pyright: ignore[reportMissingImports]

    sys.path.insert(0, str(values.reference))
    sys.modules["timm"] = types.ModuleType("timm")
    sys.modules["timm.models"] = types.ModuleType("timm.models")
    sys.modules["timm.models.vision_transformer"] = _patch_embedding(torch)
    crate: Any = importlib.import_module("model.crate")
    autoencoder: Any = importlib.import_module("model.crate_ae.crate_ae")
    outputs: dict[str, Any] = {"classifier": {}, "autoencoder": {}}
    with torch.no_grad():
        for size in SIZES:
            precisions = torch.float32, torch.float64
            outputs["classifier"][size] = with_rounding(*(_classify(torch, crate, size, dtype) for dtype in precisions))
            build = getattr(autoencoder, f"mae_crate_{size}")
            latents, patches = zip(*(_reconstruct(torch, build, dtype) for dtype in precisions))
            outputs["autoencoder"][size] = {"latent": with_rounding(*latents), "patches": with_rounding(*patches)}
    head = {"reference": "Ma-Lab-Berkeley/CRATE", "torch": torch.__version__}
    write_text(Path(values.out), json.dumps({**head, **outputs}, indent=1) + "\n")
    print(values.out)
    return 0


def _load(torch: Any, module: Any, dtype: Any, keep: Sequence[str] = ()) -> Any:
    """Weights by :func:`drawn`, but for the tensors in ``keep``."""
    state = {
        name: value if name in keep else torch.from_numpy(drawn(name, value.shape))
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module.to(dtype).eval()


def _classify(torch: Any, crate: Any, size: str, dtype: Any) -> np.ndarray:
    published = getattr(crate, f"CRATE_{size}")
    arguments: dict[str, Any] = {}
    original: Callable[..., Any] = crate.CRATE

    def small(**fields: Any) -> Any:  # the published function fixes the image at 224 x 224
        arguments.update(fields)
        return original(**{**fields, "image_size": IMAGE})

    crate.CRATE = small
    try:
        module = _load(torch, published(num_classes=CLASSES), dtype)
    finally:
        crate.CRATE = original
    assert arguments["image_size"] == 224
    return module(torch.from_numpy(images().transpose(0, 3, 1, 2).copy()).to(dtype)).numpy()


def _reconstruct(torch: Any, build: Any, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    module = _load(torch, build(img_size=IMAGE), dtype, ("pos_embed", "decoder_pos_embed"))
    hidden = masked()
    order = np.argsort(hidden, axis=1, kind="stable")  # those that are seen first
    restore = torch.from_numpy(np.argsort(order, axis=1, kind="stable"))

    def given(x: Any, mask_ratio: float) -> tuple[Any, Any, Any]:  # in place of drawing what is hidden
        seen = torch.from_numpy(order[:, : int((~hidden[0]).sum())])
        return torch.gather(x, 1, seen[..., None].repeat(1, 1, x.shape[2])), torch.from_numpy(hidden), restore

    module.random_masking = given
    latent, _, ids = module.forward_encoder(torch.from_numpy(images().transpose(0, 3, 1, 2).copy()).to(dtype), 0.75)
    return latent.numpy(), module.forward_decoder(latent, ids).numpy()


def _patch_embedding(torch: Any) -> types.ModuleType:
    """Of timm, what the auto-encoder imports."""

    class PatchEmbed(torch.nn.Module):
        def __init__(self, img_size, patch_size, in_chans, embed_dim, strict_img_size=True):
            super().__init__()
            self.patch_size, self.num_patches = (patch_size, patch_size), (img_size // patch_size) ** 2
            self.proj = torch.nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)

        def forward(self, x):
            return self.proj(x).flatten(2).transpose(1, 2)

    module: Any = types.ModuleType("timm.models.vision_transformer")
    module.PatchEmbed, module.Block = PatchEmbed, torch.nn.Module
    return module


if __name__ == "__main__":
    sys.exit(main(sys.argv))
