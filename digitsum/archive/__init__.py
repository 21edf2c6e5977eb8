"""What images and scores are at rest: schemas, shards, reading, writing, importing, composing."""
