"""A publisher's key signs its own products' releases, and is no operator's.

The thief here has one key file of the publisher `other`, with the certificate in it, and nothing
else; the products are those of `main`.
"""

import asyncio
import dataclasses
import datetime as dt
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp

from firedoor.cli.demo.local_fleet import version_of
from firedoor.errors import Denied, FiredoorError, Refused, Unavailable
from firedoor.identity import Role
from firedoor.pieces.manifest import encode_manifest, facts_of
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.fleet_folder import FleetPlan, make_fleet
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.settings import split_address
from firedoor.trust.repository import RoleSeeds, add_release, rotate_delegation, signed_by
from firedoor.wire.codec import pack
from tests.live.lab import ENROL_PORT, LabSite, tell
from tests.unit.endpoint import PRODUCT, Endpoint
from tests.unit.origin_bench import COUNTS, NOW, Bench, opened, release

OTHER = "releases/other"
PUBLISHERS = ("--publisher", "main", "--publisher", "other")

# For so long another publisher's release may not show; an endpoint takes it within a second.
QUIET_S = 4.0

BODY_BYTES_MAX = 1 << 16


# --- one endpoint, in folders of a test ---------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """An origin whose fleet has two publishers, main first."""
    yield from made(tmp_path, COUNTS | {OTHER: (1, 1)})


@pytest.fixture
def upside_down(tmp_path: Path) -> Iterator[Bench]:
    """The same, but that the thief's publisher comes first in order of delegation."""
    yield from made(tmp_path, {OTHER: (1, 1)} | COUNTS)


def made(folder: Path, counts: dict[str, tuple[int, int]]) -> Iterator[Bench]:
    fleet = folder / "made"
    make_fleet(fleet, FleetPlan("test", "127.0.0.1:7443", (), counts, None), NOW)
    bench = opened(fleet, folder / "origin")
    yield bench
    bench.origin.close()


def list_of_other(bench: Bench) -> Metadata[Targets]:
    """The list of the publisher `other` that is current."""
    folder = bench.fleet / "origin" / "metadata"
    timestamp = Metadata[Timestamp].from_file(str(folder / "timestamp.json"))
    name = f"{timestamp.signed.snapshot_meta.version}.snapshot.json"
    snapshot = Metadata[Snapshot].from_file(str(folder / name))
    version = snapshot.signed.meta[f"{OTHER}.json"].version
    return Metadata[Targets].from_file(str(folder / f"{version}.releases%2Fother.json"))


def published_by_the_thief(bench: Bench, version: str, *, counter: int, floor: int = 0) -> None:
    """Another publisher lists a release of the product, if the origin takes it."""
    found = release(bench.store, version, b"hostile")
    hostile = dataclasses.replace(found, publisher="other", counter=counter, floor=floor)
    data, listed = encode_manifest(hostile), list_of_other(bench)
    path, custom = f"releases/{hostile.product}/{version}", asdict(facts_of(hostile))
    later = dt.datetime.fromtimestamp(NOW + 30 * 86400, dt.UTC)
    add_release(listed, path, data, custom=custom, expires=later)
    signed = signed_by(listed, [bench.seed("releases-other-1")])
    # An origin that refuses it has held it off as well.
    with suppress(Refused):
        bench.origin.accept_release(OTHER, signed.to_bytes(), data)


def published_by_main(bench: Bench, version: str, counter: int) -> None:
    found = release(bench.store, version, f"content of {version}".encode())
    bench.publish(dataclasses.replace(found, counter=counter))


def rows(catalogue: Catalogue) -> list[tuple[str, str]]:
    """Version and publisher of each release of the product."""
    listed: Sequence[ReleaseEntry] = catalogue.releases
    return sorted((each.version, each.publisher) for each in listed if each.product == PRODUCT)


def refreshed(bench: Bench, folder: Path) -> Catalogue:
    """What an endpoint lists after one more look at the origin; a new life of its process."""
    root = (bench.fleet / "root.json").read_bytes()
    catalogue = Catalogue(folder, root=root, fleet=fleet_of(root), clock=Clock())
    asyncio.run(catalogue.refresh(bench.origin.get))
    return catalogue


@pytest.mark.parametrize("order", ["bench", "upside_down"])
def test_a_product_stays_with_whose_list_had_it_first_here(
    request: pytest.FixtureRequest, tmp_path: Path, order: str
) -> None:
    bench: Bench = request.getfixturevalue(order)
    published_by_main(bench, "1.0", 1)
    assert rows(refreshed(bench, tmp_path / "catalogue")) == [("1.0", "main")]
    published_by_the_thief(bench, "9.0", counter=9)
    # In each life: what was first here is kept durably.
    for _ in range(2):
        assert rows(refreshed(bench, tmp_path / "catalogue")) == [("1.0", "main")]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_the_owner_of_a_product_goes_on_though_another_has_listed_its_versions(
    upside_down: Bench, tmp_path: Path, version: str
) -> None:
    bench = upside_down
    published_by_main(bench, "1.0", 1)
    refreshed(bench, tmp_path / "catalogue")
    published_by_the_thief(bench, version, counter=int(version[0]))
    assert rows(refreshed(bench, tmp_path / "catalogue")) == [("1.0", "main")]
    published_by_main(bench, "2.0", 2)
    wanted = [("1.0", "main"), ("2.0", "main")]
    assert rows(refreshed(bench, tmp_path / "catalogue")) == wanted


