"""Root's word says whose a product is, whatever somebody else's key has listed before or lists now.

The thief has the one key of the publisher `other`; the product is main's.
"""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp

from firedoor.errors import Refused
from firedoor.pieces.manifest import encode_manifest, facts_of
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.fleet_folder import FleetPlan, make_fleet
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.trust.repository import (
    RoleSeeds,
    add_release,
    new_releases,
    signed_by,
    with_grants,
    with_publisher,
    without_publisher,
)
from firedoor.wire.codec import pack
from tests.unit.endpoint import PRODUCT
from tests.unit.origin_bench import COUNTS, NOW, ROLE, Bench, opened, release

OTHER = "releases/other"
LATER = dt.datetime.fromtimestamp(NOW + 90 * 86400, dt.UTC)
HELD_BACK_UNTIL = dt.datetime.fromtimestamp(NOW + 30 * 86400, dt.UTC)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """An origin whose fleet has two publishers, main first."""
    fleet = tmp_path / "made"
    counts = COUNTS | {OTHER: (1, 1)}
    make_fleet(fleet, FleetPlan("test", "127.0.0.1:7443", (), counts, None), NOW)
    made = opened(fleet, tmp_path / "origin")
    yield made
    made.origin.close()


def current(bench: Bench, role: str) -> Metadata[Targets]:
    """The newest file of a role that the snapshot of today names."""
    folder = bench.fleet / "origin" / "metadata"
    timestamp = Metadata[Timestamp].from_file(str(folder / "timestamp.json"))
    name = f"{timestamp.signed.snapshot_meta.version}.snapshot.json"
    snapshot = Metadata[Snapshot].from_file(str(folder / name))
    version = snapshot.signed.meta[f"{role}.json"].version
    return Metadata[Targets].from_file(str(folder / f"{version}.{role.replace('/', '%2F')}.json"))


def grant(bench: Bench, publisher: str) -> None:
    """Root says whose the product is."""
    targets = current(bench, "targets")
    signers = [bench.seed("root-1")]
    turned = with_grants(targets, {PRODUCT: publisher}, signers=signers, expires=LATER)
    bench.origin.accept_rotation(pack({"targets": turned.to_bytes()}))


def remove_main(bench: Bench) -> None:
    """Main signs no more."""
    signers = [bench.seed("root-1")]
    left = without_publisher(current(bench, "targets"), ROLE, signers=signers, expires=LATER)
    bench.origin.accept_rotation(pack({"targets": left.to_bytes()}))


def add_main_again(bench: Bench) -> None:
    """Main is back, with a key that no thief has had, and an empty list."""
    new, signers = RoleSeeds((bench.seed(),), 1), [bench.seed("root-1")]
    more = with_publisher(current(bench, "targets"), ROLE, new, signers=signers, expires=LATER)
    listed = new_releases(new, LATER, version=current(bench, ROLE).signed.version + 1)
    lists = {ROLE: listed.to_bytes()}
    bench.origin.accept_rotation(pack({"targets": more.to_bytes(), "lists": lists}))


def publish(bench: Bench, role: str, version: str, counter: int) -> None:
    """Publish a release of the product by the one key of `role`."""
    publisher = role.removeprefix("releases/")
    found = release(bench.store, version, f"{publisher} {version}".encode())
    manifest = dataclasses.replace(found, publisher=publisher, counter=counter)
    data, listed = encode_manifest(manifest), current(bench, role)
    path, custom = f"releases/{PRODUCT}/{version}", asdict(facts_of(manifest))
    add_release(listed, path, data, custom=custom, expires=HELD_BACK_UNTIL)
    signed = signed_by(listed, [bench.seed(f"releases-{publisher}-1")])
    bench.origin.accept_release(role, signed.to_bytes(), data)


def steal(bench: Bench, version: str, counter: int) -> None:
    """The thief publishes it; an origin that refuses has held it off as well."""
    with suppress(Refused):
        publish(bench, OTHER, version, counter)


def rows(bench: Bench, folder: Path) -> list[tuple[str, str]]:
    """Version and publisher of each release of the product, as one endpoint sees it."""
    root = (bench.fleet / "root.json").read_bytes()
    catalogue = Catalogue(folder, root=root, fleet=fleet_of(root), clock=Clock())
    asyncio.run(catalogue.refresh(bench.origin.get))
    return sorted((each.version, each.publisher) for each in catalogue.releases)


def test_a_product_that_root_has_granted_can_be_published_though_a_thief_was_first(
    bench: Bench,
) -> None:
    grant(bench, "main")
    steal(bench, "0.1", 1)
    publish(bench, ROLE, "1.0", 1)


def test_a_product_that_a_thief_was_first_with_is_given_back_by_a_grant(
    bench: Bench, tmp_path: Path
) -> None:
    steal(bench, "0.1", 1)
    grant(bench, "main")
    publish(bench, ROLE, "1.0", 1)
    assert rows(bench, tmp_path / "endpoint") == [("1.0", "main")]


def test_what_root_has_granted_to_a_publisher_that_was_removed_is_nobodys(
    bench: Bench, tmp_path: Path
) -> None:
    publish(bench, ROLE, "1.0", 1)
    grant(bench, "main")
    assert rows(bench, tmp_path / "endpoint") == [("1.0", "main")]
    remove_main(bench)
    assert rows(bench, tmp_path / "endpoint") == []
    steal(bench, "9.0", 2)
    assert rows(bench, tmp_path / "endpoint") == []


def test_a_product_of_a_publisher_that_was_removed_is_taken_by_no_other(
    bench: Bench, tmp_path: Path
) -> None:
    publish(bench, ROLE, "1.0", 1)
    assert rows(bench, tmp_path / "endpoint") == [("1.0", "main")]
    remove_main(bench)
    steal(bench, "9.0", 2)
    assert rows(bench, tmp_path / "endpoint") == []


def test_a_publisher_that_comes_back_has_its_products_again(bench: Bench, tmp_path: Path) -> None:
    publish(bench, ROLE, "1.0", 1)
    assert rows(bench, tmp_path / "endpoint") == [("1.0", "main")]
    remove_main(bench)
    steal(bench, "9.0", 2)
    rows(bench, tmp_path / "endpoint")
    add_main_again(bench)
    publish(bench, ROLE, "2.0", 2)
    assert rows(bench, tmp_path / "endpoint") == [("2.0", "main")]
