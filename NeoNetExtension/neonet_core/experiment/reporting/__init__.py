"""`neonet report`: the tables, curves, pictures and checklists of a training run."""
