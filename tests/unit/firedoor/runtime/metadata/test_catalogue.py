"""What a node serves of metadata after refreshes that failed half-way."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Timestamp

from firedoor.errors import FiredoorError, Unavailable
from firedoor.runtime.clocks import Clock
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.trust.keys import public_key
from firedoor.trust.repository import RolePublic, rotate_root
from firedoor.wire.codec import pack
from tests.unit.mirror.origin.test_rotation import LATER, top
from tests.unit.origin_bench import Bench, release

Get = Callable[[str, int], Awaitable[bytes]]


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.publish(release(bench.store))
    return bench


def catalogue(bench: Bench, folder: Path) -> Catalogue:
    root = (bench.fleet / "root.json").read_bytes()
    return Catalogue(folder, root=root, fleet=fleet_of(root), clock=Clock())


def serving(upper: Catalogue) -> Get:
    """What a node below gets from `upper`."""

    async def get(path: str, limit: int) -> bytes:
        data = upper.served(path.removeprefix("/v1/metadata/"))
        if data is None or len(data) > limit:
            raise Unavailable(path, why="no such file here")
        return data

    return get


def versions(below: Catalogue, upper: Catalogue) -> list[str]:
    asyncio.run(below.refresh(serving(upper)))
    return [entry.version for entry in below.releases]


def failing_after(get: Get, calls: int) -> Get:
    """The line goes after so many files."""
    left = [calls]

    async def cut(path: str, limit: int) -> bytes:
        if not left[0]:
            raise Unavailable(path, why="the line is gone")
        left[0] -= 1
        return await get(path, limit)

    return cut


def turn_timestamp(bench: Bench) -> None:
    new = RolePublic((public_key(bench.origin.fresh_key("timestamp")),), 1)
    signers = [bench.seed("root-1")]
    root = rotate_root(top(bench, Root), "timestamp", new, signers=signers, expires=LATER)
    bench.origin.accept_rotation(pack({"root": root.to_bytes()}))


@pytest.mark.parametrize("calls", range(7))
def test_a_refresh_that_failed_anywhere_hides_no_file_from_those_below(
    bench: Bench, tmp_path: Path, calls: int
) -> None:
    mirror, agent = catalogue(bench, tmp_path / "mirror"), catalogue(bench, tmp_path / "agent")
    asyncio.run(mirror.refresh(bench.origin.get))
    assert versions(agent, mirror) == ["1.0"]
    turn_timestamp(bench)
    bench.publish(release(bench.store, "2.0", b"other"))
    try:
        asyncio.run(mirror.refresh(failing_after(bench.origin.get, calls)))
    except FiredoorError:
        assert calls < 6
    asyncio.run(mirror.refresh(bench.origin.get))
    assert versions(agent, mirror) == ["1.0", "2.0"]
    assert versions(catalogue(bench, tmp_path / "new"), mirror) == ["1.0", "2.0"]


def test_a_kill_before_anything_was_served_is_made_good(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = catalogue(bench, tmp_path / "mirror")
    asyncio.run(mirror.refresh(bench.origin.get))
    bench.publish(release(bench.store, "2.0", b"other"))

    def killed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mirror, "_publish_fresh", killed)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(mirror.refresh(bench.origin.get))
    again = catalogue(bench, tmp_path / "mirror")
    again.load()
    asyncio.run(again.refresh(bench.origin.get))
    assert versions(catalogue(bench, tmp_path / "agent"), again) == ["1.0", "2.0"]


def test_what_an_earlier_run_trusted_is_there_again_without_asking(
    bench: Bench, tmp_path: Path
) -> None:
    asyncio.run(catalogue(bench, tmp_path / "agent").refresh(bench.origin.get))
    again = catalogue(bench, tmp_path / "agent")
    again.load()
    assert [entry.version for entry in again.releases] == ["1.0"]
    assert again.authority is not None
    assert again.authority.is_fresh


def test_a_version_is_told_no_sooner_than_it_is_served(bench: Bench, tmp_path: Path) -> None:
    mirror = catalogue(bench, tmp_path / "mirror")
    asyncio.run(mirror.refresh(bench.origin.get))
    old = mirror.timestamp
    bench.publish(replace(release(bench.store, "2.0"), counter=2))
    told_meanwhile = []

    async def watched(path: str, limit: int) -> bytes:
        told_meanwhile.append(mirror.timestamp)
        return await bench.origin.get(path, limit)

    published = mirror._publish_fresh

    def watched_publish() -> None:
        told_meanwhile.append(mirror.timestamp)
        published()

    mirror._publish_fresh = watched_publish  # type: ignore[method-assign]  # one look more
    asyncio.run(mirror.refresh(watched))
    assert set(told_meanwhile) == {old}
    served = Metadata[Timestamp].from_bytes(mirror.served("timestamp.json") or b"")
    assert mirror.timestamp == served.signed.version > old
