"""What a keep mask means: for a sequence of tokens, and for the patches of an image processor. Torch, but no model."""
