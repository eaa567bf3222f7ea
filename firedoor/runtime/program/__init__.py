"""What every daemon does around its work."""
