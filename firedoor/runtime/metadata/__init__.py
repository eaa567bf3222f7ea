"""Signed metadata: where it comes from, how it is checked, what it names."""
