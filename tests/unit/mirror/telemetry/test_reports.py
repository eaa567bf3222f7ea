"""What a mirror remembers of its endpoints' own words, and whose words count."""

import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.reports import bounded
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.limits import BULK_FRAME_BYTES, REPORT_BYTES_MAX
from firedoor.runtime.keys.authority import id_of_request, issue, make_authority, make_request
from firedoor.trust.report_signing import signed_report
from firedoor.units import UnixTime
from firedoor.wire.codec import unpack
from firedoor.wire.messages import Health, ProductHealth, Report, encode_message
from mirror.telemetry import reports
from mirror.telemetry.claims import BETTER_FOR_S, Judge
from mirror.telemetry.reporting import in_parts
from mirror.telemetry.reports import Endpoints, size_of

CA_SEED = b"\1" * 32
CA = make_authority("test", CA_SEED)
FLEET = FleetId("f" * 32)
SEEDS = (b"\3" * 32, b"\4" * 32)
ONE, TWO = (id_of_request(make_request(seed)) for seed in SEEDS)
SEED_OF = dict(zip((ONE, TWO), SEEDS, strict=True))
MIRROR = Peer(PeerId("f" * 32), Role.MIRROR, "branch")
OTHER = Peer(PeerId("e" * 32), Role.MIRROR, "elsewhere")


@dataclass
class Roll:
    """Whom an origin has enrolled, by id."""

    sites: dict[PeerId, str]

    def site_of(self, peer: PeerId) -> str | None:
        return self.sites.get(peer)


def agent(peer: PeerId, site: str = "branch") -> Peer:
    return Peer(peer, Role.AGENT, site)


def certificate(peer: PeerId, *, seed: bytes = CA_SEED, ca: bytes = CA) -> bytes:
    pem = issue(
        make_request(SEED_OF[peer]),
        ca_pem=ca,
        ca_seed=seed,
        role=Role.AGENT,
        site="branch",
        now=UnixTime(100),
    )
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


def report(peer: PeerId, version: str = "1.0") -> Report:
    product = ProductHealth("kiosk", version, "ab" * 32, "idle")
    return Report(peer, "agent", "branch", (product,), ())


def signed(peer: PeerId, version: str = "1.0", at: int = 100, *, by: PeerId = ONE) -> Report:
    """A report with its endpoint's certificate, signed by `by`."""
    said = signed_report(replace(report(peer, version), said_at=at), fleet=FLEET, seed=SEED_OF[by])
    return replace(said, certificate=certificate(peer))


def opened_at(path: Path, roll: Roll | None = None) -> Endpoints:
    return Endpoints(path, Judge(FLEET, CA, roll))


def take(
    opened: Endpoints, *reports: Report, by: Peer = MIRROR, now: int = 100, here: str = ""
) -> list[PeerId]:
    return opened.take(reports, by, {PeerId(here)}, UnixTime(now))


def versions(opened: Endpoints) -> dict[str, str]:
    """What each endpoint is said to run."""
    return {row["id"]: row["products"][0]["version"] for row in opened.table((), ())}


def kept(path: Path) -> dict[str, tuple[int, str]]:
    """When each endpoint was heard, and what it runs, as another process would read it."""
    opened = opened_at(path)
    rows = opened.table((), ())
    opened.close()
    return {row["id"]: (row["seen_at"], row["products"][0]["version"]) for row in rows}


def test_the_newest_report_of_each_endpoint_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "mirror.sqlite"
    opened = opened_at(path)
    take(opened, report(ONE), report(TWO), now=100)
    take(opened, report(ONE, "2.0"), now=200)
    opened.close()
    assert kept(path) == {ONE: (200, "2.0"), TWO: (100, "1.0")}


def test_who_was_enrolled_and_never_heard_of_is_shown_as_silent(tmp_path: Path) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite")
    take(opened, report(ONE), now=100)
    opened.lost(MIRROR.id)
    enrolled = [Report(each, "agent", "branch", (), ()) for each in (ONE, TWO)]
    rows = opened.table([ONE], enrolled)
    opened.close()
    assert [(row["id"], row["seen_at"], row["is_connected"]) for row in rows] == [
        (ONE, 100, True),
        (TWO, 0, False),
    ]


