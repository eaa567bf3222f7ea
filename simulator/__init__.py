"""A site in one process and in virtual time: the cores of the programs on a small network."""
