"""A stick's folder, and what of it waits at a mirror: certificates and metadata."""

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import pytest
from blake3 import blake3

from firedoor.cli.airgap.bundle import Stick
from firedoor.cli.airgap.carry import MirrorTarget, _by_id, _take_orders
from firedoor.cli.client.peer_status import status_of
from firedoor.errors import Malformed, Unavailable
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.limits import UNRECORDED_PER_KEY_MAX
from firedoor.pieces.manifest import encode_manifest, manifest_id
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.authority import id_of_request, make_request
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.offline_source import CarriedFiles
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.trust.keys import key_of
from firedoor.units import UnixTime
from firedoor.wire.codec import pack
from firedoor.wire.stick import CARRIED_MAX, Answer, Inbound, MetadataFiles, Outbound, Question
from mirror.airgap.carrying import OfflineEnroller
from tests.unit.firedoor.halt.test_lease import AUTHORITY, FLEET, HALT_SEED
from tests.unit.mirror.origin.test_rotation import NEW, delegate
from tests.unit.origin_bench import NOW, Bench, release

NOTHING = status_of({"id": "0" * 32, "role": "mirror", "site": "", "releases": [], "orders": []})


def peer(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


# --- certificates ---------------------------------------------------------------------------------


def test_a_renewal_waits_for_the_stick_and_is_handed_out_until_the_next_comes() -> None:
    box, request = OfflineEnroller(b"ca"), make_request(b"\1" * 32)
    asker = Peer(id_of_request(request), Role.AGENT, "branch")
    with pytest.raises(Unavailable, match="next stick"):
        asyncio.run(box.renew(request, asker))
    assert list(box.requests) == [asker.id]
    box.put(asker.id, b"pem")
    assert asyncio.run(box.renew(request, asker)) == b"pem"
    assert not box.requests
    # The answer was lost on its way, or it is due once more: the next stick takes a request, too.
    assert asyncio.run(box.renew(request, asker)) == b"pem"
    assert list(box.requests) == [asker.id]
    box.put(asker.id, b"next")
    assert asyncio.run(box.renew(request, asker)) == b"next"


def test_a_certificate_waits_for_a_machine_that_has_not_asked_since_the_mirror_started() -> None:
    box, request = OfflineEnroller(b"ca"), make_request(b"\1" * 32)
    asker = Peer(id_of_request(request), Role.AGENT, "branch")
    assert box.put(asker.id, b"pem")
    assert asyncio.run(box.renew(request, asker)) == b"pem"


def test_a_mirror_keeps_certificates_for_one_site_and_no_more() -> None:
    box = OfflineEnroller(b"ca")
    assert all(box.put(peer(number), b"pem") for number in range(CARRIED_MAX))
    assert not box.put(peer(CARRIED_MAX), b"pem")
    assert box.put(peer(0), b"next")


def test_nobody_is_enrolled_where_no_network_leads_to_the_origin() -> None:
    with pytest.raises(Unavailable, match="enrol where one does"):
        asyncio.run(OfflineEnroller(b"ca").enrol(b"{}"))


def test_a_stick_s_metadata_is_had_by_name_and_nothing_else() -> None:
    files = CarriedFiles(MetadataFiles({"1.root.json": b"root", "2.releases%2Fmain.json": b"list"}))
    assert asyncio.run(files("/v1/metadata/1.root.json", 10)) == b"root"
    assert asyncio.run(files("/v1/metadata/2.releases/main.json", 10)) == b"list"
    for path, limit in (("/v1/metadata/2.root.json", 10), ("/v1/metadata/1.root.json", 3)):
        with pytest.raises(Unavailable, match="the stick has none"):
            asyncio.run(files(path, limit))


# --- metadata ------------------------------------------------------------------------------------


def test_keys_on_a_stick_whose_dates_are_over_are_believed_for_halts(
    bench: Bench, tmp_path: Path
) -> None:
    bench.publish(release(bench.store))
    root = (bench.fleet / "root.json").read_bytes()
    mirror = Catalogue(tmp_path / "mirror", root=root, fleet=fleet_of(root), clock=Clock())
    asyncio.run(mirror.refresh(bench.origin.get))
    # What is signed now ran out an hour ago, by the mirror's clock: the way was long.
    bench.now = UnixTime(NOW - 25 * 3600)
    bench.origin.accept_rotation(pack(delegate(bench, "halt", NEW)))
    folder = bench.fleet / "origin" / "metadata"
    brought = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    files = CarriedFiles(MetadataFiles(brought))
    asyncio.run(mirror.refresh(files, files.targets))
    assert mirror.authority is not None
    assert key_of(NEW).keyid in mirror.authority.roles["halt"].keys
    assert not mirror.authority.is_fresh


# --- the folder -----------------------------------------------------------------------------------


def test_a_stick_keeps_what_each_site_asks_and_the_last_answer_for_it(tmp_path: Path) -> None:
    stick = Stick(tmp_path / "stick", FLEET)
    outbound = Outbound(peer(1), (Question(peer(2), bytes(32)),), (b"request",))
    stick.keep_outbound(outbound)
    inbound = Inbound(Answer(b"record", (), outbound.questions), (b"pem",))
    stick.keep_inbound(peer(1), inbound)
    again = Stick(tmp_path / "stick", FLEET)
    assert again.all_outbound() == [outbound]
    assert again.inbound(peer(1)) == inbound
    assert again.inbound(peer(3)) is None
    # Until the next answer comes: the visit that brought this one may have failed half-way.
    again.keep_outbound(outbound)
    assert again.inbound(peer(1)) == inbound


def test_a_stick_of_another_fleet_and_a_folder_that_is_none_are_refused(tmp_path: Path) -> None:
    Stick(tmp_path / "stick", FLEET)
    with pytest.raises(Malformed, match="mark of fleet 0b0b"):
        Stick(tmp_path / "stick", FleetId("0b" * 16))
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo").touch()
    with pytest.raises(Malformed, match="an empty folder, or a stick"):
        Stick(tmp_path / "holiday", FLEET)


def test_a_stick_keeps_what_it_carries_now_and_forgets_other_releases(tmp_path: Path) -> None:
    stick = Stick(tmp_path / "stick", FLEET)
    manifests = [release(stick.store, version, version.encode()) for version in ("1.0", "2.0")]
    for each in manifests:
        data = encode_manifest(each)
        stick.keep_manifest(manifest_id(data), data)
    kept, gone = (manifest_id(encode_manifest(each)) for each in manifests)
    stick.keep_only({kept})
    assert [digest for digest, _, _ in stick.manifests([kept, gone])] == [kept]
    pieces = [each.files[0].pieces[0].digest for each in manifests]
    assert [Stick(tmp_path / "stick", FLEET).store.has(each) for each in pieces] == [True, False]


def test_a_stick_needs_neither_links_nor_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    # As a FAT file system answers on Linux.
    for name in ("symlink", "chmod", "link"):
        monkeypatch.setattr(os, name, refused)
    stick = Stick(tmp_path / "stick", FLEET)
    stick.keep_metadata(MetadataFiles({"1.root.json": b"root"}))
    stick.keep_orders((b"order",))
    stick.keep_outbound(Outbound(peer(1), (), ()))
    stick.store.put(blake3(b"piece").digest(), b"piece")
    assert stick.metadata() == MetadataFiles({"1.root.json": b"root"})


def test_a_damaged_file_on_a_stick_is_named(tmp_path: Path) -> None:
    stick = Stick(tmp_path / "stick", FLEET)
    stick.keep_outbound(Outbound(peer(1), (), ()))
    path = tmp_path / "stick" / "sites" / peer(1) / "outbound"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Malformed, match="outbound"):
        stick.all_outbound()


