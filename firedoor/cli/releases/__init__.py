"""Publishing a release, and listing what is published."""
