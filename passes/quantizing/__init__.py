"""From a float network to a QDQ one: ranges, quantizers, and what makes them err less."""
