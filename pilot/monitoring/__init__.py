"""What the pilot measures: processes, CPU time, the node, space. Checks know nothing of threads and queues."""
