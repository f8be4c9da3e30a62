"""What a fused update cannot honour: found, and told."""
