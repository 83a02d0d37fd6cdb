"""The protocol that every cache layout implements."""

from typing import Any, Protocol, runtime_checkable

from jaxdec.typing import Array, Bool, Float, Int


@runtime_checkable
class Cache(Protocol):
    """Keys and values of every layer, ``length[b]`` entries of row ``b`` committed.

    A forward pass over ``T`` new tokens calls :meth:`mask` once and then, per layer, :meth:`append`, :meth:`observe` and
    :meth:`attend`.
    Appending writes behind the committed entries and does not advance ``length``; :meth:`commit` does. What lies in
    unused slots (it may be NaN) never reaches an output.
    """

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row."""
        ...

    @property
    def capacity(self) -> int:
        """Slots per row. The caller keeps ``length + T <= capacity``: it cannot be checked under ``jit``."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        ...

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> Any:
        """Return which slots each of ``num_new`` new tokens may read, in the layout's own form."""
        ...

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "Cache":
        """Write the new tokens' keys and values of one layer behind the committed entries."""
        ...

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "Cache":
        """See the new tokens' queries, rotated as the keys are; :meth:`attend` is then called on what this returns.

        Layouts that choose by queries what is read or kept note what they need. All others return themselves.
        """
        ...

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: Any) -> Float[Array, "B T H E"]:
        """Softmax attention of the new tokens over the slots that ``mask`` allows, scaled by ``E ** -0.5``."""
        ...

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "Cache":
        """Keep ``count[b]`` of the new entries and advance ``length`` by it.

        A negative ``count`` (without a path) forgets the last entries again.
        ``path[b, :count[b]]`` are indices (strictly increasing) into the ``T`` appended entries; they are moved to follow
        ``length``. None stands for ``0, 1, 2, ...``: nothing moves.
        """
        ...

    def fork(self, rows: Int[Array, "R"]) -> "Cache":
        """Return a cache whose row ``r`` is a copy of row ``rows[r]`` (beams, several samples of one prompt)."""
        ...
