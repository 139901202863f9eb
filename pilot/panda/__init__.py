"""The PanDA server: transport, two dialects behind one interface, messages, commands, credentials."""
