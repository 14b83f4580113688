"""Measurements that anyone can repeat: `pixelprune bench`."""
