"""From a trained QDQ network to the final one, and to the formats that ship."""
