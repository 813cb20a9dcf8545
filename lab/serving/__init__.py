"""``lab serve``: the laboratory as a node, which plays schedules for whoever asks over its control socket.

``run`` is what is told of a run, ``queue`` the machine that decides which one is next, ``player_process`` the process
that plays it (``python -m lab.serving.worker``), ``laboratory`` what puts them together, ``catalogue`` what can be
played and where, ``control`` the methods, ``config`` and ``node`` the rest of a node.
"""
