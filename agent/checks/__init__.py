"""How an endpoint finds out whether what runs is well."""
