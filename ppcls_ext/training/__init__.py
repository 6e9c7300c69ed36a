"""Training, evaluation and inference with what PaddleClas builds: the loop, the recipe, checkpoints, observers."""
