"""One stolen release key, for one publish, or one mirror's junk: what stays broken afterwards.

Rows and fields of a publisher's list stay for good, also when the key was turned, so what the
origin takes in once must be something that every client, publisher and rotation can take.
"""

import asyncio
import dataclasses
import datetime as dt
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Targets
from tuf.api.serialization import DeserializationError

from firedoor.cli.releases.publish import _next_counter
from firedoor.errors import FiredoorError, Refused, Unavailable
from firedoor.pieces.manifest import Manifest, encode_manifest
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.fleet_folder import FleetPlan, make_fleet
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.trust.repository import RoleSeeds, rotate_delegation, signed_by
from firedoor.wire.codec import pack
from tests.attacks.ground import Ground, firedoor, ground
from tests.attacks.release_thief import Thief, as_thief, deep, with_row
from tests.unit.endpoint import PRODUCT, Endpoint
from tests.unit.origin_bench import COUNTS, NOW, ROLE, Bench, opened, release

pytestmark = pytest.mark.slow

OTHER = "releases/other"
DAY_S = 86400

# Higher than any counter that an honest publisher comes to.
HIGHEST = 2**53

# What a metadata file may be filled up with.
FAT_BYTES = 15_000_000

THIN_BYTES_PER_S = 2_000_000 / 8

JUNK = b"{}"

Get = Callable[[str, int], Awaitable[bytes]]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Bench]:
    """An origin whose fleet has two publishers; `other` is the thief's."""
    fleet = tmp_path / "made"
    counts = COUNTS | {OTHER: (1, 1)}
    make_fleet(fleet, FleetPlan("test", "127.0.0.1:7443", (), counts, None), NOW)
    made = opened(fleet, tmp_path / "origin")
    yield made
    made.origin.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("ground")) as made:
        yield made


def list_of(bench: Bench, role: str) -> Metadata[Targets]:
    """A publisher's list that is current."""
    metadata = bench.origin._metadata
    return metadata.current(metadata.load(), role)


def published_by_the_thief(
    bench: Bench, manifest: Manifest, *, fields: dict[str, Any] | None = None, **custom: Any
) -> None:
    """One publish by a stolen key; `fields`: of the list, `custom`: of the row."""
    role = f"releases/{manifest.publisher}"
    current = list_of(bench, role).to_bytes()
    listed = with_row(current, manifest, expires_s=30 * DAY_S, **custom)
    listed.signed.unrecognized_fields.update(fields or {})
    signed = signed_by(listed, [bench.seed(f"releases-{manifest.publisher}-1")])
    # An origin that refuses it has held it off as well.
    with suppress(Refused):
        bench.origin.accept_release(role, signed.to_bytes(), encode_manifest(manifest))


def app(bench: Bench, version: str, **changes: Any) -> Manifest:
    """A release whose counter is its major version."""
    made = release(bench.store, version, f"content of {version}".encode())
    return dataclasses.replace(made, **{"counter": int(version.partition(".")[0])} | changes)


def junk(bench: Bench, version: str) -> Manifest:
    """A release of the thief's own."""
    return app(bench, version, product="junk", publisher="other")


def catalogue_of(bench: Bench, folder: Path) -> Catalogue:
    root = (bench.fleet / "root.json").read_bytes()
    return Catalogue(folder, root=root, fleet=fleet_of(root), clock=Clock())


def refreshed(bench: Bench, folder: Path) -> Catalogue:
    catalogue = catalogue_of(bench, folder)
    asyncio.run(catalogue.refresh(bench.origin.get))
    return catalogue


def versions(catalogue: Catalogue) -> list[str]:
    return sorted(each.version for each in catalogue.releases)


# --- counters and floors ------------------------------------------------------------------------


def test_no_counter_ends_a_product_for_good(bench: Bench) -> None:
    bench.publish(app(bench, "1.0"))
    published_by_the_thief(bench, app(bench, "666.0", counter=HIGHEST))
    mine = [
        ReleaseEntry(PRODUCT, "", "", 0, row.custom["counter"], b"", "files")
        for row in list_of(bench, ROLE).signed.targets.values()
    ]
    # The honest publisher's fix, as its command makes it.
    bench.publish(app(bench, "3.0", counter=_next_counter(mine)))


