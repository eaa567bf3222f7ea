"""The host of a node: it carries out effects and feeds back what the world answers."""
