"""Stand-ins for the disk that remember what is durable and fail on demand, for batpak's tests and for yours."""
