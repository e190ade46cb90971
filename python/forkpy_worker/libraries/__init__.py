"""Libraries fitted to a session, and what stands in for IPython where it is missing."""
