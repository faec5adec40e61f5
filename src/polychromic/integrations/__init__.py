"""Set objectives inside other people's trainers: a package or a page for each (docs/integrations.md)."""
