"""The mirror: relays signed releases, orders and beacons; without an upstream it is the origin."""
