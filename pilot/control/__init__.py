"""The control components: job, data, payload, monitor, and the life cycle that they carry out."""
