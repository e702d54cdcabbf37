"""Several coordinators under load, for minutes, while they and their database are killed."""
