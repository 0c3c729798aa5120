"""`neonet batch`: a cohort through a bundle, unattended, with nothing lost and nothing done twice."""
