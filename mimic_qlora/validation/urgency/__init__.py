"""Urgency from outcomes: emergencies told from other visits, beside the nurse and simple models."""
