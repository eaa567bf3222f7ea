"""`firedoor demo`: a fleet of real processes on this machine."""
