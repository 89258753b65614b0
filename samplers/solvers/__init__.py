"""Solvers with fixed steps: predictors, exponential, Runge–Kutta and stochastic methods."""
