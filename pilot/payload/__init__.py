"""Running the payload: its command, its process tree, its end, and what was the cause when it failed."""
