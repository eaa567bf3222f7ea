"""One product on this endpoint: staged, switched, checked, taken back."""
