"""Key files, certificates and TLS."""
