"""Which rows of patches are whose, and a handle that puts a model back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import distributed, nn


@dataclass(eq=False)
class TokenSplit:
    """A model whose tokens are split over processes; `remove()`, or the end of a `with` block, puts it back as it was.

    Attributes:
        group: the processes.
        check: called before each forward; raises where the model has become one that cannot be split.
        grid_rows: rows of patches of the whole image in hand.
        rows: those of this process; None before the first image.
        shared_tokens: how many of the first tokens all processes hold.
    """

    group: "distributed.ProcessGroup"
    check: Callable[[], None]
    grid_rows: int = 0
    rows: slice | None = None
    shared_tokens: int = 0
    _undo: list[tuple[nn.Module, str, dict[str, Any]]] = field(default_factory=list, repr=False)

    @property
    def rank(self) -> int:
        """Of this process in the group."""
        return distributed.get_rank(self.group)

    @property
    def processes(self) -> int:
        """How many share an image."""
        return distributed.get_world_size(self.group)

    def begin(self, grid_rows: int, shared_tokens: int = 0) -> slice:
        """The rows of patches of this process, of an image with so many; the processes' shares differ by one row at most.

        Raises:
            ValueError: there are fewer rows than processes, or the model has become one that cannot be split.
        """
        self.check()
        if grid_rows < self.processes:
            raise ValueError(
                f"`pixel_values` must have a row of patches for each of {self.processes} processes, got {grid_rows} rows. Give larger "
                "images or a smaller group."
            )
        start, stop = (grid_rows * place // self.processes for place in (self.rank, self.rank + 1))
        self.grid_rows, self.rows, self.shared_tokens = grid_rows, slice(start, stop), shared_tokens
        return self.rows

    def set(self, module: nn.Module, name: str, value: Any) -> None:
        """Set an attribute of a module until `remove()`."""
        self._undo.append((module, name, {key: one for key, one in vars(module).items() if key == name}))
        vars(module)[name] = value

    def remove(self) -> None:
        """Put the model back as it was; a second time does nothing."""
        while self._undo:
            module, name, before = self._undo.pop()
            vars(module).pop(name, None)
            vars(module).update(before)

    def __enter__(self) -> "TokenSplit":
        return self

    def __exit__(self, *error) -> None:
        self.remove()
