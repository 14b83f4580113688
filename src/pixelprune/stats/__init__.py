"""What pruning would save on many images, without a model: `pixelprune stats`."""
