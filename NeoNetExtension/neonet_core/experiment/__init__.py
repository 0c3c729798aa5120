"""A training run: the stages of each fold, what went into them, what came out."""
