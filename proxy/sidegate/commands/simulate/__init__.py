"""The command `simulate`: replay an access log through the policies."""
