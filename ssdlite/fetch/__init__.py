"""Downloads, verified by their SHA-256: archives over HTTP, packages by their registries' own clients."""
