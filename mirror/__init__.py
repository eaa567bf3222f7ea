"""The mirror: relays releases, orders and beacons; with the fleet's online keys, the origin."""
