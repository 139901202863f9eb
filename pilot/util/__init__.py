"""Leaves: small functions that know nothing of jobs, queues or threads."""
