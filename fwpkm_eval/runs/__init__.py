"""What a run leaves behind: rows, cells, the manifest, and the intervals beside every rate."""
