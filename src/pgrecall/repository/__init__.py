"""What stored bytes mean: envelope, packs, maps, commits, keys."""
