"""What is moved: manifests, pieces, and who holds which."""
