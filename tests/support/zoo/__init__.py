"""Small networks by what they are good for."""
