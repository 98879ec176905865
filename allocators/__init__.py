"""Upload allocation: arrays in, arrays out."""
