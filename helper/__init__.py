"""firedoor-helper: what an agent that is not root may ask of root, and nothing else.

It takes no orders: which users, folders and spans there are stands in /etc/firedoor/helper.toml,
which is root's. Standard library only.
"""
