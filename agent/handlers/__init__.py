"""How a release is installed, by kind."""
