"""Torch: the nouns of a model, the parts it is made of, the one forward pass and the one training loop."""
