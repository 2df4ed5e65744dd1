"""What a network's passes happen in, for layers and hooks that are not handed it: at which step of sampling, and how.

Contexts nest, and threads do not share them.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self


@dataclass
class ForwardContext:
    """Within a `with` block it is what `get_forward_context` gives; after it, by an error too, the outer one is again.

    Attributes:
        current_timestep: Number of the sampling step, from 0.
        attn_metadata: What an attention of one's own wants to know.
    """

    current_timestep: int = 0
    attn_metadata: Any = None
    _tokens: list[Token[ForwardContext | None]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __enter__(self) -> Self:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        _current.reset(self._tokens.pop())


_current: ContextVar[ForwardContext | None] = ContextVar("forward context", default=None)


def set_forward_context(current_timestep: int, attn_metadata: Any = None) -> ForwardContext:
    """The context of a step, for a `with` statement."""
    return ForwardContext(current_timestep, attn_metadata)


def get_forward_context() -> ForwardContext:
    """The innermost context.

    Raises:
        RuntimeError: There is none here.
    """
    context = _current.get()
    if context is None:
        raise RuntimeError("there is no forward context here: read it inside `with set_forward_context(...)`")
    return context
