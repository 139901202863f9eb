"""What ``-w`` starts: the steps from a parsed command line to the exit code."""
