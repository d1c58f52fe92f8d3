"""What several tests share: small networks, the way from them to integers, oracles, and runs made by hand."""
