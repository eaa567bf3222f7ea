"""A site in one process and in virtual time: the cores that run in the programs, a small network."""
