"""The HTTP of a mirror beside what every peer serves."""
