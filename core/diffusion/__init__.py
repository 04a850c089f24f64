"""Equations that need no model: noise schedule, segments, dual guidance (Eq. 3) and region blending."""
