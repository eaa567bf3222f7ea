"""A hostile endpoint: enrolled, on time, whole, and every piece that it sends has one wrong bit.

Run in place of `python -m agent`, with the same arguments. All else in it is the real agent.
"""

import sys

from agent.__main__ import main
from firedoor.runtime.host.service import Service

honest = Service.piece


async def piece(self: Service, digest: bytes) -> bytes | None:
    stored = await honest(self, digest)
    return bytes([stored[0] ^ 1]) + stored[1:] if stored else stored


if __name__ == "__main__":
    Service.piece = piece  # type: ignore[method-assign]  # that is the lie
    sys.exit(main())