def test_a_fleet_above_the_limit_keeps_those_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "ENDPOINTS_MAX", 1)
    path = tmp_path / "mirror.sqlite"
    opened = opened_at(path)
    take(opened, report(ONE), report(TWO), now=100)
    take(opened, report(ONE, "2.0"), now=200)
    opened.close()
    assert kept(path) == {ONE: (200, "2.0")}


def test_a_row_that_cannot_be_read_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "mirror.sqlite"
    opened = opened_at(path)
    take(opened, report(ONE), report(TWO), now=100)
    opened.close()
    base = sqlite3.connect(path)
    base.execute("UPDATE endpoints SET report = x'c1' WHERE id = ?", (ONE,))
    base.commit()
    base.close()
    assert set(kept(path)) == {TWO}


def test_a_file_that_is_no_database_does_not_stop_a_mirror(tmp_path: Path) -> None:
    path = tmp_path / "mirror.sqlite"
    path.write_bytes(b"no database" * 100)
    opened = opened_at(path)
    take(opened, report(ONE), now=100)
    assert opened.all() == [ONE]
    opened.close()


def test_a_report_that_is_passed_on_keeps_its_age(tmp_path: Path) -> None:
    below, above = opened_at(tmp_path / "below.sqlite"), opened_at(tmp_path / "above.sqlite")
    take(below, report(ONE))
    passed = below.report(ONE, UnixTime(460))
    assert passed is not None
    take(above, passed, now=5000)
    assert above.table((), ())[0]["seen_at"] == 5000 - 360
    below.close()
    above.close()


def test_an_endpoint_that_is_gone_is_passed_on_as_gone(tmp_path: Path) -> None:
    below, above = opened_at(tmp_path / "below.sqlite"), opened_at(tmp_path / "above.sqlite")
    take(below, report(ONE), by=agent(ONE))
    assert below.lost(TWO) == []
    assert below.lost(ONE) == [ONE]
    passed = below.report(ONE, UnixTime(101))
    assert passed is not None
    take(above, report(ONE))
    assert above.table((), ())[0]["is_connected"]
    take(above, passed, now=101)
    assert not above.table((), ())[0]["is_connected"]
    below.close()
    above.close()


def test_all_whom_a_lost_mirror_spoke_for_are_gone(tmp_path: Path) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite")
    take(opened, report(ONE), by=MIRROR)
    take(opened, report(TWO), by=OTHER)
    assert opened.lost(MIRROR.id) == [ONE]
    rows = {row["id"]: row["is_connected"] for row in opened.table((), ())}
    assert rows == {ONE: False, TWO: True}
    opened.close()


# --- who may say what -------------------------------------------------------------------------


def test_an_endpoint_reports_only_itself_and_from_its_certificates_site(tmp_path: Path) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite")
    lie = replace(report(ONE), site="elsewhere", role="mirror", age_s=9, is_connected=False)
    assert take(opened, report(TWO), lie, by=agent(ONE, "hangar")) == [ONE]
    assert opened.report(ONE, UnixTime(100)) == replace(report(ONE), site="hangar")
    assert opened.refusals.not_theirs == 1
    opened.close()


def test_an_operator_reports_nobody(tmp_path: Path) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite")
    assert take(opened, report(ONE), by=Peer(ONE, Role.OPERATOR, "headquarters")) == []
    opened.close()


def test_the_origin_keeps_no_report_of_whom_it_does_not_know(tmp_path: Path) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite", Roll({ONE: "branch"}))
    invented = [report(PeerId(f"{number:032x}")) for number in range(1000)]
    assert take(opened, *invented, report(ONE)) == [ONE]
    assert opened.refusals.not_theirs == 1000
    opened.close()


