"""From a path or a live object to a checkpoint of lazy tensors. Reads headers, and a few numbers to prove a manifest."""
