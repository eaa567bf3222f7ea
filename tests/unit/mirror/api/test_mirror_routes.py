"""Who may ask a mirror for what, over real mTLS."""

from typing import Any, cast

import pytest

from firedoor.errors import Denied
from firedoor.identity import Peer, PeerId, Role
from firedoor.runtime.keys.authority import make_request
from mirror.api.enrolment_routes import forward_routes
from mirror.api.stick_routes import StickApi
from tests.unit.firedoor.runtime.network.test_transfers import (
    AGENT,
    AGENT_SEED,
    EXPIRED,
    Fake,
    credentials,
    run,
    site,
)

OPERATOR_SEED, OTHER_SEED = b"\5" * 32, b"\6" * 32
OPERATOR = credentials(OPERATOR_SEED, Role.OPERATOR)
OLD_OPERATOR = credentials(OPERATOR_SEED, Role.OPERATOR, age_days=800)
MIRROR = credentials(OPERATOR_SEED, Role.MIRROR)


OF_A_RELEASE = ("manifest", "piece", "whole")


class Enroller:
    """Renews whatever the route lets through."""

    ca = b"ca"

    async def enrol(self, body: bytes) -> bytes:
        return body

    async def renew(self, body: bytes, asker: Peer, shown: bytes = b"") -> bytes:
        return asker.role.value.encode()


def is_banned(peer: PeerId) -> bool:
    return peer == "banned"


@pytest.mark.parametrize(
    ("who", "seed"),
    [
        (AGENT, AGENT_SEED),
        (EXPIRED, AGENT_SEED),
        (OLD_OPERATOR, OPERATOR_SEED),
        (MIRROR, OTHER_SEED),
        (OPERATOR, OTHER_SEED),
    ],
    ids=["own", "own, run out", "own of a person, run out", "by a mirror", "by a person"],
)
def test_a_certificate_is_renewed_by_its_own_or_carried_by_a_mirror_or_a_person(
    who: Any, seed: bytes
) -> None:
    async def story() -> None:
        async with site(Fake(), agent=who, more=forward_routes(Enroller(), is_banned)) as one:
            assert await one.post("/v1/renew", make_request(seed))

    run(story())


@pytest.mark.parametrize("who", [AGENT, OLD_OPERATOR], ids=["an agent", "a person past its dates"])
def test_nobody_else_carries_another_s_request(who: Any) -> None:
    async def story() -> None:
        async with site(Fake(), agent=who, more=forward_routes(Enroller(), is_banned)) as one:
            with pytest.raises(Denied, match="asker's own key"):
                await one.post("/v1/renew", make_request(OTHER_SEED))

    run(story())


@pytest.mark.parametrize(
    ("who", "wanted"),
    [(AGENT, "role operator"), (MIRROR, "role operator"), (OLD_OPERATOR, "within its dates")],
    ids=["an agent", "a mirror", "a person past its dates"],
)
def test_a_stick_docks_for_operators_alone(who: Any, wanted: str) -> None:
    # Whoever is refused gets no further than the certificate.
    api = StickApi(cast("Any", None), cast("Any", None))
    manifest = "ab" * 32

    async def story() -> None:
        async with site(Fake(), agent=who, more=api.routes()) as one:
            for path in ("/v1/stick", f"/v1/stick/missing/{manifest}"):
                with pytest.raises(Denied, match=wanted):
                    await one.get(path)
            for name in ("", "/metadata", *(f"/{each}/{manifest}" for each in OF_A_RELEASE)):
                with pytest.raises(Denied, match=wanted):
                    await one.post(f"/v1/stick{name}", b"")

    run(story())