def test_a_floor_above_every_release_forbids_no_step_back(bench: Bench, tmp_path: Path) -> None:
    """1.0 and 2.0 are honest; the thief's 1.5 says how low an endpoint may go: nowhere."""
    endpoint = Endpoint(bench, tmp_path / "endpoint")
    for version in ("1.0", "2.0"):
        endpoint.publish(version)

        async def runs(one: Endpoint, wanted: str = version) -> None:
            await one.until_runs(wanted)

        endpoint.run(runs)
    # It never installs what the thief has made.
    endpoint._is_leased = False
    # Below 2.0 in counters, so that only its floor matters.
    published_by_the_thief(bench, app(bench, "1.5", counter=1, floor=HIGHEST))

    async def taken_back(one: Endpoint) -> None:
        def has_ended() -> bool:
            return one.state[0] == "1.0" or "nothing good" in one.installer.health().detail

        await one.until(lambda: one.state[0] == "2.0")
        await one.halt(f"{PRODUCT}==2.0", 6)
        async with asyncio.timeout(8):
            await one.until(has_ended)
        assert one.state[0] == "1.0", one.installer.health().detail

    endpoint.run(taken_back)


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("custom", [{"critical_fix": 0}, {"floor": False}, {"counter": True}])
def test_what_the_origin_takes_in_every_client_can_list(
    bench: Bench, tmp_path: Path, custom: dict[str, Any]
) -> None:
    bench.publish(app(bench, "1.0"))
    counter = 1 if "counter" in custom else 2
    published_by_the_thief(bench, app(bench, "2.0", counter=counter), **custom)
    # The key is turned, and the honest publisher goes on.
    bench.publish(app(bench, "3.0"))
    catalogue = refreshed(bench, tmp_path / "client")
    assert {"1.0", "3.0"} <= set(versions(catalogue)), catalogue._trust.unlisted


# --- dates and sizes ----------------------------------------------------------------------------


def steal_at(
    site: Ground, product: str, version: str, *, expires_s: int = 30 * DAY_S, **fields: Any
) -> None:
    """One publish by the key of `main` over the network; `fields`: of the list."""

    async def work(thief: Thief) -> None:
        manifest = await thief.bring(product, version)
        listed = with_row(thief.current, manifest, expires_s=expires_s)
        listed.signed.unrecognized_fields.update(fields)
        signed = signed_by(listed, [thief.key.signing_seed])
        # JSON without escapes: what is signed is its canonical form.
        body = json.dumps(signed.to_dict(), ensure_ascii=False, separators=(",", ":"))
        await thief.hand_in(body.encode(), manifest)

    as_thief(site.key("releases-main-1"), work)


def assert_the_publisher_goes_on(site: Ground) -> None:
    """Its key can be turned, and the new one publishes."""
    turned = firedoor("keys", "rotate", "releases/main", "--fleet", site.fleet)
    tree = site.folder / "fix"
    tree.mkdir()
    (tree / "content").write_text("fix", "utf-8")
    fixed = firedoor("publish", "kiosk", "2.0", tree, "--fleet", site.fleet)
    assert (turned.code, fixed.code) == (0, 0), (turned.err, fixed.err)


def test_a_list_that_runs_out_at_once_locks_nobody_out(site: Ground) -> None:
    site.publish("kiosk", "1.0")
    steal_at(site, "kiosk", "6.6", expires_s=2)
    # Until it has run out.
    time.sleep(3)
    assert_the_publisher_goes_on(site)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of a line that the origin ends
def test_a_fat_list_keeps_no_publisher_from_turning_its_key(tmp_path: Path) -> None:
    with ground(tmp_path / "ground") as site:
        site.publish("kiosk", "1.0")
        # 9 MB as the thief writes it; python-tuf writes six letters for each of these.
        steal_at(site, "kiosk", "6.6", x="\u00e9" * 4_500_000)
        assert_the_publisher_goes_on(site)


def test_one_publishers_fat_list_keeps_no_thin_site_from_the_other_publishers(
    two: Bench, tmp_path: Path
) -> None:
    """A site behind 2 Mbit/s; the products are main's."""
    two.publish(app(two, "1.0"))
    published_by_the_thief(two, junk(two, "9.0"), fields={"x": "a" * FAT_BYTES})

    async def thin(path: str, limit: int) -> bytes:
        data = await two.origin.get(path, limit)
        await asyncio.sleep(len(data) / THIN_BYTES_PER_S)
        return data

    catalogue = catalogue_of(two, tmp_path / "mirror")
    with suppress(FiredoorError):
        asyncio.run(catalogue.refresh(thin))
    assert versions(catalogue) == ["1.0"]
    assert catalogue.served("timestamp.json") is not None


def test_publishes_of_nothing_fill_no_disk_of_machines_that_want_none_of_it(
    two: Bench, tmp_path: Path
) -> None:
    catalogue = refreshed(two, tmp_path / "endpoint")
    for number in range(1, 6):
        published_by_the_thief(two, junk(two, f"{number}.0"), fields={"x": "a" * FAT_BYTES})
        asyncio.run(catalogue.refresh(two.origin.get))
    taken = (bytes_in(tmp_path / "endpoint"), bytes_in(two.fleet))
    # A list of five rows, whatever is written into it.
    assert max(taken) < 20 << 20, taken


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- depth --------------------------------------------------------------------------------------


def in_a_thread(work: Callable[[], object]) -> None:
    """As the origin's routes do."""

    async def run() -> None:
        await asyncio.to_thread(work)

    asyncio.run(run())


