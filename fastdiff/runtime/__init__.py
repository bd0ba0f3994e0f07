"""The floor that runs plans: denoisers, the executor, states that can be saved, CUDA graphs."""
