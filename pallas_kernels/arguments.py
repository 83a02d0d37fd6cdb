"""Checks of arguments. What jax knows while tracing (shapes, types) is always checked, values where they are concrete."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

FLOATS = ("float32", "bfloat16", "float16", "float64")


def check_float(name: str, array: jax.Array):
    """Raise TypeError unless the array is of a type that attention is defined for here."""
    if str(jnp.result_type(array)) not in FLOATS:
        raise TypeError(f"{name} must have one of the types {', '.join(FLOATS)}; got {jnp.result_type(array)}")


def check_rank(name: str, array: jax.Array, dimensions: str):
    """Raise ValueError unless the array has as many dimensions as letters are named."""
    if jnp.ndim(array) != len(dimensions.split()):
        raise ValueError(f"{name} must have shape [{dimensions.replace(' ', ', ')}]; got {list(jnp.shape(array))}")


def check_qkv(q: jax.Array, k: jax.Array, v: jax.Array, heads: int = -2):
    """Check types and shapes that all attention shares.

    Args:
      q: ``[..., Hq, D]``.
      k: ``[..., D]``.
      v: like ``k``.
      heads: axis of the heads of ``k``.

    Raises:
      TypeError: a type that is not a float, or several types.
      ValueError: ``k`` and ``v`` differ in shape, ``q`` and ``k`` in head width, or the query heads do not divide evenly
        among the key/value heads.
    """
    for name, array in (("q", q), ("k", k), ("v", v)):
        check_float(name, array)
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"q, k and v must have one type; got q {q.dtype}, k {k.dtype}, v {v.dtype}")
    if k.shape != v.shape:
        raise ValueError(f"v must have the shape of k, {list(k.shape)}; got {list(v.shape)}")
    if min(*q.shape[-2:], *k.shape[-3:]) == 0:
        raise ValueError(f"q and k must have no empty slot, head or width; got q {list(q.shape)}, k {list(k.shape)}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q must have the head width of k, {k.shape[-1]}; got {q.shape[-1]}")
    if q.shape[-2] % k.shape[heads]:
        raise ValueError(f"q must have a multiple of k's {k.shape[heads]} heads; got {q.shape[-2]}")


def check_integers(name: str, array: Any, shape: tuple[int, ...], low: int = 0, high: int | None = None):
    """Check an array of counts.

    Raises:
      TypeError: not of an integer type (a NaN length would be one such).
      ValueError: another shape, or, where values are known, one outside of ``low..high``.
    """
    if not jnp.issubdtype(jnp.result_type(array), jnp.integer):
        raise TypeError(f"{name} must be integers; got {jnp.result_type(array)}")
    if jnp.shape(array) != shape:
        raise ValueError(f"{name} must have shape {list(shape)}; got {list(jnp.shape(array))}")
    values = concrete(array)
    if values is None or not values.size:
        return
    wrong = values[(values < low) | (values > (np.inf if high is None else high))]
    if wrong.size:
        bounds = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be {bounds}; got {wrong.flat[0]}")


def check_offsets(name: str, array: Any, num_groups: int, num_rows: int):
    """Check the bounds of ragged groups: ``num_groups + 1`` integers in ``0..num_rows``, never falling."""
    check_integers(name, array, (num_groups + 1,), 0, num_rows)
    values = concrete(array)
    if values is not None and (np.diff(values) < 0).any():
        raise ValueError(f"{name} must not fall; got {values.tolist()}")


def check_size(name: str, size: Any) -> int:
    """Check a static number of places: ValueError unless it is an integer of at least 1."""
    if isinstance(size, bool | Tracer) or not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"{name} must be an integer of at least 1, known when jax traces; got {size}")
    return int(size)


def check_list(
    names: tuple[str, str], index: Any, count: Any, lists: tuple[int, ...], high: int
) -> tuple[jax.Array, jax.Array]:
    """Check lists of places, and return them as int32 with all entries in range.

    Args:
      names: of the two arrays.
      index: ``int[*lists, M]``; what lies behind the entries in use may be any number.
      count: ``int[*lists]``, entries in use.
      lists: the shape of what has a list.
      high: entries in use are below it.

    Raises:
      TypeError: not of an integer type.
      ValueError: another shape, lists without entries, or, where values are known, a count out of ``0..M`` or an entry in use
        out of ``0..high - 1``.
    """
    name, most = names[0], jnp.shape(index)[-1] if jnp.ndim(index) == len(lists) + 1 else 0
    if jnp.shape(index) != (*lists, most) or not most:
        shape = ", ".join(map(str, lists))
        raise ValueError(f"{name} must have shape [{shape}, M], M at least 1; got {list(jnp.shape(index))}")
    check_integers(name, index, (*lists, most), low=np.iinfo(np.int64).min)
    check_integers(names[1], count, lists, 0, most)
    known, counts = concrete(index), concrete(count)
    if known is not None and counts is not None:
        wrong = known[(np.arange(most) < counts[..., None]) & ((known < 0) | (known >= high))]
        if wrong.size:
            raise ValueError(f"{name} must be in 0..{high - 1} where it is read; got {wrong[0]}")
    return jnp.clip(jnp.asarray(index), 0, high - 1).astype(jnp.int32), jnp.asarray(count, jnp.int32)


def check_scale(scale: Any, width: int) -> float:
    """The scale of the scores, by default ``width ** -0.5``.

    Raises:
      ValueError: not a positive finite number, or not known yet.
    """
    if scale is None:
        return width**-0.5
    if isinstance(scale, Tracer) or not np.isfinite(scale) or scale <= 0:
        raise ValueError(f"scale must be a positive number, known when jax traces; got {scale}")
    return float(scale)


def concrete(array: Any) -> np.ndarray | None:
    """The array's values, or None while jax traces it."""
    return None if isinstance(array, Tracer) else np.asarray(array)
