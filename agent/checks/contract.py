"""What a check answers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One answer. `detail`: one line for a person, empty when well."""

    is_well: bool
    detail: str = ""
