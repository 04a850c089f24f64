"""Preference studies: people compare methods, TrueSkill rates them."""
