"""The PilotDB: what the pilot knows, on disk, so that a killed pilot loses nothing."""
