"""Stand-ins for the disk, the clock and the threads, driven by hand, for batpak's tests and for yours."""
