"""For other programs: what the pilot can do for them, without a running pilot and without a PanDA server."""
