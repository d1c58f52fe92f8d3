"""What a network costs: multiply-accumulates, parameters, memory, bytes on the disk."""