def test_an_unknown_endpoint_counts_once_it_proves_a_certificate_of_the_fleet(
    tmp_path: Path,
) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite", Roll({}))
    foreign = make_authority("test", b"\2" * 32)
    forged = replace(signed(ONE), certificate=certificate(ONE, seed=b"\2" * 32, ca=foreign))
    bare = replace(signed(ONE), certificate=b"")
    of_another = replace(signed(TWO), certificate=certificate(ONE))
    for lie in (forged, bare, of_another, signed(TWO, by=ONE), report(ONE)):
        assert take(opened, lie) == []
    assert take(opened, signed(ONE)) == [ONE]
    # Its certificate is known from then on.
    assert take(opened, replace(signed(ONE, "2.0", 101), certificate=b"")) == [ONE]
    assert versions(opened) == {ONE: "2.0"}
    opened.close()


def test_a_mirror_of_another_site_replaces_nothing_that_an_endpoint_has_signed(
    tmp_path: Path,
) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite", Roll({ONE: "branch", TWO: "branch"}))
    take(opened, signed(ONE, "1.0", 100))
    perfect = replace(report(ONE, "3.0"), said_at=10**9)
    assert take(opened, perfect, by=OTHER) == []
    assert take(opened, perfect, by=OTHER, now=10**6) == []
    assert take(opened, signed(ONE, "0.9", 99), by=OTHER) == []
    assert versions(opened) == {ONE: "1.0"}
    # A laptop that roams is heard through whatever mirror it has.
    assert take(opened, signed(ONE, "1.1", 101), by=OTHER) == [ONE]
    assert opened.heard()[0][0].site == "branch"
    opened.close()


def test_a_mirror_of_another_site_cannot_say_that_an_endpoint_is_gone(tmp_path: Path) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite", Roll({ONE: "branch"}))
    take(opened, signed(ONE))
    gone = replace(signed(ONE), is_connected=False)
    assert take(opened, gone, by=OTHER) == []
    assert take(opened, gone) == [ONE]
    opened.close()


def test_whoever_is_connected_here_speaks_for_itself(tmp_path: Path) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite", Roll({ONE: "branch"}))
    take(opened, signed(ONE, "1.0", 100), by=agent(ONE))
    assert take(opened, signed(ONE, "2.0", 101), here=ONE) == []
    assert take(opened, report(ONE, "2.0"), here=ONE) == []
    assert versions(opened) == {ONE: "1.0"}
    opened.close()


def test_an_agent_of_version_0_1_is_heard_through_its_sites_mirror_and_no_other(
    tmp_path: Path,
) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite", Roll({ONE: "branch", TWO: "branch"}))
    assert take(opened, report(ONE, "1.0")) == [ONE]
    assert take(opened, report(ONE, "3.0"), by=OTHER) == []
    assert take(opened, report(ONE, "1.1")) == [ONE]
    # Its site's own mirror may hang below one of another site; then that is all there is.
    assert take(opened, report(TWO), by=OTHER) == [TWO]
    assert take(opened, report(TWO, "2.0")) == [TWO]
    assert versions(opened) == {ONE: "1.1", TWO: "2.0"}
    opened.close()


def test_a_machine_that_was_set_back_to_version_0_1_is_heard_again_within_an_hour(
    tmp_path: Path,
) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite", Roll({ONE: "branch"}))
    take(opened, signed(ONE, "2.0", 10**6))
    assert take(opened, report(ONE, "1.0"), now=200) == []
    assert take(opened, report(ONE, "1.0"), now=100 + BETTER_FOR_S + 1) == [ONE]
    opened.close()


def test_one_sender_fills_no_table_with_endpoints_that_prove_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "UNPROVED_PER_SENDER_MAX", 3)
    opened = opened_at(tmp_path / "mirror.sqlite")
    invented = [report(PeerId(f"{number:032x}")) for number in range(10)]
    assert len(take(opened, *invented, by=OTHER)) == 3
    assert take(opened, signed(ONE), by=OTHER) == [ONE]
    assert take(opened, report(TWO)) == [TWO]
    assert opened.refusals.no_room == 7
    opened.close()


