"""Virtual time: the nodes' real code in one process, on a loop whose clock jumps, over an emulated network."""