def test_a_machine_that_comes_new_takes_the_first_publisher_in_order_of_delegation(
    bench: Bench, tmp_path: Path
) -> None:
    published_by_main(bench, "1.0", 1)
    published_by_the_thief(bench, "9.0", counter=9)
    assert rows(refreshed(bench, tmp_path / "new")) == [("1.0", "main")]


async def taken_back(one: Endpoint) -> None:
    """A halt of 2.0 by one key brings the endpoint back to 1.0."""
    await one.until(lambda: one.state[0] == "2.0")
    await one.halt(f"{PRODUCT}==2.0", 6)
    async with asyncio.timeout(5):
        await one.until(lambda: one.state[0] == "1.0")


def installed(bench: Bench, folder: Path) -> Endpoint:
    """An endpoint on which 1.0 ran and 2.0 runs."""
    endpoint = Endpoint(bench, folder)
    for version in ("1.0", "2.0"):
        endpoint.publish(version)

        async def story(one: Endpoint, wanted: str = version) -> None:
            await one.until_runs(wanted)

        endpoint.run(story)
    # From now on it starts nothing new.
    endpoint._is_leased = False
    return endpoint


@pytest.mark.slow
def test_another_publishers_floor_forbids_no_step_back(bench: Bench, tmp_path: Path) -> None:
    endpoint = installed(bench, tmp_path / "endpoint")
    # Below 2.0 in counters, so that only its floor could matter.
    published_by_the_thief(bench, "1.9", counter=1, floor=2)
    endpoint.run(taken_back)


@pytest.mark.slow
def test_another_publishers_counter_makes_nothing_older(bench: Bench, tmp_path: Path) -> None:
    endpoint = installed(bench, tmp_path / "endpoint")
    published_by_the_thief(bench, "9.0", counter=9)
    endpoint.run(taken_back)


# --- real programs ------------------------------------------------------------------------------


class TwoPublishers(LabSite):
    """A fleet of the publishers `main` and `other`."""

    founding = PUBLISHERS


def key_of(site: LabSite, name: str) -> str:
    return str(site.fleet / "keys" / f"{name}.key")


async def publish(site: LabSite, whose: str, product: str, version: str, *words: str) -> str:
    """Publish content of its own by one publisher; what the command says."""
    tree = site.folder / "trees" / f"{whose}-{product}-{version}"
    tree.mkdir(parents=True, exist_ok=True)
    (tree / "whose").write_text(f"{whose} {version}", "utf-8")
    key = key_of(site, f"releases-{whose}-1")
    return await site.firedoor("publish", product, version, str(tree), "--key", key, *words)


async def steal(site: LabSite, product: str, version: str, *words: str) -> None:
    """The thief publishes it too; a refusal holds that off as well."""
    with suppress(Unavailable):
        await publish(site, "other", product, version, *words)


async def one_endpoint(site: LabSite) -> str:
    """An endpoint right below the origin that runs main's kiosk 1.0."""
    await site.begin_origin()
    products = ["kiosk", "manuals"]
    [name] = await site.enrol(1, products, mirrors=[site.programs["origin"].address])
    await site.start(name)
    await publish(site, "main", "kiosk", "1.0")
    await site.until_running("kiosk", "1.0", [name])
    return name


