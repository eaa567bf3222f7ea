"""Halts, resumes and the other signed orders, from a person's words to their attestation."""
