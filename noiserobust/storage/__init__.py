"""Files on disk: trained networks, rows of results and the network they belong to; written whole or not at all."""
