"""How commands talk to mirrors and to the origin, and read what those say."""
