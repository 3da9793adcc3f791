"""Hold the recipes that come with the package, one TOML file an image."""