@pytest.mark.live
@pytest.mark.slow
def test_an_endpoint_installs_nothing_of_a_product_by_another_publishers_key(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        name = await one_endpoint(site)
        await steal(site, "kiosk", "2.0", "--floor", "1.0")
        # The thief's own product goes on, and by then the list with both is here.
        await publish(site, "other", "manuals", "1.0")
        await site.until_running("manuals", "1.0", [name])
        deadline = time.monotonic() + QUIET_S
        while time.monotonic() < deadline:
            assert version_of(await site.status(name), "kiosk") in {"", "1.0"}
            await asyncio.sleep(0.1)

    tell(tmp_path, story, TwoPublishers)


@pytest.mark.live
@pytest.mark.slow
def test_an_owner_publishes_a_version_that_another_key_has_listed_before(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        name = await one_endpoint(site)
        await steal(site, "kiosk", "2.0")
        await publish(site, "main", "kiosk", "2.0")
        whose = site.programs[name].folder / "roots" / "kiosk" / "current" / "whose"

        async def is_mains() -> bool:
            return whose.read_text("utf-8") == "main 2.0"

        await site.until("main's 2.0 runs", is_mains)

    tell(tmp_path, story, TwoPublishers)


@pytest.mark.live
@pytest.mark.slow
def test_nobodys_key_but_the_operators_mints_a_token(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        thieves = [path for path in (site.fleet / "keys").iterdir() if path.stem != "operator"]
        assert len(thieves) > 6
        minted = [path.name for path in sorted(thieves) if await mints(site, path)]
        assert minted == []
        assert await mints(site, site.fleet / "keys" / "operator.key")

    async def mints(site: LabSite, key: Path) -> bool:
        enrol = f"{site.programs['origin'].address.partition(':')[0]}:{ENROL_PORT}"
        words = ["--role", "mirror", "--site", "headquarters", "--enrol", enrol, "--key", str(key)]
        try:
            return bool(await site.firedoor("token", *words))
        except Unavailable:
            return False

    tell(tmp_path, story, TwoPublishers)


@pytest.mark.live
@pytest.mark.slow
def test_nobodys_key_but_the_operators_makes_online_keys_or_turns_any(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        rotation = another_halt_key(site)
        taken = []
        for name in ("releases-other-1", "halt-1", "resume-1", "promote-1"):
            if await is_taken(site, name, "/v1/keys/fresh", b"timestamp"):
                taken.append(f"{name} made a timestamp key")
            if await is_taken(site, name, "/v1/keys/rotate", rotation):
                taken.append(f"{name} turned the halt keys")
        assert taken == []
        assert not (site.fleet / "origin" / "timestamp.new.key").exists()

    tell(tmp_path, story, TwoPublishers)


@pytest.mark.live
@pytest.mark.slow
def test_the_private_half_of_a_certificate_alone_mints_no_token(tmp_path: Path) -> None:
    # Signing and connecting have a seed each in a key file: who has the second one alone, out of a
    # memory dump of a connection say, proves no role by it.
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        asked = {"role": "agent", "site": "branch", "ring": "broad", "span_s": 60}
        assert not await is_taken(site, "operator", "/v1/tokens", json.dumps(asked).encode())

    tell(tmp_path, story, TwoPublishers)


def another_halt_key(site: LabSite) -> bytes:
    """A rotation of the halt keys as root signs it, which somebody else hands in."""
    targets = Metadata[Targets].from_file(str(site.fleet / "origin/metadata/1.targets.json"))
    signers = [read_key_file(Path(key_of(site, "root-1")), str).signing_seed]
    later = (dt.datetime.now(dt.UTC) + dt.timedelta(days=90)).replace(microsecond=0)
    new = RoleSeeds((bytes([7]) * 32,), 1)
    turned = rotate_delegation(targets, "halt", new, signers=signers, expires=later)
    return pack({"targets": turned.to_bytes()})


async def is_taken(site: LabSite, name: str, path: str, body: bytes) -> bool:
    """Whether the origin answers this request of the certificate in a key file.

    A request without any further proof: only who is refused for what the key is counts as held off.
    """
    key = read_key_file(Path(key_of(site, name)), str)
    client = PeerClient(credentials_of(key), Clock(), Budget(0))
    host, port = split_address(site.programs["origin"].address)
    try:
        await client.post(host, port, path, body, role=Role.MIRROR, limit=BODY_BYTES_MAX)
    except Denied:
        return False
    except FiredoorError as error:
        raise AssertionError(f"{path}: neither taken nor refused: {error}") from error
    finally:
        await client.close()
    return True


# --- whose product it is ------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.slow
def test_a_publisher_is_added_publishes_and_is_removed(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        fleet = ("--fleet", str(site.fleet))
        await site.firedoor("keys", "publisher", "add", "third", *fleet)
        await publish(site, "third", "posters", "1.0")
        await site.firedoor("keys", "publisher", "remove", "third", *fleet)
        with pytest.raises(Unavailable):
            await publish(site, "third", "posters", "2.0")
        # The others go on.
        await publish(site, "main", "kiosk", "1.0")

    tell(tmp_path, story, kind=TwoPublishers)


@pytest.mark.live
@pytest.mark.slow
def test_grants_are_proposed_from_the_lists_and_then_hold_for_machines_that_come_new(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        fleet = ("--fleet", str(site.fleet))
        [name] = await site.enrol(1, ["manuals"], mirrors=[site.programs["origin"].address])
        # By the order of delegation it would be main's.
        await publish(site, "other", "manuals", "1.0")
        await publish(site, "other", "posters", "1.0")
        said = await site.firedoor("keys", "grant", "--from-lists", *fleet)
        assert {"manuals", "posters", "other"} <= set(said.replace("=", " ").split())
        await site.firedoor("keys", "grant", "manuals", "other", *fleet)
        with suppress(Unavailable):
            await publish(site, "main", "manuals", "2.0")
        await site.start(name)
        await site.until_running("manuals", "1.0", [name])
        await publish(site, "other", "manuals", "3.0")
        await site.until_running("manuals", "3.0", [name])

    tell(tmp_path, story, kind=TwoPublishers)
