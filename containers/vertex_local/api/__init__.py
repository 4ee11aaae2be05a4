"""How requests arrive: REST and gRPC, both onto the same methods."""
