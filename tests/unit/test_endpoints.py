"""What a mirror remembers of its endpoints' own words."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from firedoor.identity import Peer, PeerId, Role
from firedoor.units import UnixTime
from firedoor.wire.messages import ProductHealth, Report
from mirror import endpoints
from mirror.endpoints import Endpoints, believable

ONE, TWO = PeerId("1" * 32), PeerId("2" * 32)
MIRROR = PeerId("f" * 32)


def report(peer: PeerId, version: str = "1.0") -> Report:
    product = ProductHealth("kiosk", version, "ab" * 32, "idle")
    return Report(peer, "agent", "branch", (product,), ())


def kept(path: Path) -> dict[str, tuple[int, str]]:
    """When each endpoint was heard, and what it runs, as another process would read it."""
    opened = Endpoints(path)
    rows = opened.table((), ())
    opened.close()
    return {row["id"]: (row["seen_at"], row["products"][0]["version"]) for row in rows}


def test_the_newest_report_of_each_endpoint_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "mirror.sqlite"
    opened = Endpoints(path)
    opened.take([report(ONE), report(TWO)], MIRROR, UnixTime(100))
    opened.take([report(ONE, "2.0")], MIRROR, UnixTime(200))
    opened.close()
    assert kept(path) == {ONE: (200, "2.0"), TWO: (100, "1.0")}


def test_who_was_enrolled_and_never_heard_of_is_shown_as_silent(tmp_path: Path) -> None:
    opened = Endpoints(tmp_path / "mirror.sqlite")
    opened.take([report(ONE)], MIRROR, UnixTime(100))
    opened.lost(MIRROR, UnixTime(100))
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
    monkeypatch.setattr(endpoints, "ENDPOINTS_MAX", 1)
    path = tmp_path / "mirror.sqlite"
    opened = Endpoints(path)
    opened.take([report(ONE), report(TWO)], MIRROR, UnixTime(100))
    opened.take([report(ONE, "2.0")], MIRROR, UnixTime(200))
    opened.close()
    assert kept(path) == {ONE: (200, "2.0")}


def test_a_row_that_cannot_be_read_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "mirror.sqlite"
    opened = Endpoints(path)
    opened.take([report(ONE), report(TWO)], MIRROR, UnixTime(100))
    opened.close()
    base = sqlite3.connect(path)
    base.execute("UPDATE endpoints SET report = x'c1' WHERE id = ?", (ONE,))
    base.commit()
    base.close()
    assert set(kept(path)) == {TWO}


def test_a_file_that_is_no_database_does_not_stop_a_mirror(tmp_path: Path) -> None:
    path = tmp_path / "mirror.sqlite"
    path.write_bytes(b"no database" * 100)
    opened = Endpoints(path)
    opened.take([report(ONE)], MIRROR, UnixTime(100))
    assert [each.id for each in opened.reports(UnixTime(100))] == [ONE]
    opened.close()


def test_a_report_that_is_passed_on_keeps_its_age(tmp_path: Path) -> None:
    below, above = Endpoints(tmp_path / "below.sqlite"), Endpoints(tmp_path / "above.sqlite")
    below.take([report(ONE)], MIRROR, UnixTime(100))
    above.take(below.reports(UnixTime(460)), MIRROR, UnixTime(5000))
    assert above.table((), ())[0]["seen_at"] == 5000 - 360
    below.close()
    above.close()


def test_an_endpoint_that_is_gone_is_passed_on_as_gone(tmp_path: Path) -> None:
    below, above = Endpoints(tmp_path / "below.sqlite"), Endpoints(tmp_path / "above.sqlite")
    below.take([report(ONE)], MIRROR, UnixTime(100))
    above.take(below.reports(UnixTime(100)), MIRROR, UnixTime(100))
    assert above.table((), ())[0]["is_connected"]
    above.take(below.lost(MIRROR, UnixTime(101)), MIRROR, UnixTime(101))
    assert not above.table((), ())[0]["is_connected"]
    assert below.lost(TWO, UnixTime(101)) == ()
    below.close()
    above.close()


def test_an_endpoint_reports_only_itself_and_from_its_certificates_site() -> None:
    agent = Peer(ONE, Role.AGENT, "hangar")
    lie = replace(report(ONE), site="elsewhere", role="mirror", age_s=9, is_connected=False)
    (taken,) = believable((report(TWO), lie, lie), agent, is_upstream=False)
    assert taken == replace(report(ONE), site="hangar")
    assert believable((report(TWO),), agent, is_upstream=False) == ()


def test_a_mirror_reports_whom_it_has_below_it_and_nobody_above() -> None:
    mirror = Peer(MIRROR, Role.MIRROR, "branch")
    reports = (report(ONE), report(TWO))
    assert believable(reports, mirror, is_upstream=False) == reports
    assert believable(reports, mirror, is_upstream=True) == ()


def test_an_operator_reports_nobody() -> None:
    operator = Peer(ONE, Role.OPERATOR, "branch")
    assert believable((report(ONE),), operator, is_upstream=False) == ()


def test_all_whom_a_lost_mirror_spoke_for_are_gone(tmp_path: Path) -> None:
    opened = Endpoints(tmp_path / "mirror.sqlite")
    opened.take([report(ONE)], MIRROR, UnixTime(100))
    opened.take([report(TWO)], TWO, UnixTime(100))
    opened.lost(MIRROR, UnixTime(101))
    assert [row["is_connected"] for row in opened.table((), ())] == [False, True]
    opened.close()