def hand_in_the_deepest(bench: Bench) -> int:
    """How deep a list of `other` the origin has taken; 0: none."""
    made = junk(bench, "9.0")
    for levels in range(1000, 900, -1):
        current = list_of(bench, OTHER)
        listed = with_row(current.to_bytes(), made, expires_s=DAY_S)
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(10_000)  # the thief's own machine
        try:
            listed.signed.unrecognized_fields["x"] = deep(levels)
            body = signed_by(listed, [bench.seed("releases-other-1")]).to_bytes()
        finally:
            sys.setrecursionlimit(limit)
        if was_taken(bench, current.signed.version, body, encode_manifest(made)):
            return levels
    return 0


def was_taken(bench: Bench, before: int, body: bytes, manifest: bytes) -> bool:
    with suppress(FiredoorError, DeserializationError, RecursionError):
        in_a_thread(lambda: bench.origin.accept_release(OTHER, body, manifest))
    try:
        return list_of(bench, OTHER).signed.version > before
    except (FiredoorError, DeserializationError, RecursionError):
        # It was, and cannot be read.
        return True


def test_one_publishers_deep_list_keeps_nobody_from_turning_any_key(two: Bench) -> None:
    if not hand_in_the_deepest(two):
        return
    # The operators turn the halt key, with root's.
    targets = two.origin._metadata.load().targets
    new = RoleSeeds((bytes([7]) * 32,), 1)
    when = (dt.datetime.now(dt.UTC) + dt.timedelta(days=90)).replace(microsecond=0)
    signers = [two.seed("root-1")]
    turned = rotate_delegation(targets, "halt", new, signers=signers, expires=when)
    body = pack({"root": b"", "targets": turned.to_bytes(), "lists": None})
    in_a_thread(lambda: two.origin.accept_rotation(body))


# --- a mirror's junk ----------------------------------------------------------------------------


def with_junk(get: Get, part: str) -> Get:
    """A source that serves all metadata as it is, but junk for what has `part` in its name."""

    async def hostile(path: str, limit: int) -> bytes:
        return JUNK if part in path else await get(path, limit)

    return hostile


def served_by(catalogue: Catalogue) -> Get:
    """What whoever syncs from there is served."""

    async def get(path: str, limit: int) -> bytes:
        data = catalogue.served(path.removeprefix("/v1/metadata/"))
        if data is None:
            raise Unavailable(path, why="no such file here")
        return data

    return get


def test_junk_that_one_mirror_served_once_is_not_served_on_for_ever(
    bench: Bench, tmp_path: Path
) -> None:
    bench.publish(release(bench.store))
    victim = catalogue_of(bench, tmp_path / "victim")
    child = catalogue_of(bench, tmp_path / "child")

    async def story() -> None:
        with suppress(FiredoorError):
            await victim.refresh(with_junk(bench.origin.get, "releases"))
        # The honest one is asked next, and what this machine itself believes is right again.
        await victim.refresh(bench.origin.get)
        assert versions(victim) == ["1.0"]
        # A site's endpoints, for one, sync from there.
        await child.refresh(served_by(victim))

    asyncio.run(story())
    assert victim.served("2.releases%2Fmain.json") != JUNK
    assert versions(child) == ["1.0"]


def test_a_list_that_does_not_verify_takes_nothing_away(bench: Bench, tmp_path: Path) -> None:
    """Either the refresh counts as failed, and the next source is asked, or the old one stays."""
    bench.publish(release(bench.store))
    victim = refreshed(bench, tmp_path / "victim")
    assert versions(victim) == ["1.0"]
    bench.publish(release(bench.store, "2.0", b"two"))
    with suppress(FiredoorError):
        asyncio.run(victim.refresh(with_junk(bench.origin.get, "3.releases")))
    assert versions(victim) == ["1.0"]


def test_metadata_that_a_mirror_has_padded_is_not_kept_and_served_on(
    bench: Bench, tmp_path: Path
) -> None:
    """A signature covers what is signed, not the file: 16 MB of blanks can go with it."""
    bench.publish(release(bench.store))
    victim = catalogue_of(bench, tmp_path / "victim")

    async def hostile(path: str, limit: int) -> bytes:
        data = await bench.origin.get(path, limit)
        is_unmeasured = path.endswith("targets.json") or "releases" in path
        return data + b" " * (limit - len(data)) if is_unmeasured else data

    async def story() -> None:
        with suppress(FiredoorError):
            await victim.refresh(hostile)
        await victim.refresh(bench.origin.get)

    asyncio.run(story())
    names = ("1.targets.json", "2.releases%2Fmain.json")
    # A site behind 256 kbit/s has some 900 kB in the 30 s that a file may take.
    assert max(len(victim.served(name) or b"") for name in names) < 1 << 20
