"""Reports and receipts of endpoints, and how much each is worth."""
