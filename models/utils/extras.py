"""Optional packages: a missing one is named together with the extra that brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Stands around imports of packages that an extra of the distribution brings.

    Args:
        name: Of the extra, as in `pip install '.[name]'`; several are separated by commas.
        purpose: What it is needed for, as the error says it: "training a world".

    Raises:
        ImportError: A package is missing; the message names it, the purpose and the extra.
    """
    try:
        yield
    except ImportError as error:
        gone = isinstance(error, ModuleNotFoundError) and error.name
        missing = f"{gone.partition('.')[0]}, which is not installed" if gone else f"a package that fails ({error})"
        how = f"in the checkout: pip install -c constraints.txt -e '.[{name}]'"
        raise ImportError(f"{purpose} needs {missing}; {how}", name=error.name) from error
