"""What ends with its `with` block."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Ending(ABC):
    """Something that runs or is open until the block ends, whatever comes of it."""

    @abstractmethod
    def leave(self) -> None:
        """Stop it, or close it, and leave nothing behind."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
