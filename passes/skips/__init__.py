"""Skip connections taken out of a network, or put in."""
