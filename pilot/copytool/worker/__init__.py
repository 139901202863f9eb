"""The other side of ``pilot.util.helper``: what runs in a helper process, one module per client library."""
