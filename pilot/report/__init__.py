"""Views of the PilotDB for people: status on the terminal, one HTML page per job."""
