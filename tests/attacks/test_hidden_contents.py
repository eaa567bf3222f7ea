"""Whoever lifts or keeps a halt is shown all that it stops, the contents that it names, too.

The thief of one halt key names a release that there never was, and beside it the bytes of one that
runs everywhere: the first is what people are shown.
"""

import json
import os
import time
from pathlib import Path

import pytest

from firedoor.cli.orders.order_file import FORMAT, OrderFile
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.wire.codec import encode
from tests.attacks.ground import Ground, firedoor, ground, until

pytestmark = pytest.mark.slow


def content_of(site: Ground, release: str) -> str:
    """The content digest of a release, as `show` says it."""
    said = firedoor("show", release, "--json", "--key", site.key("operator"))
    assert said.code == 0, said.err
    return str(json.loads(said.out)["content"])


def is_halted(site: Ground, release: str) -> bool:
    """Whether the origin's status has this release at a level."""
    said = firedoor("status", "--json", "--key", site.key("operator"))
    assert said.code == 0, said.err
    rows = json.loads(said.out)["releases"]
    return any(f"{row['product']}=={row['version']}" == release and row["level"] for row in rows)


def test_a_second_signer_is_shown_the_contents_that_a_halt_names(tmp_path: Path) -> None:
    with ground(tmp_path) as site:
        site.publish("kiosk", "1.0")
        content = content_of(site, "kiosk==1.0")
        key = read_key_file(site.key("halt-1"), str)
        contents = (bytes.fromhex(content),)
        now = int(time.time())
        payload = HaltPayload(1, os.urandom(16), "gone==0", 6, now, "a test", contents)
        seeds = {key.keyid: key.signing_seed}
        order, record = seal("halt", payload, fleet=FleetId(key.fleet), keys=seeds)
        file = tmp_path / "orders"
        file.write_bytes(encode(OrderFile(FORMAT, key.fleet, (record,))))
        to = ("--to", site.origin.address)
        given = firedoor("order", "import", file, "--key", site.key("halt-1"), *to)
        assert given.code == 0, given.err
        until("the kiosk is halted", lambda: is_halted(site, "kiosk==1.0"))
        words = ("--reason", "false alarm", "--key", site.key("resume-1"))
        signed = firedoor("resume", order.hex(), *words, "--sign-only", tmp_path / "part", *to)
        assert signed.code == 0, signed.err
        assert "kiosk" in signed.text or content[:12] in signed.text
