"""From settings to open things: the storage, the repository, one cluster's store in it, this host's state directory."""
