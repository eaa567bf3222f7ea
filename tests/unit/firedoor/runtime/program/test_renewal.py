"""Which certificates a machine takes for its own next one."""

import pytest

from firedoor.errors import FiredoorError, Untrusted
from firedoor.identity import Role
from firedoor.runtime.keys.authority import issue, make_authority, make_request
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.runtime.program.renewal import checked_renewal, is_past_half
from firedoor.units import UnixTime

NOW = UnixTime(1_800_000_000)
DAY = 86400
CA_SEED, FORGED_SEED, MINE, OTHER = (bytes([number]) * 32 for number in range(1, 5))
CA = make_authority("fleet", CA_SEED, NOW)
FORGED = make_authority("fleet", FORGED_SEED, NOW)


def certificate(
    seed: bytes = MINE,
    *,
    ca: bytes = CA,
    ca_seed: bytes = CA_SEED,
    role: Role = Role.AGENT,
    days: int = 0,
) -> bytes:
    """One that was issued `days` after the first."""
    return issue(
        make_request(seed),
        ca_pem=ca,
        ca_seed=ca_seed,
        role=role,
        site="branch",
        now=UnixTime(NOW + days * DAY),
    )


KEY = KeyFile(
    role="agent",
    name="n",
    fleet="f",
    keyid="k",
    public="p",
    secret=(bytes(32) + MINE).hex(),
    certificate=certificate().decode(),
    ca=CA.decode(),
)


def test_the_next_certificate_of_the_same_key_is_taken() -> None:
    offered = certificate(days=4)
    assert checked_renewal(KEY, offered, NOW) == offered.decode()


@pytest.mark.parametrize(
    "offered",
    [
        certificate(ca=FORGED, ca_seed=FORGED_SEED, days=4),
        certificate(OTHER, days=4),
        certificate(role=Role.MIRROR, days=4),
        certificate(days=-4),
    ],
    ids=["forged authority", "another key", "another role", "ends earlier"],
)
def test_a_certificate_that_would_cost_the_machine_its_place_is_refused(offered: bytes) -> None:
    with pytest.raises(Untrusted):
        checked_renewal(KEY, offered, NOW)


@pytest.mark.parametrize("tail", [b"\xff", "é".encode()])
@pytest.mark.parametrize("head", [b"", certificate(days=4)])
def test_bytes_that_are_no_text_are_refused(head: bytes, tail: bytes) -> None:
    with pytest.raises(FiredoorError):
        checked_renewal(KEY, head + tail, NOW)


def test_a_certificate_is_renewed_from_half_of_its_life_on() -> None:
    mine = certificate()
    assert not is_past_half(mine, NOW)
    assert not is_past_half(mine, UnixTime(NOW + 3 * DAY))
    assert is_past_half(mine, UnixTime(NOW + 4 * DAY))
    assert is_past_half(mine, UnixTime(NOW - 30 * DAY))
