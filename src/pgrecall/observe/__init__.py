"""What a running service tells: progress, notes and warnings. Services emit; cli listens."""
