"""The boot guard: the standard library alone, whatever is broken in the rest."""
