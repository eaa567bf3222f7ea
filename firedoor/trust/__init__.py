"""Who may say what: python-tuf's metadata wrapped, Ed25519 by PyNaCl."""
