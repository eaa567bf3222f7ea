"""The brake: signed orders, the set of them, and what they deny."""
