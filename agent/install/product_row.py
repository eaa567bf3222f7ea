"""What a status shows of one product: its health, and what the demo counts."""

from dataclasses import asdict, dataclass

from agent.decisions.lifecycle import Phase
from firedoor.wire.messages import ProductHealth


@dataclass(slots=True)
class Counts:
    """What has happened to one product since the agent's start."""

    activations: int = 0
    activations_after_receipt: int = 0
    rolled_back: int = 0


def row_of(health: ProductHealth, counts: Counts) -> dict[str, object]:
    """A product's part of `firedoor-agent status`."""
    return {**asdict(health), **asdict(counts)}


def idle_row(product: str, detail: str) -> dict[str, object]:
    """The part of a product that cannot be followed, and why."""
    return row_of(ProductHealth(product, "", "", Phase.IDLE.value, detail[:400]), Counts())
