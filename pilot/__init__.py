"""The PanDA Pilot 2: fetches jobs from a PanDA server, runs them on this node, and reports."""
