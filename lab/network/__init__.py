"""The laboratory's networks as pure machines (impairments, NATs, accesses): time and random source come in."""
