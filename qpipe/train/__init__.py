"""Training on the graph itself: the executor, its quantizers with gradients, the loop and the methods."""
