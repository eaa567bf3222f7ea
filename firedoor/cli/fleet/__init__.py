"""Keys, enrolment, and who may publish what."""
