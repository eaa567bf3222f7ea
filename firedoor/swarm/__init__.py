"""Who fetches which piece from whom."""
