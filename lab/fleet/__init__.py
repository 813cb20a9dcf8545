"""The fleet: thousands of UEs in a few processes, by plan, with figures that several processes can add up.

::

    lab fleet ── control ──┬── lab fleet serve (UEs 0, 2, 4, …) ── IKE, ESP ── gateway
                           └── lab fleet serve (UEs 1, 3, 5, …) ── IKE, ESP ──┘

``subscribers`` who they are, ``mix`` what they are, ``schedule`` and ``plan`` what they do and when, ``engine`` and
``member`` the UEs of one process, ``figures`` and ``metrics`` what came of it, ``processes`` and ``run`` the whole.
"""
