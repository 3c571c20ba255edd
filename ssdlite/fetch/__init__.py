"""What comes over a network: archives of data sets by HTTP, packages by the clients of their registries."""
