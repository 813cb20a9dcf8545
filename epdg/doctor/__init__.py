"""``epdg doctor``: what the gateway needs of this machine, asked for before it starts.

Nothing is changed: ports are bound and let go of, a device without a name is made and closed, a packet filter is tried
out. What a configuration does not need is told all the same, and is no failure.
"""
