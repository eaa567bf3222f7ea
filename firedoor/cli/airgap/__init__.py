"""Sites that no network joins to their fleet: what a stick carries."""
