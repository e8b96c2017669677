"""Verify: reading every stored byte, and proving that each backup can be assembled from them."""
