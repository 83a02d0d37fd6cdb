"""Names and shapes of published CRATE checkpoints, spelt out apart from the converter."""

from jaxdec.models.crate import CrateConfig
from jaxdec.models.crate_autoencoder import AutoencoderConfig
from jaxdec.models.crate_bert import CrateBertConfig
from jaxdec.models.crate_classifier import ClassifierConfig

Shapes = dict[str, tuple[int, ...]]


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def affine(name: str, features: int, width: int) -> Shapes:
    return {f"{name}.weight": (features, width), f"{name}.bias": (features,)}


def attention(name: str, layers: CrateConfig) -> Shapes:
    width, inner = layers.hidden_size, layers.num_heads * layers.subspace_dim
    return {
        **norm(f"{name}.norm", width),
        f"{name}.fn.qkv.weight": (inner, width),
        **affine(f"{name}.fn.to_out.0", width, inner),
    }


def coding(name: str, width: int) -> Shapes:
    return {**norm(f"{name}.norm", width), f"{name}.fn.weight": (width, width)}


def classifier(config: ClassifierConfig) -> Shapes:
    width = config.layers.hidden_size
    patch = config.patch_size[0] * config.patch_size[1] * config.channels
    shapes: Shapes = {"pos_embedding": (1, config.num_patches + 1, width), "cls_token": (1, 1, width)}
    shapes |= norm("to_patch_embedding.1", patch) | affine("to_patch_embedding.2", width, patch)
    shapes |= norm("to_patch_embedding.3", width)
    for layer in range(config.layers.num_layers):
        name = f"transformer.layers.{layer}"
        shapes |= attention(f"{name}.0", config.layers) | coding(f"{name}.1", width)
    return shapes | norm("mlp_head.0", width) | affine("mlp_head.1", config.num_classes, width)


def autoencoder(config: AutoencoderConfig) -> Shapes:
    width, patch = config.layers.hidden_size, config.patch_size
    shapes: Shapes = {"cls_token": (1, 1, width), "mask_token": (1, 1, width)}
    shapes |= {"patch_embed.proj.weight": (width, config.channels, *patch), "patch_embed.proj.bias": (width,)}
    for layer in range(config.layers.num_layers):
        encoder, decoder = f"blocks.{layer}.layers.0", f"decoder_blocks.{layer}.layers.0"
        shapes |= attention(f"{encoder}.0", config.layers) | coding(f"{encoder}.1", width)
        shapes |= coding(f"{decoder}.0", width) | attention(f"{decoder}.1", config.layers)
    shapes |= norm("norm", width) | norm("decoder_norm", width) | affine("decoder_embed", width, width)
    return shapes | affine("decoder_pred", config.patch_dim, width)


def bert(config: CrateBertConfig) -> Shapes:
    width = config.layers.hidden_size
    shapes: Shapes = {
        "crate.embeddings.word_embeddings.weight": (config.vocab_size, width),
        "crate.embeddings.position_embeddings.weight": (config.max_position_embeddings, width),
        "crate.embeddings.token_type_embeddings.weight": (1, width),
        **norm("crate.embeddings.LayerNorm", width),
        "lm_head.bias": (config.vocab_size,),
        **affine("lm_head.dense", width, width),
        **norm("lm_head.layer_norm", width),
    }
    for layer in range(config.layers.num_layers):
        name = f"crate.encoder.layer.{layer}"
        shapes |= norm(f"{name}.attention.self.prenorm", width) | norm(f"{name}.output.prenorm", width)
        shapes[f"{name}.attention.self.qkv.weight"] = shapes[f"{name}.attention.output.dense.weight"] = (width, width)
        shapes[f"{name}.output.weight"] = (width, width)
    return shapes


def alpha(config: ClassifierConfig) -> Shapes:
    layers, width = config.layers, config.layers.hidden_size
    heads, inside = layers.num_heads, layers.subspace_dim
    shapes: Shapes = {
        "embedding/kernel": (*config.patch_size, config.channels, width),
        "embedding/bias": (width,),
        "cls": (1, 1, width),
        "pos_embedding": (1, config.num_patches + 1, width),
        "head/kernel": (width, config.num_classes),
        "head/bias": (config.num_classes,),
        "encoder_norm/scale": (width,),
        "encoder_norm/bias": (width,),
    }
    for layer in range(layers.num_layers):
        block = f"Transformer/encoderblock_{layer}"
        for number in (0, 1):
            shapes |= {f"{block}/LayerNorm_{number}/{part}": (width,) for part in ("scale", "bias")}
        shapes[f"{block}/MultiHeadDotProductSubspaceAttention_0/proj/kernel"] = (width, heads, inside)
        shapes[f"{block}/MultiHeadDotProductSubspaceAttention_0/out/kernel"] = (heads, inside, width)
        for part in ("D", "D1"):
            shapes[f"{block}/OvercompleteISTABlock_0/{part}"] = (width, 4 * width)
    return shapes
