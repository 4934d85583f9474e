"""How well the car drove: the closed-loop runner, step log, metrics, data recording and reports."""
