"""Metadata that came in a person's hand, as a source like any mirror."""

from firedoor.errors import Unavailable
from firedoor.limits import METADATA_BYTES_MAX
from firedoor.wire.stick import MetadataFiles

_METADATA = "/v1/metadata/"


class CarriedFiles:
    """A `Get` of metadata from what a stick has brought. `targets`: the newest version; 0: none."""

    def __init__(self, brought: MetadataFiles) -> None:
        self._files = brought.files
        names = [name.partition(".") for name in brought.files]
        versions = [number for number, _, rest in names if rest == "targets.json"]
        self.targets = max((int(each) for each in versions if each.isdecimal()), default=0)

    async def __call__(self, path: str, limit: int) -> bytes:
        """The file of metadata at `path`; Unavailable where the stick has none of that size."""
        data = self._files.get(path.removeprefix(_METADATA).replace("/", "%2F"))
        if data is None or len(data) > min(limit, METADATA_BYTES_MAX):
            raise Unavailable(path, why=f"the stick has none of at most {limit} bytes")
        return data
