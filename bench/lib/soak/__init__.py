"""What bench/soak is made of; bench/soak puts it together."""
