"""Set objectives inside other people's trainers: TRL in a package, a page for each other (docs/integrations.md)."""
