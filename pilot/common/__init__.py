"""Error codes, exceptions and the error list: what every other room speaks."""
