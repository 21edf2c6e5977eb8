"""Archives at rest: shards, images, labels and scores, read and written without torch or Ray."""
