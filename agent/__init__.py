"""What every endpoint runs."""
