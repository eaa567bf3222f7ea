"""What an endpoint decides about a product: pure, so that a simulator can run it."""
