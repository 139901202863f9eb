"""Real grid services on the loopback interface, for tests, demos and people (docs/grid-testbed.md).

::

    pki ─────────► xrootd_gsi ──┐
    xrootd (root://, http://) ──┼─► rucio ◄── postgres
    s3 (moto)                   │     └─────► stomp (where its traces end)
                                └ RSEs TB_POSIX TB_XROOTD TB_GFAL TB_HTTP TB_DAVS TB_GSI TB_XGSI

One module per service; each takes a directory, finds free ports itself, and has ``start``, ``stop`` and ``env``.
"""
