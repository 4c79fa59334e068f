"""Errors, seeding, configuration, exact resume and run records: what every room of the house stands on."""
