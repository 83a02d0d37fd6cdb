"""Views: their order, what they depend on, and every transform against what it says it does."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.data.image_transforms import (
    ColorJitter,
    Flip,
    Gain,
    GaussianBlur,
    Greyscale,
    Noise,
    PixelDrop,
    ResizedCrop,
    Shift,
    Solarise,
    turn_hue,
)
from jaxdec.data.views import CIFAR, DIGITS, IMAGENET, Alternated, Pipeline, make_views
from tests.quick_jit import quick_jit

RNG = np.random.default_rng(0)
COLOR = RNG.uniform(size=(6, 8, 3)).astype(np.float32)
SMALL = Pipeline((Shift(1), Gain(0.6, 1.2)))
KEYS = jax.random.split(jax.random.key(0), 200)


def drawn(transform, image=COLOR, count=200):
    """Many draws of a transform, in one program."""
    return np.asarray(quick_jit(jax.vmap(transform, in_axes=(0, None)))(KEYS[:count], jnp.asarray(image)))


def test_views_of_an_image_are_adjacent_and_do_not_depend_on_the_batch():
    images = RNG.uniform(size=(3, 8, 8, 1)).astype(np.float32)
    for image, (top, left) in zip(images, ((1, 1), (1, 5), (5, 3))):
        image[top : top + 2, left : left + 2] += 4  # further apart than shifts are long
    views = quick_jit(make_views, static_argnums=(2, 3))
    key = jax.random.key(1)
    four = np.asarray(views(images, key, 4, SMALL)).reshape(3, 4, 8, 8, 1)
    two = np.asarray(views(images[:2], key, 2, SMALL)).reshape(2, 2, 8, 8, 1)
    np.testing.assert_array_equal(four[:2, :2], two)
    assert len({view.tobytes() for image in four for view in image}) == 12
    distance = ((four[:, :, None] - images) ** 2).mean((3, 4, 5))  # [image, view, other image]
    assert (distance.mean(1).argmin(1) == np.arange(3)).all()
    other = np.asarray(views(images, jax.random.key(2), 4, SMALL))
    assert not np.array_equal(other.reshape(four.shape), four)


def test_two_pipelines_take_turns():
    turns = Alternated(Pipeline((Gain(2.0, 2.0),)), Pipeline((Gain(3.0, 3.0),)))
    images = np.arange(1, 3, dtype=np.float32).reshape(2, 1, 1, 1)
    views = quick_jit(make_views, static_argnums=(2, 3))(images, jax.random.key(0), 4, turns)
    assert views.ravel().tolist() == [2, 3, 2, 3, 4, 6, 4, 6]


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", [CIFAR, IMAGENET])
def test_presets_give_images(pipeline):
    images = RNG.uniform(size=(2, 9, 7, 3)).astype(np.float32)
    views = np.asarray(quick_jit(make_views, static_argnums=(2, 3))(images, jax.random.key(0), 2, pipeline))
    assert views.shape == (4, 9, 7, 3)
    assert views.min() >= -1e-6
    assert views.max() <= 1 + 1e-6


def test_probability_is_how_often():
    flipped = drawn(Flip(probability=0.3))
    changed = (flipped != COLOR).any((1, 2, 3))
    assert 40 <= changed.sum() <= 80  # 60 expected, deviation 6.5
    np.testing.assert_array_equal(flipped[changed], np.broadcast_to(COLOR[:, ::-1], flipped[changed].shape))


def test_shifts_are_whole_pixels_both_ways():
    found = {image.tobytes() for image in drawn(Shift(1))}
    padded = np.pad(COLOR, ((1, 1), (1, 1), (0, 0)))
    assert found == {padded[top : top + 6, left : left + 8].tobytes() for top in range(3) for left in range(3)}


def test_crops_are_boxes_of_the_area_and_shape_asked_for():
    """On a ramp the first and last values tell where the box began and ended."""
    rows, columns = np.mgrid[0:32, 0:32] + 0.5
    ramp = np.stack([rows, columns, np.ones((32, 32))], axis=-1).astype(np.float32) / 32
    found = drawn(ResizedCrop((0.2, 0.5), (0.8, 1.25)), ramp)
    steps = np.stack([found[:, 20, 16, 0] - found[:, 12, 16, 0], found[:, 16, 20, 1] - found[:, 16, 12, 1]], axis=1)
    sides = steps * 32 / 8 * 32  # height and width in pixels
    np.testing.assert_allclose(sides, np.round(sides), atol=2e-2)
    area, ratio = sides.prod(1) / 32**2, sides[:, 1] / sides[:, 0]
    assert area.min() > 0.18
    assert area.max() < 0.53
    assert area.min() < 0.25
    assert area.max() > 0.45
    assert ratio.min() > 0.72
    assert ratio.max() < 1.4
    middle = found[:, 15:17, 15:17, :2].mean((1, 2)) * 32
    assert (middle >= sides / 2 - 0.6).all()
    assert (middle <= 32 - sides / 2 + 0.6).all()
    np.testing.assert_allclose(found[..., 2], 1 / 32, atol=1e-6)


@pytest.mark.slow
def test_a_box_that_never_fits_leaves_the_image_whole():
    np.testing.assert_allclose(drawn(ResizedCrop((1.0, 1.0), (4.0, 5.0)), count=4), np.stack([COLOR] * 4), atol=1e-5)


turned = quick_jit(turn_hue)


@pytest.mark.parametrize("turn", [0.0, 0.3, -0.45])
def test_hue_turns_as_the_standard_library_says(turn):
    expected = np.empty_like(COLOR)
    for place in np.ndindex(COLOR.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*map(float, COLOR[place]))
        expected[place] = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    found = turned(COLOR, jnp.float32(turn))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_jitter_changes_one_thing_by_the_factors_asked_for():
    factors = drawn(ColorJitter(0.4, 0, 0, 0), COLOR / 2) / (COLOR / 2)
    np.testing.assert_allclose(factors, factors[:, :1, :1, :1] * np.ones_like(factors), rtol=1e-4)
    assert 0.6 <= factors.min() < 0.65
    assert 1.35 < factors.max() <= 1.4001
    grey = COLOR @ np.array([0.299, 0.587, 0.114], np.float32)
    flat = 0.4 + 0.2 * COLOR  # no clipping
    contrast = drawn(ColorJitter(0, 0.4, 0, 0), flat, 20) - (0.4 + 0.2 * grey.mean())
    ratio = contrast / (flat - (0.4 + 0.2 * grey.mean()))
    np.testing.assert_allclose(ratio, np.median(ratio, (1, 2, 3), keepdims=True) * np.ones_like(ratio), rtol=2e-2)
    saturation = drawn(ColorJitter(0, 0, 0.4, 0), flat, 20)
    np.testing.assert_allclose(
        saturation @ np.array([0.299, 0.587, 0.114]), (0.4 + 0.2 * grey)[None].repeat(20, 0), rtol=1e-4
    )
    both = drawn(ColorJitter(0.4, 0.4, 0, 0), COLOR)
    assert both.min() >= 0
    assert both.max() <= 1


def test_grey_images_have_no_colour_to_lose():
    grey = COLOR[..., :1]
    np.testing.assert_array_equal(drawn(Greyscale(), grey, 2)[0], grey)
    np.testing.assert_allclose(drawn(ColorJitter(0, 0, 0.4, 0.2), grey, 4), np.stack([grey] * 4), atol=1e-6)
    red, *_ = np.moveaxis(drawn(Greyscale(), count=1)[0], -1, 0)
    np.testing.assert_allclose(red, COLOR @ np.array([0.299, 0.587, 0.114]), rtol=1e-5)


def test_blur_keeps_constants_and_spreads_a_point():
    np.testing.assert_allclose(drawn(GaussianBlur(), np.full((6, 8, 1), 0.7, np.float32), 5), 0.7, rtol=1e-5)
    point = np.zeros((21, 21, 1), np.float32)
    point[10, 10] = 1
    (blurred,) = drawn(GaussianBlur((1.5, 1.5)), point, 1)
    places = np.arange(21) - 10
    assert blurred.sum() == pytest.approx(1, rel=1e-3)
    assert (blurred[..., 0].sum(0) * places**2).sum() == pytest.approx(1.5**2, rel=1e-2)
    assert (blurred[..., 0].sum(1) * places**2).sum() == pytest.approx(1.5**2, rel=1e-2)


def test_the_small_ones():
    np.testing.assert_allclose(drawn(Solarise(), count=1)[0], np.where(COLOR < 0.5, COLOR, 1 - COLOR), rtol=1e-6)
    gains = drawn(Gain(0.6, 1.2)) / COLOR
    assert 0.6 <= gains.min() < 0.62
    assert 1.18 < gains.max() <= 1.2001
    noise = drawn(Noise(0.15)) - COLOR
    assert noise.std() == pytest.approx(0.15, rel=2e-2)
    assert abs(noise.mean()) < 5e-3
    dropped = drawn(PixelDrop(0.15)) == 0
    assert dropped.mean() == pytest.approx(0.15, abs=0.02)
    assert (dropped == dropped[..., :1]).all()


def test_bad_input():
    images = jnp.ones((2, 4, 4, 1))
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="num_views must be even where two pipelines take turns, got 3"):
        make_views(images, key, 3, IMAGENET)
    with pytest.raises(ValueError, match="num_views must be at least 1, got 0"):
        make_views(images, key, 0, DIGITS)
    for make, message in [
        (lambda: Flip(probability=1.5), r"probability must be in \[0, 1\], got 1.5"),
        (lambda: Shift(-1), "pixels must be at least 0, got -1"),
        (
            lambda: ResizedCrop((0.0, 1.0)),
            r"scale must be two numbers, the smaller first, above 0 to 1; got \(0.0, 1.0\)",
        ),
        (lambda: ResizedCrop((0.5, 0.4)), r"scale must be .* got \(0.5, 0.4\)"),
        (lambda: ResizedCrop(method="nearest"), "method must be linear or cubic, got 'nearest'"),
        (lambda: ColorJitter(-0.1), r"brightness must be in \[0, inf\], got -0.1"),
        (lambda: ColorJitter(hue=0.6), r"hue must be in \[0, 0.5\], got 0.6"),
        (lambda: GaussianBlur((0.0, 1.0)), "sigma must be two numbers"),
        (lambda: Gain(1.2, 0.6), r"\(low, high\) must be two numbers"),
        (lambda: Noise(-1.0), "scale must be at least 0 and finite, got -1.0"),
        (lambda: PixelDrop(2), r"share must be in \[0, 1\], got 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="image must have 1 or 3 channels for a change of colour, got 2"):
        Greyscale().change(key, jnp.ones((4, 4, 2)))
