"""Bytes to records and back: msgpack, strict, capped before anything is allocated."""
