"""The command `simulate`: replays an access log through the policies."""
