"""Sockets, files, clocks and dice: everything that acts, shared by all programs."""
