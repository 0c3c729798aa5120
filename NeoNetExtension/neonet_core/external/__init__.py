"""`neonet evaluate`: a bundle on an external cohort, what a batch has found against what is known."""
