"""A mirror that no network joins to its fleet."""