def test_what_a_banned_machine_has_said_goes_and_its_room_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "UNPROVED_PER_SENDER_MAX", 3)
    path = tmp_path / "mirror.sqlite"
    opened = opened_at(path)
    invented = [report(PeerId(f"{number:032x}")) for number in range(3)]
    take(opened, *invented, by=OTHER)
    take(opened, report(ONE))
    opened.forget_senders(lambda peer: peer == OTHER.id)
    assert opened.all() == [ONE]
    assert len(take(opened, *invented, by=OTHER)) == 3
    opened.forget_senders(lambda peer: peer == OTHER.id)
    opened.close()
    assert set(kept(path)) == {ONE}


def test_a_report_above_the_limit_is_left_out_and_counted(tmp_path: Path) -> None:
    opened = opened_at(tmp_path / "mirror.sqlite")
    products = tuple(ProductHealth("", "", "", "", "x" * 400) for _ in range(30))
    large = Report(ONE, "", "", products, ())
    assert take(opened, large, report(TWO)) == [TWO]
    assert opened.refusals.too_large == 1
    opened.close()


def test_what_proves_a_report_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "mirror.sqlite"
    opened = opened_at(path)
    take(opened, signed(ONE))
    opened.close()
    again = opened_at(path, Roll({ONE: "branch"}))
    assert take(again, report(ONE, "3.0"), by=OTHER) == []
    assert take(again, replace(signed(ONE, "2.0", 101), certificate=b""), by=OTHER) == [ONE]
    again.close()


def test_version_0_1_reads_and_writes_the_file_of_this_one(tmp_path: Path) -> None:
    path = tmp_path / "mirror.sqlite"
    opened = opened_at(path)
    take(opened, replace(signed(ONE), version="0.2.0"))
    opened.close()
    base = sqlite3.connect(path)
    (data,) = base.execute("SELECT report FROM endpoints").fetchone()
    assert set(unpack(data, what="report", limit=10**4)) == {  # type: ignore[call-overload]
        *("id", "role", "site", "products", "orders", "age_s", "is_connected", "lease_s")
    }
    base.execute("INSERT OR REPLACE INTO endpoints VALUES (?, ?, ?)", (ONE, 200, data))
    base.commit()
    base.close()
    assert kept(path) == {ONE: (200, "1.0")}


def test_whom_version_0_1_has_kept_is_heard_anew_and_goes_with_a_ban(tmp_path: Path) -> None:
    path = tmp_path / "mirror.sqlite"
    opened = opened_at(path)
    take(opened, report(ONE), report(TWO))
    opened.close()
    base = sqlite3.connect(path)
    base.execute("DELETE FROM proofs")
    base.commit()
    base.close()
    again = opened_at(path)
    assert take(again, report(ONE, "2.0"), now=200) == [ONE]
    again.forget_senders(lambda peer: peer == TWO)
    assert again.all() == [ONE]
    again.close()


def test_a_report_of_very_many_products_is_cut_to_what_every_mirror_takes() -> None:
    products = tuple(
        ProductHealth(f"product-{number}", "1.0", "ab" * 32, "idle", "d" * 400)
        for number in range(256)
    )
    large = replace(report(ONE), products=products)
    cut = bounded(large)
    assert 0 < len(cut.products) < 256
    assert cut.products[0].product == "product-0"
    assert size_of(replace(cut, signature=bytes(64), certificate=bytes(1024))) < REPORT_BYTES_MAX
    assert bounded(report(ONE)) == report(ONE)


def test_reports_leave_in_frames_that_delay_no_order(tmp_path: Path) -> None:
    reports = [report(PeerId(f"{number:032x}")) for number in range(1500)]
    parts = in_parts(reports)
    assert [one for part in parts for one in part] == reports
    assert max(len(encode_message(Health(part))) for part in parts) < BULK_FRAME_BYTES + 64
