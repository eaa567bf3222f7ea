"""What a node decides, mirror or endpoint: messages in, effects out."""
