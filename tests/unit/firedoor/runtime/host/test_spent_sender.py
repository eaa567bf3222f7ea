"""A sender of forged orders is read no further once it is spent."""

from firedoor.effects import Drop
from firedoor.identity import PeerId
from firedoor.limits import REFUSALS_MAX
from firedoor.units import Instant
from firedoor.wire.messages import Orders
from tests.transcripts.harness import World


def test_a_frame_of_forged_orders_is_left_when_its_sender_is_spent() -> None:
    world = World()
    for command in ("node mirror mirror origin", "node liar agent", "connect liar mirror"):
        world.play(command)
    world.play("deliver")
    node, liar = world._nodes["mirror"], PeerId(world._peers["liar"].id)
    effects = node.receive(Orders((b"junk",) * (3 * REFUSALS_MAX)), liar, Instant(0.0))
    assert sum(node.refusals.values()) == REFUSALS_MAX
    assert [each.peer for each in effects if isinstance(each, Drop)] == [liar]
