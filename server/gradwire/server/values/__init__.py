"""Small values that every floor of the server may use: access levels, rows, clock, principals."""
