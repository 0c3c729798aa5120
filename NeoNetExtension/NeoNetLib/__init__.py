"""The glue that the NeoNet modules share: MRML nodes <-> files, background jobs, models, the installation."""
