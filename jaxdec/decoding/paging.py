"""How many pages a batch needs. The size of a pool is a shape, so pages are counted before anything is compiled.

The table that deals pages out is data (:class:`jaxdec.cache.PagedCache`): another batch with as many pages runs the same
program. Numbers from 16 on are rounded up to four binary digits, by an eighth at most, so that few programs are compiled.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Paging:
    """Pages of a batch.

    Attributes:
      page_size: tokens of a page.
      capacity: the prompt's when its pages were counted. What a method adds to that, for draft trees, is added to each row.
      whole: pages for what prompts do not share and for their budgets.
      behind_prompts: pages for the budgets alone, where several texts of each prompt share all of it.
    """

    page_size: int
    capacity: int
    whole: int
    behind_prompts: int

    @classmethod
    def of(cls, own: np.ndarray, budgets: np.ndarray, capacity: int, page_size: int) -> "Paging":
        """Count.

        Args:
          own: ``int[B]``, tokens of each prompt that it does not share.
          budgets: ``int[B]``, tokens that each row may generate.
          capacity: the prompt's.
          page_size: tokens of a page.

        Raises:
          ValueError: a page size below 1.
        """
        if page_size < 1:
            raise ValueError(f"page_size must be at least 1, got {page_size}")
        whole, behind = (rounded(int((-(-need // page_size)).sum())) for need in (own + budgets, budgets))
        return cls(page_size, capacity, whole, behind)

    def num_pages(self, rows: int, capacity: int, *, behind_prompts: bool = False) -> int:
        """Pages for one text of each of ``rows`` prompts, if the prompt's capacity has become ``capacity``."""
        more = -(-(capacity - self.capacity) // self.page_size)
        return (self.behind_prompts if behind_prompts else self.whole) + rows * more

    def repeated(self, times: int) -> "Paging":
        """Paging when every row is repeated."""
        return dataclasses.replace(self, whole=self.whole * times, behind_prompts=self.behind_prompts * times)


def rounded(number: int) -> int:
    """Rounded up to four binary digits."""
    step = 1 << max(number.bit_length() - 4, 0)
    return -(-number // step) * step
