"""What a mirror sends down, whatever comes from above: frames that an honest endpoint takes."""

from firedoor.errors import Refused
from firedoor.halt.merkle import LEFT, climb
from firedoor.halt.nonces import NonceRelay
from firedoor.identity import PeerId
from firedoor.limits import PATH_STEPS_MAX
from firedoor.units import Instant, Span
from firedoor.wire.messages import LeaseGiven, decode_message, encode_message

ENDPOINTS = [PeerId(digit * 32) for digit in "123"]
NOW = Instant(10.0)


def test_a_lease_whose_path_is_as_long_as_may_be_cuts_no_endpoint_off_its_mirror() -> None:
    relay = NonceRelay(Span(0.0))
    for number, peer in enumerate(ENDPOINTS):
        relay.take(peer, bytes([number]) * 32, NOW, patience=Span(0.0))
    batch = relay.flush(NOW)
    assert batch is not None
    # A mirror above may put as many steps of its own on the way as a path may have.
    path = (LEFT + bytes(32),) * PATH_STEPS_MAX
    try:
        given = relay.answered(climb(batch, path), path)
    except Refused:
        return  # So no endpoint hears of it.
    for _, steps in given:
        decode_message(encode_message(LeaseGiven(b"signed", steps)))
