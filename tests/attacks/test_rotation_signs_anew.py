"""`firedoor keys rotate` signs anew what people had signed with the old keys, and no more."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from firedoor.cli.client.origin import Origin
from firedoor.cli.fleet import rotation
from firedoor.halt.envelope import Envelope, Signature
from firedoor.halt.order import ResumePayload
from firedoor.runtime.keys.key_files import read_public
from firedoor.wire.codec import encode
from tests.attacks.ground import Ground, Table, firedoor, ground, until

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Ground]:
    with ground(tmp_path / "ground") as made:
        made.publish("kiosk", "1.0")
        yield made


def orders(site: Ground) -> list[Table]:
    said = firedoor("status", "--json", "--key", site.key("operator"), "--to", site.origin.address)
    assert said.code == 0, said.err
    return list(json.loads(said.out)["orders"])


def in_force(site: Ground) -> list[str]:
    """The reasons of all orders that are."""
    return sorted(each["reason"] for each in orders(site) if each.get("is_in_force"))


def test_a_revoked_key_s_orders_stay_ended_when_the_keys_are_turned(site: Ground) -> None:
    """deploy/README.md, Stolen keys, halt: revoke it, then `keys rotate halt`."""
    thief = read_public(site.key("halt-1")).keyid
    site.halt("kiosk", 4, "by the thief")
    assert in_force(site) == ["by the thief"]
    keys = ("--key", site.key("resume-1"), "--key", site.key("resume-2"))
    at = ("--to", site.origin.address, "--wait", 5)
    said = firedoor("revoke", thief, "--reason", "stolen", *keys, *at)
    assert said.code == 0, said.err
    until("it is ended", lambda: in_force(site) == [])
    said = firedoor("keys", "rotate", "halt", "--fleet", site.fleet)
    assert said.code == 0, said.err
    # So long nothing may come back.
    time.sleep(2)
    assert in_force(site) == [], said.out


def test_nothing_is_signed_anew_that_nobody_had_signed(
    site: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers for the origin while keys are turned says which orders there are."""
    halt = site.halt("kiosk", 4, "a real one")
    real = Origin.orders

    async def hostile(origin: Origin) -> list[bytes]:
        held = await real(origin)
        lifted = (bytes.fromhex(halt),)
        payload = ResumePayload(1, os.urandom(16), lifted, int(time.time()), "forged")
        unsigned = (Signature("a" * 64, bytes(64)),)
        return [*held, encode(Envelope("resume", encode(payload), unsigned))]

    monkeypatch.setattr(Origin, "orders", hostile)
    rotation.rotate(site.fleet, rotation.RotationRequest("resume", 0, 0, ()), None)
    # So long the halt may not be lifted.
    time.sleep(3)
    assert in_force(site) == ["a real one"]
