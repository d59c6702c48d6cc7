"""Where images come from: shards and single images -> (shard, index, image_id, bytes)."""