# --- orders --------------------------------------------------------------------------------------


def halt(number: int, seed: bytes = HALT_SEED) -> bytes:
    payload = HaltPayload(1, number.to_bytes(16, "big"), "app==1", 4, 0, "bad")
    return seal("halt", payload, fleet=FLEET, keys={key_of(seed).keyid: seed})[1]


def test_nobody_fills_a_stick_with_orders(tmp_path: Path) -> None:
    stick = Stick(tmp_path / "stick", FLEET)
    stick.keep_orders((halt(0),))
    junk = [b"junk", halt(1, b"x" * 32), halt(2)[:-1]]
    flood = [halt(number) for number in range(10, 10 + UNRECORDED_PER_KEY_MAX)]
    _take_orders(stick, b"", [*junk, halt(3), *flood], AUTHORITY)
    kept = set(stick.orders())
    assert {halt(0), halt(3)} <= kept
    assert len(kept) == UNRECORDED_PER_KEY_MAX
    assert not kept & set(junk)


def test_junk_among_orders_keeps_no_other_order_back() -> None:
    dock = MirrorTarget(cast("Any", None), FLEET, ("h", 1), peer(1), NOTHING)
    assert list(_by_id(dock, [b"junk", halt(1), halt(2)[:-1], halt(3)]).values()) == [
        halt(1),
        halt(3),
    ]
