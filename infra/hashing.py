"""The door to XXH3 of 128 bits, which vouches for files and manifests: the xxhash library's, or that of infra/xxh3.py where it is missing.

Both give the same digest; a rank on a machine that has only what training needs waits longer for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from infra.xxh3 import Bytes


class Hash(Protocol):
    """Of all bytes given so far."""

    def update(self, data: Bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def _installed() -> Callable[..., Hash]:
    try:
        from xxhash import xxh3_128
    except ModuleNotFoundError:
        from infra.xxh3 import XXH3128

        return XXH3128
    return xxh3_128


xxh3 = _installed()
