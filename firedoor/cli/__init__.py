"""The operator's and publisher's command."""
