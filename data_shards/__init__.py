"""Footage in, clips out: source readers, shards with a manifest, the read plan and the stream."""
