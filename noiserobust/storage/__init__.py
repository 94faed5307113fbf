"""What lies on disk: trained networks, rows of results and which network they belong to, files whole or not at all."""
