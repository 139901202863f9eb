"""Stage-in, outputs, stage-out and the log archive of a job."""
