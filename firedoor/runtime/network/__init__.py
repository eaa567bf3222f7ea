"""Ports, connections, discovery, and how fast all of it may be."""
